"""Text of a given form: by a regular expression or a JSON schema, through the `llguidance` library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom.errors import UserError
from genloom.text.tokenizer import Tokenizer


class Form:
    """What tokens keep a row's text within a form. Raises UserError when the form cannot be read or met."""

    def __init__(self, matcher: Any, size: int, end: int):
        self.matcher, self.size, self.end = matcher, size, end
        self.words = np.zeros((1, (size + 31) // 32), np.int32)

    def allowed(self) -> Tensor:
        """[V] bool: the tokens that may come next; the end alone where nothing may."""
        if self.matcher.is_stopped():
            return torch.arange(self.size) == self.end
        self.matcher.unsafe_compute_mask_ptr(self.words.ctypes.data, self.words.nbytes)
        self._check()
        bits = np.unpackbits(self.words.view(np.uint8), bitorder="little")[: self.size]
        return torch.from_numpy(bits.astype(bool))

    def push(self, token: int) -> None:
        if not self.matcher.is_stopped():
            self.matcher.consume_token(token)
            self._check()

    def copy(self) -> Form:
        return Form(self.matcher.deep_copy(), self.size, self.end)

    def _check(self) -> None:
        if self.matcher.is_error():
            raise UserError(f"The form cannot be kept to: {self.matcher.get_error().splitlines()[0]}.")


def form(tokens: Tokenizer, *, pattern: str | None = None, schema: str | Mapping[str, Any] | None = None) -> Form:
    """The form of a regular expression, or of a JSON schema (its text, or a table)."""
    lib = library()
    if (pattern is None) == (schema is None):
        raise UserError("Give a pattern or a schema, one of them.")
    if pattern is not None:
        grammar = lib.LLMatcher.grammar_from_regex(pattern)
    else:
        grammar = lib.LLMatcher.grammar_from_json_schema(checked(schema), overrides={"whitespace_flexible": False})
    matcher = lib.LLMatcher(lib.LLTokenizer(lib.TokenizerWrapper(Words(tokens))), grammar, log_level=0)
    if matcher.is_error():
        what = "pattern" if pattern is not None else "JSON schema"
        raise UserError(f"This {what} cannot be met: {matcher.get_error().splitlines()[0]}.")
    return Form(matcher, tokens.size, tokens.end)


def checked(schema: Any) -> str:
    """A JSON schema as text. Raises UserError for what is none."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise UserError(f"This is no JSON schema, for it is no JSON: {error}.") from None
    if not isinstance(schema, Mapping | bool):
        raise UserError(f"A JSON schema is an object, and this is {type(schema).__name__}.")
    return json.dumps(schema)


class Words:
    """Our tokenizers as llguidance wants them."""

    bos_token_id = None

    def __init__(self, tokens: Tokenizer):
        self.inner, self.eos_token_id = tokens, tokens.end
        self.tokens = [tokens.piece(i) or f"<|{i}|>".encode() for i in range(tokens.size)]
        self.special_token_ids = [i for i in range(tokens.size) if not tokens.piece(i)]

    def __call__(self, text: str) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("text alone")  # the library asks which of the two we take
        try:
            return self.inner.encode(text)
        except UserError:
            return []


def library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise UserError("Text of a given form needs the library `llguidance`: pip install 'genloom[text]'.") from None
    return llguidance
