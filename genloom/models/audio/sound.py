"""Sound from nothing: a codec, and a transformer that writes its codes one frame after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.core import Batch, Card, Phase, Recipe, Result, Spec, generator, register
from genloom.errors import UserError
from genloom.models.audio.codec import SMALL, TINY, Codec
from genloom.nn.mel import pictured
from genloom.nn.transformer import Cache, Plan, Transformer
from genloom.text.decode import computed_in
from genloom.text.logits import Sampling


def delayed(codes: Tensor, nothing: int) -> Tensor:
    """Codes [B, K, T] -> [B, T + K - 1, K]: stage k is k columns late, and `nothing` stands where it has no code.

    So one step writes one code of each stage, and each stage has heard those before it (Copet et al. 2023, section 2.2).
    """
    stages = [F.pad(c, (k, codes.shape[1] - 1 - k), value=nothing) for k, c in enumerate(codes.unbind(1))]
    return torch.stack(stages, 2)


def undelayed(columns: Tensor) -> Tensor:
    """[B, T + K - 1, K] -> [B, K, T], what `delayed` was made of."""
    frames = columns.shape[1] - columns.shape[2] + 1
    return torch.stack([c[:, k : k + frames] for k, c in enumerate(columns.unbind(2))], 1)


@register("sound")
class Sound(Codec):
    """Clips from nothing, of a class, or going on from a prompt: music, speech, or what else the data is.

    For the first `learn` of a run it learns the codec, whose options are `codec`'s own, then a transformer of its codes:
    `depth` layers, `breadth` wide, that sees `seconds` at once. With --init of a `codec` run and `learn` 0 the codec stays as
    it was there.
    """

    card = Card(
        paper="Simple and Controllable Music Generation",
        authors="Copet, Kreuk, Gat, Remez, Kant, Synnaeve, Adi, Defossez",
        year=2023,
        url="https://arxiv.org/abs/2306.05284",
        summary="Music or speech from nothing or from a prompt, written code by code: MusicGen's transformer over a codec.",
        changes="One run learns both, the codec first. Classes in place of texts, as the token that a clip begins with. Turned "
        "positions (Su et al. 2021), no guidance, and a window that moves on, so that a clip may be of any length. The codec "
        "is the smaller one named `codec` here.",
        results=(Result("FAD-VGGish", 3.1, "MusicCaps, 300 million parameters", "table 1"),),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=4, model={**TINY, "depth": 2, "breadth": 32, "heads": 2, "learn": 0.0}),
        "cpu": Recipe(
            minutes=20,
            batch_size=8,
            lr=1e-3,
            betas=(0.8, 0.95),
            ema=0.995,
            decay=0.2,
            clip=1.0,
            model={**SMALL, "depth": 4, "breadth": 192, "heads": 6, "seconds": 4.0},
        ),
        "default": Recipe(
            steps=300_000, batch_size=32, lr=3e-4, betas=(0.8, 0.95), decay=0.2, clip=1.0, curve="cosine"
        ),
    }
    samples_with = ("generator", "kept", "network")
    makes_again = False
    conditions: ClassVar[tuple[str, ...]] = ("label", "source", "seconds", "temperature", "top_k", "top_p")

    def __init__(
        self,
        spec: Spec,
        *,
        mel: str = "hifigan@16000",
        segment: int = 16_384,
        latent: int = 64,
        width: int = 512,
        inner: int = 1536,
        layers: int = 8,
        stages: int = 4,
        codes: int = 1024,
        period_width: int = 32,
        resolution_width: int = 32,
        similar: float = 45.0,
        features: float = 1.0,
        commitment: float = 1.0,
        alone: float = 0.0,
        learn: float = 0.5,
        depth: int = 12,
        breadth: int = 768,
        heads: int = 12,
        dropout: float = 0.1,
        seconds: float = 10.0,
    ):
        super().__init__(
            spec,
            mel=mel,
            segment=segment,
            latent=latent,
            width=width,
            inner=inner,
            layers=layers,
            stages=stages,
            codes=codes,
            period_width=period_width,
            resolution_width=resolution_width,
            similar=similar,
            features=features,
            commitment=commitment,
            alone=alone,
        )
        if not 0 <= learn < 1:
            raise UserError(f"--model.learn is the share of the run for the codec, from 0 to below 1, not {learn}.")
        if breadth % heads or breadth // heads % 2:
            raise UserError(f"--model.breadth {breadth} must share out to {heads} heads of an even number each.")
        self.learn, self.stages, self.codes = learn, stages, codes
        self.length = spec.shape[1] // self.mel.hop  # of an item
        self.context = self.length + stages - 1  # columns that the transformer learns on
        plan = Plan(
            vocabulary=stages * (codes + 1) + max(1, len(spec.classes)),
            width=breadth,
            layers=depth,
            heads=heads,
            groups=heads,
            head=breadth // heads,
            hidden=4 * breadth,
            feed="gelu",
            tied=False,
            dropout=dropout,
        )
        self.network = Transformer(plan)

    @classmethod
    def asks(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().asks(config), "seconds": config["seconds"]}

    def starts_fresh(self, name: str) -> bool:
        return name.startswith(("network.", "kept."))

    def sheet(self, samples: Tensor, *, seed: int = 0) -> Tensor:
        """Spectrograms as pictures [n, 3, bands, T]."""
        return pictured(self.mel, samples)

    # learning
    def phases(self) -> list[Phase]:
        """First of all the transformer's, by whose loss the run is watched; the codec's rates fall before its turn comes."""
        learn = self.learn
        codec = [
            replace(p, span=(learn * p.span[0], learn * p.span[1]), decay=0.5 if p.span[1] == 1 else 0.0)
            for p in super().phases()
        ]
        return [Phase("next", ("network",), span=(learn, 1.0)), *(codec if learn else [])]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        if phase != "next":
            return super().loss(batch, phase)
        columns = delayed(self.encode(batch["audio"]), self.codes)  # [B, S, K]
        before = self.begun(columns[:, :-1], self._labels(batch, len(columns)))
        scores = self.scores(self.network.features(before))
        errors = F.cross_entropy(scores.flatten(0, 2).float(), columns.flatten(), reduction="none").view_as(columns)
        meant = columns != self.codes
        return {"nats": (errors * meant).flatten(1).sum(1) / meant.flatten(1).sum(1)}

    def _labels(self, batch: Batch, n: int) -> Tensor:
        return batch["label"] if self.spec.classes else torch.zeros(n, dtype=torch.int64, device=self.device)

    def begun(self, columns: Tensor, labels: Tensor) -> Tensor:
        """Columns [B, S, K] as ids of the network [B, 1 + S, K], after the token of each one's class."""
        size = self.codes + 1
        ids = columns + size * torch.arange(self.stages, device=columns.device)
        first = (size * self.stages + labels)[:, None, None].expand(-1, 1, self.stages)
        return torch.cat([first, ids], 1)

    def scores(self, features: Tensor) -> Tensor:
        """Logits [B, S, K, V + 1] of features [B, S, W]; the last, of no code, is never meant."""
        return self.network.logits(features)[..., : self.stages * (self.codes + 1)].unflatten(2, (self.stages, -1))

    # making
    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        label: int | Tensor | None = None,
        source: str | Tensor | list[Tensor] | None = None,
        seconds: float | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Tensor | list[Tensor]:
        """[n, 1, N] in [-1, 1]: clips of `seconds`, by default as long as the data's items.

        With `source`, waves [1, N] at the model's rate or one for all, a list of [1, N']: each begins with its source itself,
        to the last whole frame, and goes on for `seconds`, faded over within that frame. Without `label` the classes
        come in turn. Raises UserError for a value out of range, and for a source that is no wave.
        """
        sampling = Sampling(temperature, top_k, top_p)
        frames = self.length if seconds is None else -(-round(seconds * self.mel.rate) // self.mel.hop)
        if frames < 1:
            raise UserError(f"seconds must be {self.mel.hop / self.mel.rate:g} or more, not {seconds:g}.")
        labels = self.item_labels(n, label, start) if self.spec.classes else torch.zeros(n, dtype=torch.int64)
        labels = labels.to(self.device)
        if source is None:
            nothing = torch.zeros(n, self.stages, 0, dtype=torch.int64, device=self.device)
            return self.decode(self.write(nothing, frames, labels, sampling, seed=seed, start=start))
        made = []
        for i, wave in enumerate(self.prompts(source, n)):
            codes = self.write(
                self.encode(wave), frames, labels[i : i + 1], sampling, seed=seed, start=start + i
            )  # one by one: they differ in length
            made.append(joined(wave, self.decode(codes), self.mel.hop, frames)[0].cpu())
        return made

    def prompts(self, source: str | Tensor | list[Tensor], n: int) -> list[Tensor]:
        """n waves [1, 1, N]. Raises UserError for what is none."""
        if isinstance(source, str):
            raise UserError("sample takes sources as tensors here: genloom.sample reads paths.")
        given = [source] * n if isinstance(source, Tensor) and source.ndim == 2 else list(source)
        if len(given) != n:
            raise UserError(f"{n} samples need {n} sources or one for all, not {len(given)}.")
        for wave in given:
            if wave.ndim != 2 or len(wave) != 1:
                raise UserError(f"'{self.name}' goes on from sounds, not from mel spectrograms: give it a sound file.")
        return [wave.to(self.device)[None] for wave in given]

    @torch.no_grad()
    def write(
        self, prompt: Tensor, frames: int, labels: Tensor, sampling: Sampling, *, seed: int, start: int
    ) -> Tensor:
        """Codes [B, K, T + frames] that go on from codes [B, K, T]; row i's draws depend on (seed, start + i) alone."""
        told = prompt.shape[2]
        columns = delayed(F.pad(prompt, (0, frames), value=self.codes), self.codes)  # [B, S, K]
        window = Window(self, columns, told, labels)
        steps = columns.shape[1] - told
        rows = range(start, start + len(columns))
        chance = torch.stack([torch.rand(steps, self.stages, generator=generator(seed, i)) for i in rows])
        stage = torch.arange(self.stages, device=columns.device)
        for step in range(steps):
            at = told + step
            scores = sampling.process(window.scores.flatten(0, 1))
            drawn = sampling.draw(scores, chance[:, step].flatten().to(scores.device)).view(-1, self.stages)
            wanted = (at - stage >= told) & (at - stage < told + frames)  # those before are the prompt's
            columns[:, at] = torch.where(wanted, drawn, columns[:, at])
            if step < steps - 1:
                window.push(at)
        return undelayed(columns)

    def stream(self, *_: Any, **__: Any) -> Any:
        raise UserError("'sound' makes a clip as a whole: leave --stream out.")


class Window:
    """What the transformer sees of `columns` [B, S, K], that are being filled: at most `context`, then the later half.

    `scores` [B, K, V] are the logits of the next column.
    """

    def __init__(self, model: Sound, columns: Tensor, filled: int, labels: Tensor):
        self.model, self.columns, self.labels = model, columns, labels
        self.scores: Tensor
        self._begin(filled - model.context // 2 if filled > model.context else 0, filled)

    def push(self, at: int) -> None:
        """Column `at` has been filled."""
        if self.cache.length > self.model.context:
            return self._begin(at + 1 - self.model.context // 2, at + 1)
        ids = self.model.begun(self.columns[:, at : at + 1], self.labels)[:, 1:]
        self._run(ids)

    def _begin(self, start: int, stop: int) -> None:
        """See columns start to stop as a clip of its own: the later stages' first codes are none."""
        seen = self.columns[:, start:stop]
        place = torch.arange(stop - start, device=seen.device)[:, None]
        early = place < torch.arange(self.model.stages, device=seen.device)
        ids = self.model.begun(seen.masked_fill(early, self.model.codes), self.labels)
        like = self.model.network.tokens.weight.new_zeros((), dtype=computed_in(self.model.network))
        self.cache = Cache(self.model.network.plan, len(ids), self.model.context + 1, like)
        self._run(ids)

    def _run(self, ids: Tensor) -> None:
        features = self.model.network.features(ids, cache=self.cache)[:, -1:]
        self.scores = self.model.scores(features)[:, 0, :, :-1].float()


def joined(prompt: Tensor, made: Tensor, hop: int, frames: int) -> Tensor:
    """The prompt [1, 1, N] itself, then what was made after it; `made` [1, 1, N'] has the prompt's frames made anew."""
    told = made.shape[2] - frames * hop
    rise = torch.zeros(made.shape[2], device=made.device)
    rise[told:] = 1
    if told:
        rise[told - hop : told] = torch.linspace(0, 1, hop, device=made.device)
    own = F.pad(prompt[..., :told], (0, frames * hop))
    return torch.lerp(own, made, rise).clamp(-1, 1)
