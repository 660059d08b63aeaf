"""Text to numbers and back: characters, bytes, or byte-level pairs (BPE) of a `tokenizer.json`.

Every tokenizer knows one token that ends a document, and each token's own bytes, so that text can be shown as it grows.
"""

from __future__ import annotations

import base64
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genloom.errors import UserError, unknown

END = "<|endoftext|>"


class Tokenizer(ABC):
    """`size` tokens, 0 .. size - 1; `end` closes a document."""

    kind: ClassVar[str]
    size: int
    end: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without an end. Raises UserError for a character that the vocabulary lacks."""

    def array(self, text: str) -> np.ndarray:
        """The same tokens as an array [n], of long texts."""
        return np.array(self.encode(text), np.uint32)

    def known(self, text: str) -> str:
        """The text without the characters that the vocabulary lacks."""
        return text

    @abstractmethod
    def piece(self, token: int) -> bytes:
        """The bytes of one token in UTF-8, which may be part of a character; none for an end."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]: ...

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(self.piece(t) for t in tokens).decode("utf-8", "replace")


MARKS = ("<|im_start|>", "<|im_end|>")  # tokens around a message, in the form that most chat models learn


def chat_marks(tokens: Tokenizer) -> tuple[int, int] | None:
    """The tokens that begin and end a message, of tokenizers that have them."""
    if not isinstance(tokens, Pairs):
        return None
    begin, end = (tokens.inner.token_to_id(t) for t in MARKS)
    return None if begin is None or end is None else (begin, end)


def message(text: str) -> str:
    """What a person says, and the beginning of the answer, in the marks of a chat."""
    begin, end = MARKS
    return f"{begin}user\n{text}{end}\n{begin}assistant\n"


class Characters(Tokenizer):
    """A token a character, in the order given; the end comes last."""

    kind = "characters"

    def __init__(self, characters: str):
        self.characters = characters
        self.number = {c: i for i, c in enumerate(characters)}
        self.end, self.size = len(characters), len(characters) + 1

    def array(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        tokens = np.take(self._table, codes, mode="clip")
        if len(tokens) and tokens.max() == self.size:
            self.encode(text)  # which names the character
        return tokens

    @cached_property
    def _table(self) -> np.ndarray:
        """The token of each code point, and `size` for those that are none; the last is none."""
        table = np.full(max(map(ord, self.characters), default=0) + 2, self.size, np.uint32)
        table[[ord(c) for c in self.characters]] = np.arange(len(self.characters))
        return table

    @classmethod
    def of(cls, texts: Iterable[str]) -> Characters:
        return cls("".join(sorted(set().union(*map(set, texts)))))

    def encode(self, text: str) -> list[int]:
        try:
            return [self.number[c] for c in text]
        except KeyError as error:
            raise UserError(
                f"The character {error.args[0]!r} is not among the {len(self.characters)} that this model learnt: leave "
                "it out, or fit with --data.tokenizer byte, which knows every text."
            ) from None

    def known(self, text: str) -> str:
        return "".join(c for c in text if c in self.number)

    def piece(self, token: int) -> bytes:
        return b"" if token == self.end else self.characters[token].encode()

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters}


class Bytes(Tokenizer):
    """A token a byte of UTF-8; the end is 256."""

    kind, end, size = "byte", 256, 257

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def array(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8)

    def piece(self, token: int) -> bytes:
        return b"" if token == self.end else bytes([token])

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


class Pairs(Tokenizer):
    """Byte-pair encoding by the `tokenizers` library, from the text of a tokenizer.json. Raises UserError for another."""

    kind = "bpe"

    def __init__(self, text: str, end: int | None = None):
        try:
            self.inner = library().Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"This tokenizer.json cannot be read: {error}.") from None
        self.size = self.inner.get_vocab_size()
        self.special = {i: token.content for i, token in self.inner.get_added_tokens_decoder().items()}
        self.end = self._find_end() if end is None else end

    @classmethod
    def train(cls, texts: Iterator[str], size: int) -> Pairs:
        """Byte-level pairs learnt from texts, `size` tokens with the end, which is token 0."""
        lib = library()
        inner = lib.Tokenizer(lib.models.BPE())
        inner.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = lib.decoders.ByteLevel()
        alphabet = lib.pre_tokenizers.ByteLevel.alphabet()
        trainer = lib.trainers.BpeTrainer(
            vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner.to_str())

    @classmethod
    def of_gpt2(cls, vocabulary: Path, merges: Path) -> Pairs:
        """GPT-2's two files: vocab.json (or encoder.json) and merges.txt (or vocab.bpe)."""
        lib = library()
        try:
            known = json.loads(vocabulary.read_text("utf-8"))
            lines = [line.split(" ") for line in merges.read_text("utf-8").splitlines()]
            pairs = [(a, b) for a, b in (line for line in lines if len(line) == 2) if a != "#version:"]
            inner = lib.Tokenizer(lib.models.BPE(vocab=known, merges=pairs))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"'{vocabulary}' and '{merges}' are not GPT-2's vocabulary and merges: {error}.") from None
        inner.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = lib.decoders.ByteLevel()
        inner.add_special_tokens([END])
        return cls(inner.to_str())

    def _find_end(self) -> int:
        names = (END, "<|im_end|>", "</s>", "<|end_of_text|>", "<eos>", "<end>")
        found = next((i for name in names if (i := self.inner.token_to_id(name)) is not None), None)
        if found is None:
            raise UserError(f"This tokenizer has no token that ends a text, such as {END}.")
        return found

    def encode(self, text: str) -> list[int]:
        return self.inner.encode_batch_fast([text], add_special_tokens=False)[0].ids  # without offsets

    @cached_property
    def pieces(self) -> list[bytes]:
        """Each token's bytes: printable stand-ins are turned back into the bytes that they stand for."""
        byte_of = {c: b for b, c in stand_ins().items()}
        names = [self.inner.id_to_token(i) or "" for i in range(self.size)]
        return [
            b""
            if i in self.special
            else bytes(byte_of[c] for c in name)
            if set(name) <= byte_of.keys()
            else name.encode()
            for i, name in enumerate(names)
        ]

    def piece(self, token: int) -> bytes:
        return self.pieces[token] if token < self.size else b""

    def to_json(self) -> dict[str, Any]:
        packed = base64.b85encode(zlib.compress(self.inner.to_str().encode(), 9)).decode()
        return {"kind": self.kind, "end": self.end, "packed": packed}


def at(path: Path, end: int | None = None) -> Pairs:
    """The tokenizer.json at a path or in its folder, or GPT-2's two files there. Raises UserError when there is none."""
    if path.is_dir() and (path / "tokenizer.json").exists():
        path = path / "tokenizer.json"
    if path.is_file():
        return Pairs(path.read_text("utf-8"), end)
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (path / vocabulary).exists() and (path / merges).exists():
            return Pairs.of_gpt2(path / vocabulary, path / merges)
    raise UserError(
        f"There is no tokenizer at '{path}': name char, byte or bpe, a tokenizer.json, or a folder with it or with "
        "vocab.json and merges.txt."
    )


def stand_ins() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level vocabularies (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in set(printable)]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def library() -> Any:
    """The `tokenizers` library. Raises UserError with the way to get it."""
    try:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers  # noqa: F401
    except ImportError:
        raise UserError("Byte-pair tokenizers need the library `tokenizers`: pip install 'genloom[text]'.") from None
    return tokenizers


def from_json(d: Mapping[str, Any] | None) -> Tokenizer:
    """The tokenizer that a run keeps in its spec. Raises UserError for None: its model was made without one."""
    if d is None:
        raise UserError("This model has no tokenizer: import it from a folder that holds tokenizer.json.")
    kind = d.get("kind", "")
    if kind == "characters":
        return Characters(d["characters"])
    if kind == "byte":
        return Bytes()
    if kind == "bpe":
        return Pairs(zlib.decompress(base64.b85decode(d["packed"])).decode(), d["end"])
    raise unknown("tokenizer", kind, ("characters", "byte", "bpe"))
