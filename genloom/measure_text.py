"""A language model's run + text -> metrics.json: its surprise at all of the held-out text, and what it repeats."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom import generate
from genloom.data.base import Dataset
from genloom.errors import UserError
from genloom.measure import Asked, chosen, row
from genloom.metrics import text as figures

METRICS = ("nats", "bits", "perplexity", "repeats")
BATCH = 32
SAMPLES = 16  # looked through for repeats
LENGTH = 200  # tokens of each


def measured(asked: Asked) -> tuple[dict[str, Any], int]:
    """Surprise per token (nats, perplexity), per byte and character (bits) over the whole reference; repeats of samples.

    Windows follow one another: each token is predicted once, from those before it in its window.
    """
    run, own, reference, metrics, _, seed, *_ = asked
    wanted, model = chosen(metrics, METRICS, "metric of text"), generate.load(run)
    result: dict[str, Any] = {"counted": "windows of text", "metrics": [], "warnings": []}
    context = run.spec.shape[0] - 1
    if set(wanted) & {"nats", "bits", "perplexity"}:
        nats, tokens, characters, size = surprises(model, reference)
        each = figures.surprise(nats, tokens, f"mean over all {int(tokens.sum()):,} tokens, nats")
        found = {
            "nats": each,
            "perplexity": figures.perplexity(each, "per token"),
            "bits-per-byte": figures.in_bits(figures.surprise(nats, size), "bits per byte of UTF-8"),
            "bits-per-character": figures.in_bits(figures.surprise(nats, characters), "bits per character"),
        }
        for name, estimate in found.items():
            if name.partition("-")[0] in wanted:
                result["metrics"].append(row(f"{name}@{context}", estimate, len(reference), seed))
    if "repeats" in wanted and own is not None:
        samples = generate.draw(model, SAMPLES, seed=seed, length=LENGTH)
        search = figures.Repeats(training_text(own, model))
        repeats = [search.longest(i, s) for i, s in enumerate(samples)]
        result["metrics"].append(row("repeats", figures.mean_length(repeats), SAMPLES, seed, len(own)))
        worst = sorted(repeats, key=lambda r: -r.length)[:5]
        result["repeats"] = [r._asdict() for r in worst]
    return result, len(reference)


@torch.inference_mode()
def surprises(model: Any, data: Dataset) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[N] nats, tokens, characters and bytes of every window."""
    nats, tokens, characters, sizes = [], [], [], []
    vocabulary = model.tokenizer
    with generate.autocast(model.device, generate.resolve_precision(model, "auto")):
        for start in range(0, len(data), BATCH):
            batch = data.batch(np.arange(start, min(start + BATCH, len(data))))
            moved = {k: v.to(model.device) for k, v in batch.items()}
            mean = model(moved, "all")["nats"].float().cpu()
            weight = batch.get("weight", torch.ones(batch["text"][:, 1:].shape))
            count = weight.sum(1)
            nats.append(mean * count)
            tokens.append(count)
            for ids, learnt in zip(batch["text"][:, 1:].tolist(), weight.bool().tolist(), strict=True):
                raw = b"".join(vocabulary.piece(t) for t in itertools.compress(ids, learnt))
                sizes.append(max(len(raw), 1))
                characters.append(max(sum(b & 0xC0 != 0x80 for b in raw), 1))
    return torch.cat(nats), torch.cat(tokens), torch.tensor(characters), torch.tensor(sizes)


def training_text(own: Dataset, model: Any) -> bytes:
    tokens = getattr(own, "tokens", None)
    if tokens is None:
        raise UserError("This data keeps no row of tokens to look for repeats in: leave 'repeats' out.")
    pieces = [model.tokenizer.piece(t) for t in range(model.vocabulary)]
    return b"".join([pieces[t] for t in tokens[: figures.LARGEST // 2].tolist()])
