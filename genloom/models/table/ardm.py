"""ARDM: a network that fills in any cells of a row from any others, so rows are made cell by cell in any order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Card, Model, Recipe, Spec, register, within
from genloom.errors import UserError
from genloom.nn.columns import Columns, pick, uniform


class Block(nn.Module):
    """x + MLP(norm(x)) on [B, width]."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inside, self.outside = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        made = self.outside(F.silu(self.inside(self.norm(x))))
        return x + self.dropout(made)


@register("ardm")
class ARDM(Model):
    """p(x) = E over orders of the product of p(cell | the cells before it in that order), by one residual MLP.

    A number is one of `bins` stretches of equal shares of the data, and anywhere in its stretch alike. The network sees the
    sum of the embeddings of the cells that are there.
    """

    modality = "table"
    bf16 = False  # a place among quantiles needs more digits
    card = Card(
        paper="Autoregressive Diffusion Models",
        authors="Emiel Hoogeboom, Alexey A. Gritsenko, Jasmijn Bastings, Ben Poole, Rianne van den Berg, Tim Salimans",
        year=2022,
        url="https://arxiv.org/abs/2110.02037",
        summary="Learns each cell of a row given any of the others: makes rows, rows of a class, and fills in blank cells.",
        changes=(
            "For tables, where the paper has texts and pictures: a residual MLP on the sum of the embeddings of known cells in "
            "place of a U-Net or Transformer, numbers as stretches between quantiles, and one cell a step."
        ),
    )
    recipes = {
        "tiny": Recipe(
            steps=60, batch_size=16, lr=1e-3, ema=0.9, keep="best", model={"width": 32, "depth": 1, "bins": 8}
        ),
        "cpu": Recipe(minutes=3, batch_size=256, lr=1e-3, decay=0.7, clip=1.0, weight_decay=0.01, keep="best"),
        "default": Recipe(steps=30_000, batch_size=512, lr=1e-3, decay=0.7, clip=1.0, weight_decay=0.01, keep="best"),
    }
    conditions = ("label", "source")
    looks_at = 1000
    starts: Tensor
    there: Tensor
    spread: Tensor

    def __init__(self, spec: Spec, *, width: int = 256, depth: int = 3, bins: int = 64, dropout: float = 0.1):
        within(1, 16_384, width=width, bins=bins)
        within(0, 1_000, depth=depth)
        within(0, 0.99, dropout=dropout)
        super().__init__(spec)
        columns = Columns(spec)
        self.columns, self.bins = columns, bins
        self.sizes = [codes or bins + gap for codes, gap in zip(columns.codes, columns.missing, strict=True)]
        self.most = max(self.sizes)
        starts = [0]
        for size in self.sizes:
            starts.append(starts[-1] + size)
        self.total = starts[-1]
        self.is_number = [not codes for codes in columns.codes]
        place = torch.arange(self.most)
        sizes = torch.tensor(self.sizes)[:, None]
        self.register_buffer("starts", torch.tensor(starts[:-1]), persistent=False)  # [C]
        self.register_buffer("there", place < sizes, persistent=False)  # [C, K]: what of the widest a column has
        self.register_buffer(
            "spread", torch.tensor(starts[:-1])[:, None] + torch.minimum(place, sizes - 1), persistent=False
        )
        self.cells = nn.Linear(self.total, width, bias=False)
        self.position = nn.Linear(columns.count, width)  # of numbers, within [-1, 1]
        self.known = nn.Linear(columns.count, width)  # which cells are there
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, self.total)
        nn.init.normal_(self.cells.weight, std=0.5)  # as embeddings are: the sum of a row's is of size one or so
        nn.init.zeros_(self.head.weight)

    # cells
    def code(self, rows: Tensor) -> Tensor:
        """Rows [B, C] -> codes i64 [B, C]: the stretch of a number, after the last of which comes none given."""
        found = []
        for i, (size, number, own) in enumerate(zip(self.sizes, self.is_number, rows.unbind(1), strict=True)):
            if not number:
                found.append(own.nan_to_num().round().long().clamp(0, size - 1))
                continue
            stretch = ((own.nan_to_num().clamp(-1, 1) + 1) / 2 * self.bins).long().clamp(max=self.bins - 1)
            found.append(torch.where(own.isnan(), size - 1, stretch) if self.columns.missing[i] else stretch)
        return torch.stack(found, 1)

    def flat(self, rows: Tensor, codes: Tensor, known: Tensor) -> Tensor:
        """[B, total] logits of every cell, column after column, from those that are `known` [B, C] of rows [B, C] and codes."""
        mask = known.to(self.cells.weight.dtype)
        numbers = torch.tensor(self.is_number, device=rows.device)
        positions = torch.where(numbers, rows.nan_to_num(), 0.0) * mask
        there = torch.zeros(len(rows), self.total, dtype=mask.dtype, device=mask.device)
        there = there.scatter(1, codes + self.starts, mask)  # a product with ones is quicker than looking up and adding
        x = self.cells(there) + self.position(positions) + self.known(mask)
        return self.head(self.norm(self.blocks(x))).float()

    def logits(self, rows: Tensor, codes: Tensor, known: Tensor) -> Tensor:
        """The same as [B, C, K], -inf beyond what a column has."""
        return self.flat(rows, codes, known)[:, self.spread].masked_fill(~self.there, -torch.inf)

    def nats(self, flat: Tensor, codes: Tensor) -> Tensor:
        """[B, C] the surprise at each code, columns of one size together."""
        parts = list(zip(flat.split(self.sizes, 1), codes.unbind(1), strict=True))
        found: dict[int, Tensor] = {}
        for size in set(self.sizes):
            which = [i for i, own in enumerate(self.sizes) if own == size]
            logits = torch.stack([parts[i][0] for i in which], 1)  # [B, some, size]
            wanted = torch.stack([parts[i][1] for i in which], 1)
            nats = logits.logsumexp(2) - logits.gather(2, wanted[..., None])[..., 0]
            found |= dict(zip(which, nats.unbind(1), strict=True))
        return torch.stack([found[i] for i in range(len(parts))], 1)

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """[B] nats of a row: C / (C - t) of the cells that are hidden, t of C in random order known."""
        rows = batch["table"]
        count = rows.shape[1]
        chance = parallel.rand(len(rows), count + 1, device=rows.device)
        order = chance[:, :count].argsort(1).argsort(1)  # [B, C] each cell's place
        t = (chance[:, count:] * count).long().clamp(max=count - 1)  # [B, 1]
        known, codes = order < t, self.code(rows)
        nats = self.nats(self.flat(rows, codes, known), codes)
        hidden = (nats * ~known).sum(1) * count / (count - t[:, 0])
        return {"nats": hidden}

    # rows
    def sample(
        self, n: int, *, seed: int = 0, start: int = 0, label: int | Tensor | None = None, source: Tensor | None = None
    ) -> Tensor:
        """Rows [n, C], of the class `label` where that is given; of `source` [n, C] the cells that are NaN are made.

        Raises UserError for rows of `source` that are of another class.
        """
        count = self.columns.count
        noise = uniform(self.item_noise(n, 3 * count, seed=seed, start=start))
        chance, draws, places = noise.split(count, 1)
        rows = torch.zeros_like(chance) if source is None else source.to(chance)
        known = torch.zeros_like(rows, dtype=torch.bool) if source is None else ~rows.isnan()
        if label is not None:
            target = int(self.spec.extra["target"])
            classes = self.item_labels(n, label, start).to(rows)
            if (known[:, target] & (rows[:, target] != classes)).any():
                name = self.spec.extra["columns"][target]["name"]
                raise UserError(
                    f"The source has rows of another label under '{name}': empty that column, or leave --label out."
                )
            rows[:, target], known[:, target] = classes, True
        order = torch.where(known, -1.0, chance).argsort(1)  # [n, C] cells as they are made, those that are given first
        rows = rows.nan_to_num()
        codes = self.code(rows)
        for cell in order.unbind(1):
            new = ~known.gather(1, cell[:, None])[:, 0]
            if not new.any():
                continue
            logits = self.logits(rows, codes, known)
            own = logits[torch.arange(n), cell]  # [n, K]
            code = pick(own, draws.gather(1, cell[:, None])[:, 0])
            value = self._value(code, cell, places.gather(1, cell[:, None])[:, 0])
            at = torch.arange(n)[new], cell[new]
            codes[at], rows[at], known[at] = code[new], value[new], True
        return rows

    def _value(self, code: Tensor, cell: Tensor, place: Tensor) -> Tensor:
        """[n]: of the code of a cell [n] its value in a row, at `place` in [0, 1) of a number's stretch."""
        numbers = torch.tensor(self.is_number, device=code.device)[cell]
        inside = (code + place) / self.bins * 2 - 1
        gap = torch.where(code >= self.bins, torch.nan, inside)
        return torch.where(numbers, gap, code.to(place.dtype))
