"""Text to speech: an alignment that is learnt by search, durations, and a flow from noise to mel spectrograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Card, Model, Recipe, Result, Spec, generator, mix, register
from genloom.errors import UserError
from genloom.nn.alignment import deviance, diagonal, search, spread_out
from genloom.nn.griffin_lim import griffin_lim
from genloom.nn.mel import Mel, painted
from genloom.nn.packed import EPS, Block, Inside
from genloom.objectives.diffusion import interpolate, logit_normal, preconditioning, sample_adams
from genloom.objectives.vocoding import Vocoder, agreed
from genloom.text.spoken import Alphabet

KEPT, PICTURED = 8, 4.0  # utterances that a model keeps of its data, and how many seconds of each are pictured
DIAGONAL = 0.15  # deviation of an alignment's prior, as a share of the clip
RESIDUAL = 0.5  # deviation of mel spectrograms around their letters' means, where their own is 1
SLOWEST = 2.0  # seconds of a letter


# ── networks ─────────────────────────────────────────────────────────────────────────────────────────────────────
class Encoder(nn.Module):
    """Texts i64 [B, L] -> what is known of each letter [B, W, L], and the mean of its mel spectrogram [B, bands, L]."""

    def __init__(self, symbols: int, classes: int, bands: int, width: int, layers: int, dropout: float):
        super().__init__()
        self.symbols = nn.Embedding(symbols + 1, width)
        self.classes = nn.Embedding(classes, width) if classes else None
        self.blocks = nn.ModuleList([Block(width, dropout=dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width, EPS)
        self.mean = nn.Linear(width, bands)

    def forward(self, text: Tensor, inside: Inside, label: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.symbols(text).transpose(1, 2)
        if self.classes is not None and label is not None:
            x = x + self.classes(label)[:, :, None]
        x = x * inside.mask
        for block in self.blocks:
            x = block(x, inside)
        packed = self.norm(inside.pack(x))
        return inside.unpack(packed), inside.unpack(self.mean(packed))


class Durations(nn.Module):
    """[B, W, L] -> the logarithm of each letter's frames [B, L]."""

    def __init__(self, width: int, layers: int, dropout: float):
        super().__init__()
        self.blocks = nn.ModuleList([Block(width, kernel=5, dropout=dropout) for _ in range(layers)])
        self.norm, self.out = nn.LayerNorm(width, EPS), nn.Linear(width, 1)

    def forward(self, x: Tensor, inside: Inside) -> Tensor:
        for block in self.blocks:
            x = block(x, inside)
        return inside.unpack(self.out(self.norm(inside.pack(x))))[:, 0]


class Decoder(nn.Module):
    """What is left of the velocity [B, bands, T], at residuals, means [B, bands, T], letters [B, W, T] and times [B]."""

    def __init__(self, bands: int, letters: int, width: int, layers: int):
        super().__init__()
        self.first = nn.Conv1d(2 * bands + letters, width, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList([Block(width, told=width) for _ in range(layers)])
        self.norm, self.out = nn.LayerNorm(width, EPS), nn.Linear(width, bands)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mean: Tensor, letters: Tensor, t: Tensor, inside: Inside) -> Tensor:
        told = self.time(waves(t))
        x = self.first(torch.cat([x, mean, letters], 1) * inside.mask) * inside.mask
        for block in self.blocks:
            x = block(x, inside, told)
        return inside.unpack(self.out(self.norm(inside.pack(x))))


def waves(t: Tensor) -> Tensor:
    """Times [B] in [0, 1] as sines and cosines [B, 64] of 32 rates from 1 to 1000."""
    angle = t.float()[:, None] * torch.logspace(0, 3, 32, device=t.device)
    return torch.cat([angle.sin(), angle.cos()], 1)


class Kept(nn.Module):
    """What a model keeps of its data: mean and deviation of its mel spectrograms, and some utterances to say again."""

    mean: Tensor
    deviation: Tensor
    text: Tensor
    letters: Tensor
    label: Tensor
    mel: Tensor
    frames: Tensor
    count: Tensor

    def __init__(self, bands: int, letters: int, frames: int):
        super().__init__()
        whole = torch.int64
        self.register_buffer("mean", torch.zeros(bands, 1))
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("text", torch.zeros(KEPT, letters, dtype=whole))
        for name in ("letters", "label", "frames"):
            self.register_buffer(name, torch.zeros(KEPT, dtype=whole))
        self.register_buffer("mel", torch.zeros(KEPT, bands, frames))
        self.register_buffer("count", torch.zeros((), dtype=whole))

    def keep(self, batch: Batch, mels: Sequence[Tensor]) -> None:
        """Statistics of all mel spectrograms [bands, T], and the longest utterances that can be pictured whole."""
        every = torch.cat(list(mels), 1)
        self.mean.copy_(every.mean(1, keepdim=True))
        self.deviation.copy_((every - self.mean).std())
        room = self.mel.shape[2]
        sizes = torch.tensor([m.shape[1] if m.shape[1] <= room else -m.shape[1] for m in mels])
        chosen = sizes.argsort(descending=True, stable=True)[:KEPT].sort().values.tolist()
        self.mel.fill_(float(every.min()))
        for row, i in enumerate(chosen):
            letters = self.letters[row] = batch["letters"][i]
            self.text[row, :letters] = batch["text"][i, :letters]
            frames = self.frames[row] = min(room, mels[i].shape[1])
            self.mel[row, :, :frames] = mels[i][:, :frames]
            self.label[row] = batch["label"][i] if "label" in batch else 0
        self.count.fill_(len(chosen))

    def order(self, n: int, seed: int, start: int) -> list[int]:
        """Which utterance each sample says: all in the seed's own order, then again. Raises UserError when none is kept."""
        if not (count := int(self.count)):
            raise UserError("This model keeps no text of its data: give it a --prompt.")
        return torch.randperm(count, generator=generator(seed, 1))[torch.arange(start, start + n) % count].tolist()


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────
@register("tts")
class TTS(Model):
    """Speech [1, N] of a text, in the voice or language of a label.

    `mel` says in words which mel spectrogram it makes (nn.mel.Mel.of): a vocoder of the same makes it a wave.
    `width` and `layers` are of the text's network, `decoder_width` and `decoder_layers` of the one on frames, that learns
    from `segment` seconds of each clip at a time.
    """

    modality = "audio"
    needs = "speech"
    card = Card(
        paper="Matcha-TTS: A fast TTS architecture with conditional flow matching",
        authors="Mehta, Tu, Beskow, Székely, Henter",
        year=2023,
        url="https://arxiv.org/abs/2309.03199",
        summary="Speech of a text: learns which letter is spoken when, then flows from noise to a mel spectrogram.",
        changes="Convolutions in place of transformers and a U-Net, for a few minutes of speech and a CPU. The network learns "
        "what is left of the velocity after the best linear guess from each letter's mean (Karras et al. 2022), and is also "
        "told what the text's network knows of the letter. Letters as well as phonemes; a space at each end stands for silence. "
        "Durations are of a Poisson distribution, so that speech does not hurry. Alignments begin at an even pace.",
        results=(
            Result("word error rate (Whisper, %)", 2.09, "LJ Speech, 10 steps; vocoded recordings 1.97", "table 1"),
        ),
    )
    recipes = {
        "tiny": Recipe(
            steps=12,
            batch_size=4,
            model={
                "mel": "melgan@8000,n_fft=256,window=256,hop=64,bands=32",
                "width": 16,
                "layers": 1,
                "decoder_width": 16,
                "decoder_layers": 1,
                "segment": 0.5,
            },
        ),
        "cpu": Recipe(
            minutes=20,
            batch_size=16,
            lr=2e-3,
            betas=(0.9, 0.98),
            ema=0.998,
            decay=0.5,
            clip=1.0,
            warmup=0.02,
            model={"mel": "melgan@16000"},
        ),
        "default": Recipe(
            steps=100_000,
            batch_size=32,
            lr=5e-4,
            betas=(0.9, 0.98),
            clip=1.0,
            warmup=0.02,
            decay=0.5,
            model={"width": 256, "layers": 6, "decoder_width": 384, "decoder_layers": 10},
        ),
    }
    conditions = ("prompt", "label", "vocoder", "pace", "temperature", "ode_steps")
    borrows = ("vocoder",)
    looks_at = 16

    def __init__(
        self,
        spec: Spec,
        *,
        mel: str = "melgan",
        width: int = 160,
        layers: int = 4,
        decoder_width: int = 160,
        decoder_layers: int = 6,
        segment: float = 2.0,
        dropout: float = 0.1,
    ):
        found = agreed(spec, mel)
        super().__init__(replace(spec, extra={**spec.extra, "mel": found.to_json()}))
        self.mel, self.alphabet = found, Alphabet.of(spec.extra)
        self.segment = max(1, round(segment * found.rate / found.hop))
        symbols, bands = len(self.alphabet.alphabet), found.bands
        self.encoder = Encoder(symbols, len(spec.classes), bands, width, layers, dropout)
        self.durations = Durations(width, 2, dropout)
        self.decoder = Decoder(bands, width, decoder_width, decoder_layers)
        frames = found.frames(min(spec.shape[1], round(PICTURED * found.rate)))
        self.kept = Kept(bands, int(spec.extra["letters"]), frames)

    @classmethod
    def asks(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"rate": Mel.of(config["mel"]).rate}

    def prepare(self, batch: Batch) -> None:
        mels = self.mels(batch)
        self.kept.keep(batch, mels)
        each = sum(m.shape[1] for m in mels) / int(batch["letters"].sum())  # frames of a letter
        nn.init.constant_(self.durations.out.bias, math.log(each))

    def grid(self) -> int:
        return int(self.kept.count) or KEPT

    # learning
    def mels(self, batch: Batch) -> list[Tensor]:
        """The mel spectrogram [bands, T] of each clip, of its own length: nothing is done for what fills it up."""
        waves = zip(batch["audio"], batch["samples"].tolist(), strict=True)
        return [self.mel(audio[:, :samples].float())[0] for audio, samples in waves]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """`prior`: how far mel spectrograms are from their letters' means; `durations`; `flow`."""
        with torch.no_grad():
            clips = [(m - self.kept.mean) / self.kept.deviation for m in self.mels(batch)]
        letters, frames = batch["letters"], torch.tensor([c.shape[1] for c in clips], device=self.device)
        data = nn.utils.rnn.pad_sequence([c.T for c in clips], batch_first=True).transpose(1, 2)  # [B, bands, T]
        inside = Inside(letters, batch["text"].shape[1])
        known, mean = self.encoder(batch["text"], inside, batch.get("label"))
        counts = self.align(mean, data, letters, frames)
        means = spread_out(mean.float(), counts, data.shape[2])
        whole = Inside(frames, data.shape[2]).mask
        prior = ((data - means).square().mean(1, keepdim=True) * whole).sum((1, 2)) / frames
        guess = self.durations(known.detach(), inside).float()
        wrong = (deviance(guess, counts) * inside.mask[:, 0]).sum(1) / letters
        cut = self._segments(frames)
        known = spread_out(known, counts, data.shape[2])
        flow = self.flow(at(data, cut), at(means.detach(), cut), at(known, cut), frames)
        return {"prior": prior, "durations": wrong, "flow": flow}

    def align(self, mean: Tensor, data: Tensor, letters: Tensor, frames: Tensor) -> Tensor:
        """Frames of each letter i64 [B, L]: log N(data; mean, 1) up to what all letters share, and the prior's."""
        with torch.no_grad(), torch.autocast(data.device.type, enabled=False):
            mean, data = mean.float(), data.float()
            gains = mean.transpose(1, 2) @ data - 0.5 * mean.square().sum(1)[:, :, None]  # [B, L, T]
            return search(gains + diagonal(letters, frames, gains.shape[1], gains.shape[2], DIAGONAL), letters, frames)

    def _segments(self, frames: Tensor) -> Tensor:
        """[B, S] the frames that the flow learns from: so many from a place that is drawn anew each step."""
        size = min(self.segment, int(frames.max()))
        room = (frames - size).clamp(min=0)
        first = (parallel.rand(len(frames), device=self.device) * (room + 1)).long().clamp(max=room)
        return first[:, None] + torch.arange(size, device=self.device)

    def flow(self, data: Tensor, mean: Tensor, known: Tensor, frames: Tensor) -> Tensor:
        """[B]: (v - (x1 - x0))² of the first frames [B, bands, S] (Lipman et al. 2023, eq. 23)."""
        inside = Inside(frames, data.shape[2])
        noise, t = self.randn(*data.shape), logit_normal(self.randn(len(data)))
        velocity = self.velocity(interpolate(noise, data, t), t, mean, known, inside)
        wrong = (velocity - (data - noise)).square().mean(1, keepdim=True) * inside.mask
        return wrong.sum((1, 2)) / inside.mask.sum((1, 2))

    def velocity(self, x: Tensor, t: Tensor, mean: Tensor, known: Tensor, inside: Inside) -> Tensor:
        """f32 [B, bands, T] at x and times [B]: the best linear guess for data around `mean`, and what is learnt."""
        slope, inner, outer = (c.view(-1, 1, 1) for c in preconditioning(t, RESIDUAL))
        residual = x - t.view(-1, 1, 1) * mean
        return mean + slope * residual + outer * self.decoder(inner * residual, mean, known, t, inside).float()

    # making
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        prompt: str | list[str] | None = None,
        label: int | Tensor | None = None,
        vocoder: Model | None = None,
        pace: float = 1.0,
        temperature: float = 0.667,
        ode_steps: int = 8,
    ) -> list[Tensor]:
        """n waves [1, N] in [-1, 1] that say `prompt`, one text for all or one each, or texts of the data.

        Without `label` speakers come in turn, or as in the data. `vocoder`: a model that makes waves of this mel
        spectrogram; without one Griffin-Lim does. `pace` 1.2 is a fifth faster; `temperature` scales the noise.
        Raises UserError for texts that cannot be said, another vocoder, and numbers that make no sense.
        """
        self._check(pace, temperature, ode_steps)
        texts, labels = self._said(n, seed, start, prompt, label)
        made = []
        for i, text in enumerate(texts):
            mel = self.spoken(text, labels[i : i + 1], mix(seed, start + i), pace, temperature, ode_steps)
            made.append(self.voiced(mel, vocoder, mix(seed, start + i, 1))[0].cpu())
        return made

    def _said(
        self, n: int, seed: int, start: int, prompt: str | list[str] | None, label: int | Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """Numbers [L] of the text of each sample, and its class [n]."""
        if prompt is None:
            rows = self.kept.order(n, seed, start)
            kept = self.kept.label[rows] if self.spec.classes and label is None else label
            texts = [self.kept.text[r, : int(self.kept.letters[r])] for r in rows]
            return texts, self.item_labels(n, kept, start) if self.spec.classes else self.kept.label.new_zeros(n)
        prompts = [prompt] * n if isinstance(prompt, str) else list(prompt)
        if len(prompts) != n:
            raise UserError(f"{n} samples need {n} prompts or one for all, not {len(prompts)}.")
        texts = [torch.tensor(t, device=self.device) for t in self.alphabet.encode(prompts)]
        if not self.spec.classes and label is not None:
            raise UserError("This model was trained without labels of speakers or languages: leave --label out.")
        return texts, self.item_labels(n, label, start) if self.spec.classes else self.kept.label.new_zeros(n)

    @torch.no_grad()
    def spoken(self, text: Tensor, label: Tensor, seed: int, pace: float, temperature: float, steps: int) -> Tensor:
        """The mel spectrogram [1, bands, T] of a text i64 [L] in the voice of label [1]."""
        every = Inside(label.new_tensor([len(text)]), len(text))
        known, mean = self.encoder(text[None], every, label)
        most = SLOWEST * self.mel.rate / self.mel.hop
        long = self.durations(known, every).float().exp().clamp(1, most) / pace  # [1, L]
        ends = long.cumsum(1).round()
        counts = torch.diff(ends, dim=1, prepend=ends.new_zeros(1, 1)).long()
        total = max(1, int(counts.sum()))
        means, knowing = (spread_out(x, counts, total).float() for x in (mean, known))
        noise = torch.randn(total, self.mel.bands, generator=generator(seed)).T[None].to(self.device) * temperature
        inside = Inside(label.new_tensor([total]), total)
        made = sample_adams(lambda x, t: self.velocity(x, t.expand(1), means, knowing, inside), noise, steps)
        return self.kept.mean + self.kept.deviation * made

    def voiced(self, mel: Tensor, vocoder: Model | None, seed: int) -> Tensor:
        """A mel spectrogram [1, bands, T] as a wave [1, 1, N]. Raises UserError for a vocoder of another kind."""
        lowest = math.log(self.mel.floor) / (math.log(10) if self.mel.log == "10" else 1.0)
        mel = mel.clamp(min=lowest)
        if vocoder is None:
            return griffin_lim(mel, self.mel, seed=seed)[:, None].clamp(-1, 1)
        if not isinstance(vocoder, Vocoder):
            raise UserError(f"'{vocoder.name}' is no vocoder: give a run of melgan, hifigan or vocos.")
        same = replace(self.mel, log=vocoder.mel.log, floor=max(self.mel.floor, vocoder.mel.floor))
        if said := same.differences(vocoder.mel):
            raise UserError(
                f"This vocoder takes another mel spectrogram than this model makes: {said}; fit one with "
                f"--model.mel '{self.config.get('mel', 'the same')}'."
            )
        return vocoder.vocode(self.mel.convert(mel, vocoder.mel).to(vocoder.device))

    @staticmethod
    def _check(pace: float, temperature: float, ode_steps: int) -> None:
        if not 0.1 <= pace <= 10:
            raise UserError(f"pace is {pace:g}: take 0.1 to 10, 1 for the data's own.")
        if not 0 <= temperature <= 2:
            raise UserError(f"temperature is {temperature:g}: take 0 to 2.")
        if ode_steps < 1:
            raise UserError(f"ode_steps is {ode_steps}: take 1 or more.")

    def sheet(self, samples: list[Tensor], *, seed: int = 0) -> Tensor:
        """Spectrograms as pictures [n, 3, H, W]: of each utterance that was kept, and below it what was made of its text."""
        rows = self.kept.order(len(samples), seed, 0)
        real = self.kept.mel[rows].cpu()
        made = torch.full_like(real, float(real.min()))
        for place, wave in zip(made, samples, strict=True):
            found = self.mel(F.pad(wave, (0, max(0, self.mel.pad + 1 - wave.shape[1]))))[0, :, : real.shape[2]]
            place[:, : found.shape[1]] = found
        sides = [painted(self.mel, x) for x in (real, made)]
        return torch.cat([sides[0], sides[0].new_ones(*sides[0].shape[:2], 2, sides[0].shape[3]), sides[1]], 2)


def at(x: Tensor, places: Tensor) -> Tensor:
    """[B, C, S] of x [B, C, T] at places [B, S], those of each item."""
    return x.gather(2, places[:, None].expand(-1, x.shape[1], -1))
