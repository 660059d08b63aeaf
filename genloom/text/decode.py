"""Tokens one after another: prompts of unequal length side by side, a cache, and a window that moves on when it is full.

A row's tokens do not depend on the rows beside it: shorter prompts are filled up on the left with places that nothing
looks at, and every row draws from its own stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from genloom.core import generator
from genloom.nn.drawing import for_drawing
from genloom.nn.transformer import Cache, Transformer
from genloom.text.logits import Sampling
from genloom.text.mark import Marker


class Constraint(Protocol):
    """What may come next in one row."""

    def allowed(self) -> Tensor:  # [V] bool
        ...

    def push(self, token: int) -> None: ...


class Drawn(NamedTuple):
    """One step: the `tokens` drawn by `rows` [n] (of the rows there were), and the model's own log-probability of each."""

    rows: list[int]
    tokens: list[int]
    logs: list[float]


class Window:
    """The last tokens of N rows as the network sees them, at most `context`; a full row goes on with its later half.

    `logits` [N, V] are those of the next token.
    """

    def __init__(self, network: Transformer, rows: Sequence[Sequence[int]], context: int, limit: int | None = None):
        """`limit`: how many tokens will be pushed at most, where that is known: room is made for no more."""
        self.network, self.context = network, context
        self.room = min(context, max(map(len, rows)) + (context if limit is None else limit))
        self.device = next(network.parameters()).device
        self.logits: Tensor
        self.pads: Tensor | None  # [N]: how many places are filled up on the left of each row
        self.rows = [list(row[-context:]) for row in rows]
        self._fill()

    def push(self, tokens: Sequence[int]) -> None:
        for row, token in zip(self.rows, tokens, strict=True):
            row.append(token)
        if self.cache.length == self.context:
            self.rows = [row[-(self.context // 2 + 1) :] if len(row) > self.context else row for row in self.rows]
            return self._fill()
        ids = torch.tensor(tokens, device=self.device)[:, None]
        mask = positions = None
        if self.pads is not None:
            slots = torch.arange(self.cache.length + 1, device=self.device)
            mask = (slots >= self.pads[:, None])[:, None, None]  # [N, 1, 1, S]
            positions = self.cache.length - self.pads[:, None]  # [N, 1]
        self._run(ids, mask, positions)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows alone."""
        at = torch.tensor(rows, device=self.device)
        self.rows, self.logits = [self.rows[i] for i in rows], self.logits[at]
        self.cache.keep(at)
        self.pads = None if self.pads is None else self.pads[at]

    def _fill(self) -> None:
        network, width = self.network, max(map(len, self.rows))
        pads = [width - len(row) for row in self.rows]
        ids = torch.tensor([[0] * p + row for p, row in zip(pads, self.rows, strict=True)], device=self.device)
        like = network.tokens.weight.new_zeros((), dtype=computed_in(network))
        self.cache = Cache(network.plan, len(ids), self.room, like)
        self.pads = torch.tensor(pads, device=self.device) if any(pads) else None
        mask = positions = None
        if self.pads is not None:
            slots = torch.arange(width, device=self.device)
            back = slots[:, None] - slots
            seen = (back >= 0) & (slots >= self.pads[:, None, None])  # [N, T, S]
            mask = (seen | (back == 0))[:, None]  # what fills up sees itself: a softmax of nothing is not a number
            positions = (slots - self.pads[:, None]).clamp(min=0)
        self._run(ids, mask, positions)

    def _run(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> None:
        features = self.network.features(ids, mask=mask, positions=positions, cache=self.cache)
        self.logits = self.network.logits(features[:, -1]).float()


def computed_in(network: Transformer) -> torch.dtype:
    """The dtype of keys and values: autocast's, or that of the weights."""
    kind = network.tokens.weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else network.tokens.weight.dtype


@torch.inference_mode()
def draw(
    network: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    context: int,
    limit: int,
    ends: frozenset[int],
    seed: int = 0,
    start: int = 0,
    constraints: Sequence[Constraint] = (),
    goes_on: Callable[[int], bool] = lambda row: True,
    watermark: bytes | None = None,
) -> Iterator[Drawn]:
    """Up to `limit` tokens after each prompt; a row ends with a token of `ends`, which is given out as well.

    Row i's draws depend on (seed, start + i) alone. `goes_on(i)` is asked after each step (a stop string may have
    come), `constraints` hold one a row, or nothing. With the key `watermark` texts are marked, and depend on it too; the
    likeliest token (temperature 0) leaves nothing to mark.
    """
    network = for_drawing(network)
    window = Window(network, prompts, context, limit)
    live = list(range(len(prompts)))
    size, device = network.plan.vocabulary, window.device
    streams = torch.stack([torch.rand(limit, generator=generator(seed, start + i)) for i in live]).to(device)
    counts = torch.zeros(len(prompts), size, device=device) if sampling.presence or sampling.frequency else None
    marker = Marker(watermark, len(prompts), size) if watermark and sampling.temperature else None
    seen = None
    if sampling.repetition != 1:
        seen = torch.zeros(len(prompts), size, dtype=torch.bool, device=device)
        for i, prompt in enumerate(prompts):
            seen[i, list(prompt)] = True
    for step in range(limit):
        scores = window.logits
        logs = scores.log_softmax(1)
        if constraints:
            allowed = torch.stack([constraints[i].allowed() for i in live]).to(device)
            scores = scores.masked_fill(~allowed, -torch.inf)
        at = torch.tensor(live, device=device)
        scores = sampling.process(scores, None if counts is None else counts[at], None if seen is None else seen[at])
        own = streams[at, step]
        if marker:
            tokens = marker.draw(logs if scores is window.logits else scores.log_softmax(1), own)
        else:
            tokens = sampling.draw(scores, own)
        if counts is not None:
            counts[at, tokens] += 1
        if seen is not None:
            seen[at, tokens] = True
        words = tokens.tolist()
        if constraints:
            for i, token in zip(live, words, strict=True):
                constraints[i].push(token)
        yield Drawn(list(live), words, logs.gather(1, tokens[:, None]).squeeze(1).tolist())
        left = [j for j, (i, t) in enumerate(zip(live, words, strict=True)) if t not in ends and goes_on(i)]
        if not left or step == limit - 1:
            return
        if len(left) < len(live):
            window.keep(left)
            if marker:
                marker.keep(left)
            live, words = [live[j] for j in left], [words[j] for j in left]
        window.push(words)
