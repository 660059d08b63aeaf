"""CTGAN: a GAN of tables that is asked for a category, so that rare ones are learnt as well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Card, Model, Phase, Recipe, Spec, register, within
from genloom.nn.columns import Columns, Part, pick, uniform
from genloom.nn.norm import BatchNorm
from genloom.objectives.adversarial import lipschitz_penalty, wasserstein_critic, wasserstein_generator

LEARNT = 0.01  # of the shares of categories, a step


class Generator(nn.Module):
    """Latents and the category that is asked for [B, inside] -> [B, W]: each layer sees all that came before it."""

    def __init__(self, inside: int, width: int, out: int):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(2):
            norm = nn.Sequential(nn.Unflatten(1, (width, 1, 1)), BatchNorm(width), nn.Flatten())
            self.layers.append(nn.Sequential(nn.Linear(inside, width, bias=False), norm, nn.ReLU()))
            inside += width
        self.head = nn.Linear(inside, out)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([layer(x), x], 1)
        return self.head(x)


@register("ctgan")
class CTGAN(Model):
    """A generator that makes rows of one category of one column, against a critic that judges `pack` rows at once."""

    modality = "table"
    bf16 = False  # a place among quantiles needs more digits
    card = Card(
        paper="Modeling Tabular Data using Conditional GAN",
        authors="Lei Xu, Maria Skoularidou, Alfredo Cuesta-Infante, Kalyan Veeramachaneni",
        year=2019,
        url="https://arxiv.org/abs/1907.00503",
        summary="A Wasserstein GAN of tables: each row is made for a category of one of its columns, rare ones as often.",
        changes=(
            "A number is given by its quantile among the data's, one scalar, where the paper fits a Gaussian mixture to each "
            "column. The rows of a category that is asked for come from the same batch, not from the whole data; categories of "
            "samples are drawn by their chances."
        ),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=20, model={"width": 16, "latent": 8, "pack": 2}),
        "cpu": Recipe(minutes=3, batch_size=500, lr=1e-3, betas=(0.5, 0.9), decay=0.5, ema=0.998),
        "default": Recipe(steps=20_000, batch_size=500, lr=2e-4, betas=(0.5, 0.9), weight_decay=1e-6),
        "paper": Recipe(steps=30_000, batch_size=500, lr=2e-4, betas=(0.5, 0.9), weight_decay=1e-6, ema=0.0),
    }
    samples_with = ("generator", "shares")
    conditions = ("label",)
    index: Tensor
    ask: Tensor
    there: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        width: int = 256,
        latent: int = 128,
        pack: int = 10,
        penalty: float = 10.0,
        dropout: float = 0.5,
        temperature: float = 0.2,
    ):
        within(1, 16_384, width=width, latent=latent, pack=pack)
        within(0, 1e6, penalty=penalty)
        within(0, 0.99, dropout=dropout)
        within(0.001, 1e3, temperature=temperature)
        super().__init__(spec)
        self.columns, self.latent, self.pack = Columns(spec), latent, pack
        self.penalty, self.temperature = penalty, temperature
        parts, self.asked = self.columns.discrete, sum(p.codes for p in self.columns.discrete)
        self.places = dict(zip((p.start for p in parts), range(len(parts)), strict=True))
        self.most = max((p.codes for p in parts), default=1)
        index = torch.zeros(len(parts), self.most, dtype=torch.long)  # [P, K] a category's place in the one-hot form
        ask = torch.zeros_like(index)  # and among categories alone
        there = torch.zeros_like(index, dtype=torch.bool)
        first = 0
        for i, part in enumerate(parts):
            index[i, : part.codes] = part.start + torch.arange(part.codes)
            ask[i, : part.codes] = first + torch.arange(part.codes)
            there[i, : part.codes] = True
            first += part.codes
        for name, x in (("index", index), ("ask", ask), ("there", there)):
            self.register_buffer(name, x, persistent=False)
        self.shares = Shares(self.columns.width)
        self.generator = Generator(latent + self.asked, width, self.columns.width)
        self.discriminator = nn.Sequential(
            nn.Linear(pack * (self.columns.width + self.asked), width),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Linear(width, 1),
        )

    def phases(self) -> list[Phase]:
        return [Phase("critic", ("discriminator",)), Phase("generator", ("generator",))]

    # what is asked for
    def wanted(self, n: int, shares: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Columns and categories [n] to ask for, each column alike, of it each category by the logarithm of its share."""
        which = parallel.randint(len(self.index), n, device)
        chances = torch.where(self.there, shares[self.index].log1p(), 0.0)[which]  # [n, K]
        return which, pick(chances.log(), parallel.rand(n, device=device))

    def told(self, which: Tensor, code: Tensor) -> Tensor:
        """[n, asked] with a one at the category of each column [n] that is asked for."""
        return F.one_hot(self.ask[which, code], self.asked).float()

    def matching(self, rows: Tensor, which: Tensor, code: Tensor) -> Tensor:
        """Of one-hot rows [B, W], for each that is asked for [n] one that is such."""
        such = rows[:, self.index[which, code]].T  # [n, B]
        return rows[pick(such.log(), parallel.rand(len(which), device=rows.device))]

    # losses
    def make(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """[B, W] rows, categories almost one-hot (Gumbel softmax), and what they were made of."""
        raw = self.generator(torch.cat([self.randn(len(asked), self.latent), asked], 1)).float()
        noise = -torch.log(-torch.log(parallel.rand(len(raw), raw.shape[1], device=raw.device).clamp(1e-6, 1 - 1e-6)))
        return torch.cat([self._part(p, raw[:, p.span], noise[:, p.span]) for p in self.columns.parts], 1), raw

    def _part(self, part: Part, raw: Tensor, noise: Tensor) -> Tensor:
        return ((raw + noise) / self.temperature).softmax(1) if part.codes else torch.tanh(raw)

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Of `pack` rows together: the Wasserstein loss and its penalty, or the generator's with how well it does as asked."""
        rows = self.columns.one_hot(batch["table"])
        rows = rows[torch.arange(-(-len(rows) // self.pack) * self.pack, device=rows.device) % len(rows)]
        n, asked = len(rows), rows[:, :0]
        if self.asked:
            which, code = self.wanted(n, rows.sum(0), rows.device)
            asked = self.told(which, code)
        if phase == "generator":
            made, raw = self.make(asked)
            fooled = {"generator": wasserstein_generator(*2 * [self.judge(made, asked)]).mean()}
            return fooled | ({"as_asked": self.as_asked(raw, which, code)} if self.asked else {})
        self.shares.learn(rows)
        with torch.no_grad():
            made, _ = self.make(asked)
            real = self.matching(rows, which, code) if self.asked else rows
        packed, fakes = (torch.cat([x, asked], 1).view(n // self.pack, -1) for x in (real, made))
        mix = parallel.rand(n // self.pack, device=rows.device)
        r, f = (self.discriminator(x)[:, 0].float() for x in (packed, fakes))
        penalty = lipschitz_penalty(lambda x: self.discriminator(x)[:, 0], packed, fakes, mix)
        return {"critic": wasserstein_critic(r, f).mean(), "penalty": self.penalty * penalty.mean()}

    def judge(self, rows: Tensor, asked: Tensor) -> Tensor:
        packs = torch.cat([rows, asked], 1).view(len(rows) // self.pack, -1)
        return self.discriminator(packs)[:, 0].float()

    def as_asked(self, raw: Tensor, which: Tensor, code: Tensor) -> Tensor:
        """-log of the chance of the category that was asked for (section 4.3)."""
        logits = raw[:, self.index].masked_fill(~self.there, -torch.inf)  # [B, P, K]
        own = logits[torch.arange(len(raw), device=raw.device), which]
        return F.cross_entropy(own, code)

    def sample(self, n: int, *, seed: int = 0, start: int = 0, label: int | Tensor | None = None) -> Tensor:
        """Rows [n, C], of the class `label` where that is given; else of categories in their shares of the data."""
        noise = self.item_noise(n, self.latent + 2 + self.columns.width, seed=seed, start=start)
        z, ask, cells = noise.split([self.latent, 2, self.columns.width], 1)
        asked = z[:, :0]
        if self.asked:
            column, draw = uniform(ask).unbind(1)
            if label is None:
                which = (column * len(self.index)).long()
                chances = torch.where(self.there, self.shares.mean[self.index], 0.0)[which]
                code = pick(chances.log(), draw)
            else:
                code = self.item_labels(n, label, start)
                target = next(p for p in self.columns.discrete if p.column == self.spec.extra["target"])
                which = torch.full_like(code, self.places[target.start])
            asked = self.told(which, code)
        raw = self.generator(torch.cat([z, asked], 1)).float()
        chosen = {p.start: pick(raw[:, p.span], uniform(cells[:, p.start])) for p in self.columns.discrete}
        if label is not None:
            chosen[target.start] = code
        return self.columns.rows(torch.tanh(raw), chosen)


class Shares(nn.Module):
    """The running mean of one-hot rows: how often each category comes in the data."""

    mean: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.full((width,), 1e-3))

    @torch.no_grad()
    def learn(self, rows: Tensor) -> None:
        self.mean.lerp_(parallel.mean(rows.mean(0)).clamp(min=0), LEARNT)
