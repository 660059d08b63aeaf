"""What vocoders share: a wave from a mel spectrogram, judged by what a critic's layers make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from genloom import parallel
from genloom.core import Batch, Model, Phase, Spec, generator
from genloom.errors import UserError
from genloom.nn.mel import LOGS, Mel, pictured
from genloom.nn.stft import multi_resolution
from genloom.nn.streaming import Chain, Framed, Pipe, through
from genloom.objectives.adversarial import Objective

KEPT = 8  # clips of the data that a model keeps, to be heard again
WHOLE = 2000  # frames; longer mel spectrograms are made piece by piece, in memory that does not grow


Features = Sequence[Sequence[Tensor]]  # of each discriminator, of each layer, the last of which are logits


class Vocoder(Model):
    """A wave [B, 1, N] of a mel spectrogram [B, bands, T], by `generator`; `discriminator` gives features of waves.

    A subclass gives both networks. `mel` says in words which mel spectrogram it is (nn.mel.Mel.of); it becomes part of
    the Spec, so of every run. `segment`: samples that one item is in training. `similar` weighs the L1 distance of mel
    spectrograms, `spectra` that of spectra at several resolutions (nn/stft.py), `features` that of the discriminators'
    features. For the first `alone` of a run the former two teach alone, which is cheap and steady.
    """

    modality = "audio"
    exact = True
    conditions: ClassVar[tuple[str, ...]] = ("source", "kind")
    samples_with: ClassVar[tuple[str, ...]] = ("generator", "kept")
    looks_at = 16
    makes_again: ClassVar[bool] = True  # samples are clips of the data made again; else they are from nothing
    objective: Objective
    generator: nn.Module
    discriminator: nn.Module

    def __init__(
        self, spec: Spec, *, mel: str, segment: int, similar: float, spectra: float, features: float, alone: float
    ):
        found = agreed(spec, mel)
        super().__init__(replace(spec, extra={**spec.extra, "mel": found.to_json()}))
        self.mel, self.features, self.alone = found, features, alone
        self.similar, self.spectra = similar, spectra
        self.whole = replace(
            found, fmax=None
        )  # learning hears what the mel spectrogram may leave out (Kong et al. 2020)
        if alone and not (similar or spectra):
            raise UserError(
                "--model.alone needs --model.similar or --model.spectra: nothing else teaches without a critic."
            )
        length = spec.shape[1] // self.mel.hop * self.mel.hop
        self.segment = min(segment // self.mel.hop * self.mel.hop, length)
        if self.segment <= self.mel.pad:
            raise UserError(
                f"A segment of {self.segment} samples is too short for this mel spectrogram: it needs more than {self.mel.pad}; "
                "give a larger --model.segment, and --data.seconds."
            )
        self.kept = Clips(length)
        self.made: list[tuple[Tensor, Tensor]] = []  # what the generator's phase made, for the discriminator's

    def check_hop(self, made: int, said: str) -> None:
        """Raises UserError where the network makes another number of samples of a frame than the mel spectrogram has."""
        if made != self.mel.hop:
            raise UserError(
                f"{said} is {made}, and a frame of this mel spectrogram is {self.mel.hop} samples: let them agree."
            )

    @classmethod
    def asks(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"rate": Mel.of(config["mel"]).rate}

    def prepare(self, batch: Batch) -> None:
        self.kept.keep(batch["audio"])

    def grid(self) -> int:
        return int(self.kept.count) or KEPT

    def sheet(self, samples: Tensor, *, seed: int = 0) -> Tensor:
        """Spectrograms as pictures [n, 3, H, W]: of each clip that was kept, and below it what was made of it."""
        real = self.kept.take(len(samples), seed, 0).to(samples)
        length = samples.shape[2]
        sides = [pictured(self.mel, x[..., :length]) for x in (real, samples)]
        return torch.cat([sides[0], sides[0].new_ones(*sides[0].shape[:2], 2, sides[0].shape[3]), sides[1]], 2)

    # learning
    def phases(self) -> list[Phase]:
        both: tuple[float, float] = (self.alone, 1.0)
        phases = [
            Phase("generator", ("generator",), span=both),
            Phase("discriminator", ("discriminator",), span=both),
        ]
        return [Phase("similar", ("generator",), span=(0.0, self.alone)), *phases] if self.alone else phases

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        if phase == "discriminator":
            real, fake = self.made.pop(0) if self.made else self._made_again(batch)[:2]
            r, f = self.discriminator(real), self.discriminator(fake.detach())
            return {"discriminator": over_maps(self.objective.critic, r, f)}
        real, fake, terms = self._made_again(batch)
        if self.similar:
            terms["similar"] = self.similar * self.distance(real, fake)
        if self.spectra:
            terms["spectra"] = self.spectra * torch.stack(multi_resolution(real[:, 0], fake[:, 0])).sum(0)
        if phase == "generator":
            if self.training:
                self.made.append((real, fake.detach()))
            with torch.no_grad():
                r = self.discriminator(real)
            f = self.discriminator(fake)
            terms["generator"] = over_maps(self.objective.generator, r, f, self.weights(len(f)))
            terms["features"] = self.features * self.matching(r, f)
        return terms

    def _made_again(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Segments [B, 1, N] of the data, what is made of their mel spectrograms, and terms of that alone."""
        real = self.segments(batch["audio"])
        fake, terms = self.made_of(self.mel(real))
        return real[..., : fake.shape[2]], fake, terms

    def made_of(self, mel: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The wave [B, 1, N] of [B, bands, T] in training, and terms [B] to minimise beside what compares waves."""
        return self.generator(mel), {}

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """[B]: how far waves [B, 1, N] are apart, before its weight."""
        return mel_distance(self.whole, real, fake)

    def after_step(self, progress: float) -> None:
        self.made.clear()

    def matching(self, real: Features, fake: Features) -> Tensor:
        """[B]: the distance of the features of all layers, before its weight."""
        return feature_matching(real, fake, self.weights(len(fake)))

    def weights(self, count: int) -> Sequence[float]:
        """What each of so many discriminators counts for the generator."""
        return [1.0] * count

    def segments(self, audio: Tensor) -> Tensor:
        """[B, 1, segment]: from a place in each item [B, 1, N] that is drawn anew each step."""
        room = audio.shape[2] - self.segment
        if room <= 0:
            return audio[..., : self.segment]
        starts = parallel.randint(room + 1, len(audio), device=torch.device("cpu")).tolist()
        return torch.stack([x[:, s : s + self.segment] for x, s in zip(audio, starts, strict=True)])

    # making
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        source: str | Tensor | list[Tensor] | None = None,
        kind: str | None = None,
    ) -> Tensor | list[Tensor]:
        """[n, 1, N] in [-1, 1], made of clips of the data that the model keeps, in the seed's own order.

        With `source` a list [1, N'] of each wave [1, N] at the model's rate or mel spectrogram [bands, T], or one for all.
        `kind` says which mel spectrograms those are, in the words of Mel.of: they are converted where that can be done
        exactly. Raises UserError for others, and for a `kind` where none is given.
        """
        if isinstance(source, str):
            raise UserError("sample takes sources as tensors here: genloom.sample reads paths.")
        if source is None:
            self.of_no_kind(kind)
            clips = self.kept.take(n, seed, start).to(self.device)
            return torch.cat([self.vocode(self.mel(clip[None])) for clip in clips])
        given = [source] * n if isinstance(source, Tensor) and source.ndim == 2 else list(source)
        if len(given) != n:
            raise UserError(f"{n} samples need {n} sources or one for all, not {len(given)}.")
        return [self.vocode(self.frames(x, kind))[0].cpu() for x in given]

    def frames(self, source: Tensor, kind: str | None = None) -> Tensor:
        """The mel spectrogram [1, bands, T] of a wave [1, N], or of such a spectrogram [bands, T], checked.

        Raises UserError for one that this model does not know what to make of.
        """
        source = source.to(self.device)
        if source.ndim == 2 and len(source) == 1:
            self.of_no_kind(kind)
            return self.mel(source)
        return self.mel.checked(source, kind)[None]

    @staticmethod
    def of_no_kind(kind: str | None) -> None:
        """Raises UserError for a kind of mel spectrogram where the source is none."""
        if kind is not None:
            raise UserError(
                f"kind says which mel spectrogram the source is, and there is none to be '{kind}': leave it out."
            )

    @torch.no_grad()
    def vocode(self, mel: Tensor) -> Tensor:
        """[B, bands, T] -> [B, 1, N] in [-1, 1]."""
        if mel.shape[2] > WHOLE:
            return torch.cat([*self.stream(mel.split(WHOLE // 4, 2))], 2)
        with parametrize.cached():  # of a direction and a length a weight is made once
            return self.generator(mel).float()

    def stream(self, pieces: Iterable[Tensor], *, waves: bool = False) -> Iterator[Tensor]:
        """What `vocode` would make of the whole, piece by piece [B, 1, n], of pieces [B, bands, t] of any lengths.

        With `waves` the pieces are of a wave, [B, 1, n] at the model's rate. Memory does not grow with the whole.
        """
        pipe: Pipe = self.pipe()
        with parametrize.cached():
            for made in through(Chain(Framed(self.mel), pipe) if waves else pipe, pieces):
                if made.shape[2]:
                    yield made.float()

    def pipe(self) -> Pipe:
        """The generator, fed piece by piece."""
        return self.generator.pipe()  # type: ignore[operator]


def agreed(spec: Spec, mel: str) -> Mel:
    """The mel spectrogram in these words. Raises UserError where the data's is another, or its rate."""
    found, rate = Mel.of(mel), int(spec.extra["rate"])
    theirs = spec.extra.get("mel")
    if theirs is not None and (said := found.differences(Mel.of(theirs))):
        raise UserError(f"This model's mel spectrogram is not the data's: {said}.")
    if found.rate != rate:
        name = mel.split(",")[0].split("@")[0]
        raise UserError(
            f"The mel spectrogram '{mel}' is of {found.rate} samples a second, and the data has {rate}: give "
            f"--data.rate {found.rate}, or --model.mel {name}@{rate}."
        )
    return found


def mel_distance(mel: Mel, real: Tensor, fake: Tensor) -> Tensor:
    """[B]: mean |log mel(r) - log mel(f)| of waves [B, 1, N] (Kong et al. 2020, eq. 3)."""
    return LOGS[mel.log] * (mel(real) - mel(fake)).abs().flatten(1).mean(1)


def over_maps(
    loss: Callable[[Tensor, Tensor], Tensor], real: Features, fake: Features, weights: Sequence[float] | None = None
) -> Tensor:
    """[B]: the loss of real and fake logits (objectives/adversarial.py), its mean over each map, summed over discriminators.

    Kumar et al. 2019, eq. 1 and 2; Kong et al. 2020, eq. 1 and 2, which are twice Mao's.
    """
    losses = [loss(r[-1].float(), f[-1].float()) for r, f in zip(real, fake, strict=True)]
    return _summed(losses, weights or [1.0] * len(losses))


def feature_matching(real: Features, fake: Features, weights: Sequence[float] | None = None) -> Tensor:
    """Σ mean |r - f| [B] over all features given: Kumar et al. 2019, eq. 3; Kong et al. 2020, eq. 4, which weighs it by 2.

    A caller whose paper leaves the logits out hands over the layers before them.
    """
    groups = [
        [(r.float() - f.float()).abs() for r, f in zip(rs, fs, strict=True)] for rs, fs in zip(real, fake, strict=True)
    ]
    each = [w for group, w in zip(groups, weights or [1.0] * len(groups), strict=True) for _ in group]
    return _summed([x for group in groups for x in group], each)


def _summed(losses: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """[B]: the weighed sum of each one's mean over all but the examples."""
    return torch.stack([w * x.flatten(1).mean(1) for x, w in zip(losses, weights, strict=True)]).sum(0)


def whole_numbers(option: str, text: str) -> list[int]:
    """`8 8 2 2` as numbers. Raises UserError for another text."""
    if not (words := text.split()) or not all(w.isdecimal() and int(w) > 0 for w in words):
        raise UserError(f"--model.{option} are whole numbers such as '8 8 2 2', not '{text}'.")
    return [int(w) for w in words]


def in_words(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


class Clips(nn.Module):
    """Some clips of the data, as 16-bit numbers: what looks and reports hear again."""

    waves: Tensor
    count: Tensor

    def __init__(self, length: int):
        super().__init__()
        self.register_buffer("waves", torch.zeros(KEPT, length, dtype=torch.int16))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def keep(self, audio: Tensor) -> None:  # [B, 1, N]
        loudest = audio[:, 0].abs().amax(1).argsort(descending=True, stable=True)[:KEPT].sort().values
        some = audio[loudest, 0, : self.waves.shape[1]]
        self.waves[: len(some)] = (some.clamp(-1, 1) * 32767).round().to(torch.int16)
        self.count.fill_(len(some))

    def take(self, n: int, seed: int, start: int) -> Tensor:
        """[n, 1, N]: clip i is the i-th in the seed's own order, then they come again. Raises UserError when none was kept."""
        count = int(self.count)
        if not count:
            raise UserError(
                "This model makes waves of mel spectrograms and keeps no clip of its data: give it a --source."
            )
        rows = torch.randperm(count, generator=generator(seed, 1))[torch.arange(start, start + n) % count]
        return self.waves[rows.to(self.waves.device)][:, None].float() / 32767
