"""Next-token prediction, and the base that language models share: the loss, and text in and out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.core import Batch, Model, Spec
from genloom.errors import UserError
from genloom.nn.lora import add_lora, merge_lora
from genloom.nn.transformer import Plan, Transformer
from genloom.text import tokenizer as tokenizers
from genloom.text.constrain import Form, form
from genloom.text.decode import draw
from genloom.text.logits import Sampling
from genloom.text.stops import Stream


def next_token_loss(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """[B] nats a token of logits [B, T, V] at targets [B, T]: the mean over each row, or where `weight` [B, T] is 1."""
    errors = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)
    if weight is None:
        return errors.mean(1)
    return (errors * weight).sum(1) / weight.sum(1).clamp(min=1)


class LanguageModel(Model):
    """A transformer that reads `text` [B, T + 1] i64 and predicts each token from those before it.

    A subclass makes `network`. Items of the batch may carry `weight` [B, T]: on which targets the loss counts (the
    response, not the prompt); and `document` [B, T]: tokens look at those of their own document alone.
    """

    modality = "text"
    exact = True
    conditions: ClassVar[tuple[str, ...]] = (
        "prompt",
        "chat",
        "length",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition",
        "presence",
        "frequency",
        "stop",
        "pattern",
        "schema",
    )
    looks_with: ClassVar[Mapping[str, Any]] = {"length": 160}
    network: Transformer

    @classmethod
    def asks(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"context": config["context"]}

    def __init__(self, spec: Spec, context: int):
        super().__init__(spec)
        if spec.shape[0] - 1 > context:
            raise UserError(
                f"Items of {spec.shape[0] - 1} tokens are longer than the {context} that this model sees at once: give "
                f"--model.context {spec.shape[0] - 1} too, or leave --data.context out."
            )
        self.context = context
        self.vocabulary = int(spec.extra["vocabulary"])
        self._tokenizer: tokenizers.Tokenizer | None = None

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """What turns text into this model's tokens. Raises UserError for a model that was made without one."""
        if self._tokenizer is None:
            self._tokenizer = tokenizers.from_json(self.spec.extra.get("tokenizer"))
        return self._tokenizer

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        ids = batch["text"]
        mask = document_mask(batch["document"]) if "document" in batch else None
        logits = self.network(ids[:, :-1], mask=mask)
        return {"nats": next_token_loss(logits, ids[:, 1:], batch.get("weight"))}

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        prompt: str | list[str] | None = None,
        chat: bool = False,
        length: int = 256,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition: float = 1.0,
        presence: float = 0.0,
        frequency: float = 0.0,
        stop: str | list[str] | None = None,
        pattern: str | None = None,
        schema: str | dict[str, Any] | None = None,
        show: Callable[[int, str], None] = lambda row, piece: None,
        hear: Callable[[int, int, float], None] = lambda row, token, log: None,
        watermark: bytes | None = None,
    ) -> list[str]:
        """n texts of at most `length` tokens that go on from `prompt` (one for all, or one each), without it.

        With `chat` they answer it, in the marks of messages that a chat model knows. They end at the end of a document,
        or before a string of `stop`. `pattern` (a regular expression) or `schema` (of JSON) is a form that they keep to.
        A prompt longer than the context is seen from its end. `show(row, piece)` is called as text comes, `hear(row,
        token, log)` with each token and the log-probability (nats) that the model itself gave it. `watermark` is a key that texts are marked with.

        Raises UserError for a value out of range and for a character that the vocabulary lacks.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition, presence, frequency)
        if length < 1:
            raise UserError(f"length is 1 token or more, not {length}.")
        prompts = [prompt or ""] * n if isinstance(prompt, str | None) else prompt
        if len(prompts) != n:
            raise UserError(f"{n} texts need {n} prompts, not {len(prompts)}.")
        if chat and tokenizers.chat_marks(self.tokenizer) is None:
            raise UserError("This model's tokenizer has no marks around messages: leave chat out.")
        prompts = [tokenizers.message(p) for p in prompts] if chat else prompts
        stops = [stop] if isinstance(stop, str) else stop or []
        forms: list[Form] = []
        if pattern is not None or schema is not None:
            first = form(self.tokenizer, pattern=pattern, schema=schema)
            forms = [first.copy() for _ in range(n)]
        texts = [""] * n
        how: dict[str, Any] = {"forms": forms, "seed": seed, "start": start, "hear": hear, "watermark": watermark}
        for row, piece in self.write(prompts, sampling, length=length, stops=stops, **how):
            texts[row] += piece
            show(row, piece)
        return texts

    def write(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        *,
        length: int,
        stops: Sequence[str] = (),
        forms: Sequence[Form] = (),
        seed: int = 0,
        start: int = 0,
        hear: Callable[[int, int, float], None] = lambda row, token, log: None,
        watermark: bytes | None = None,
    ) -> Iterator[tuple[int, str]]:
        """(row, text) as it comes: whole characters, never a part of a stop string. Close it to cancel."""
        tokens = self.tokenizer
        streams = [Stream(stops) for _ in prompts]
        rows = [[tokens.end, *tokens.encode(p)] if self.opens(p) else tokens.encode(p) for p in prompts]
        steps = draw(
            self.network,
            rows,
            sampling,
            context=self.context,
            limit=length,
            ends=frozenset([tokens.end]),
            seed=seed,
            start=start,
            constraints=forms,
            goes_on=lambda row: not streams[row].stopped,
            watermark=watermark,
        )
        for drawn in steps:
            for row, token, log in zip(*drawn, strict=True):
                hear(row, token, log)
                if token != tokens.end and (piece := streams[row].push(tokens.piece(token))):
                    yield row, piece
        for row, stream in enumerate(streams):
            if piece := stream.close():
                yield row, piece

    def adapt(self, rank: int, targets: str, alpha: float) -> None:
        """Fine-tuning by LoRA where the rank is not 0: of these layers alone."""
        if rank:
            add_lora(self.network, rank, targets, alpha)

    def starts_fresh(self, name: str) -> bool:
        return ".lora_" in name

    def to_reference(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights under transformers' names, and their config.json."""
        raise UserError(f"'{self.name}' has no counterpart in transformers.")

    def whole(self) -> Transformer:
        """The network with its LoRA, if it has one, merged into its weights."""
        network = copy.deepcopy(self.network)
        merge_lora(network)
        return network

    def grid(self) -> int:
        return 1

    def opens(self, prompt: str) -> bool:
        """Whether the token that ends a document stands before this prompt: a new document begins."""
        return not prompt


def document_mask(document: Tensor) -> Tensor:
    """[B, 1, T, T] of document numbers [B, T]: itself and what is before it, in its own document."""
    length = document.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document.device).tril()
    return (causal & (document[:, :, None] == document[:, None]))[:, None]


def check_plan(plan: Plan) -> Plan:
    """The plan. Raises UserError for heads that do not share out."""
    if plan.heads % plan.groups:
        raise UserError(f"{plan.heads} heads cannot share {plan.groups} of keys and values: choose a divisor.")
    if not plan.positions and plan.head % 2:
        raise UserError(f"Turned positions need an even number of numbers a head, not {plan.head}.")
    return plan


def published(config: dict[str, Any], names: dict[str, str], what: str) -> dict[str, Any]:
    """Our options of a published config's fields. Raises UserError for a field that is needed and not there."""
    if missing := next((k for k in names if k not in config), None):
        raise UserError(f"This config.json of {what} has no '{missing}'.")
    return {ours: config[theirs] for theirs, ours in names.items()}
