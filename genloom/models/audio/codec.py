"""A neural codec: sound to a few numbers a frame and back, by residual vector quantisation inside a Vocos."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core import Batch, Card, Recipe, Spec, register
from genloom.errors import UserError
from genloom.models.audio.vocos import EPS, Block, Discriminators, Generator, SpectralVocoder
from genloom.nn.lined import Convolution, lined
from genloom.nn.mel import Mel
from genloom.nn.quantise import MovingCodebook, Residual
from genloom.nn.streaming import Added, Chain, Convolved, Each, Pipe
from genloom.objectives.vocoding import mel_distance

HEARD = ((2048, 160), (1024, 80), (512, 40), (256, 20))  # windows and bands that waves are compared by


# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────
class Encoder(nn.Module):
    """Mel frames [B, bands, T] -> vectors [B, T, D] of mean 0 and deviation 1, one a frame: Vocos turned round.

    Their length is fixed, so that what is left for each next codebook stays of one scale while the network learns. Bands
    come in with the data's mean taken off and over its deviation: raw ones, that are much alike, begin in a few codes and
    stay there.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, bands: int, latent: int, width: int, inner: int, layers: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(bands, 1))
        self.register_buffer("deviation", torch.ones(bands, 1))
        self.first = Convolution(bands, width, 7, padding=3)
        self.norm, self.last_norm = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.blocks = nn.ModuleList([Block(width, inner, 1 / layers, 0) for _ in range(layers)])
        self.last, self.straight = nn.Linear(width, latent), nn.Linear(bands, latent)

    def forward(self, mel: Tensor) -> Tensor:
        even = self._even(mel)
        x = self._begin(self.first(even))
        for block in self.blocks:
            x = block(x)
        return self._normal(self._end(x) + self._told(even)).transpose(1, 2)

    # each [B, C, T] -> [B, C', T]
    def _even(self, mel: Tensor) -> Tensor:
        return lined((mel - self.mean) / self.deviation)

    def _begin(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)

    def _end(self, x: Tensor) -> Tensor:
        return self.last(self.last_norm(x.transpose(1, 2))).transpose(1, 2)

    def _told(self, even: Tensor) -> Tensor:
        """The frame itself goes straight to its vector: a quarter fewer steps to the same loss."""
        return self.straight(even.transpose(1, 2)).transpose(1, 2)

    def _normal(self, z: Tensor) -> Tensor:
        return F.layer_norm(z.float().transpose(1, 2), z.shape[1:2]).transpose(1, 2)

    def pipe(self) -> Pipe:
        """The same piece by piece, as [B, D, t]."""
        blocks = [block.pipe() for block in self.blocks]  # type: ignore[operator]
        latent = self.last.out_features
        net = Chain(Convolved(self.first, 3), Each(self._begin), *blocks, Each(self._end, latent))
        return Chain(Each(self._even), Added([net, Each(self._told, latent)]), Each(self._normal))


class Network(nn.Module):
    """Mel frames [B, bands, T] -> codes [B, K, T] -> a wave [B, 1, N]."""

    def __init__(self, mel: Mel, latent: int, width: int, inner: int, layers: int, stages: int, codes: int):
        super().__init__()
        self.encoder = Encoder(mel.bands, latent, width, inner, layers)
        self.quantiser = Residual([MovingCodebook(codes, latent) for _ in range(stages)])
        self.decoder = Generator(latent, width, inner, layers, mel.n_fft, mel.hop, mel.edges)

    def forward(self, mel: Tensor) -> Tensor:
        return self.through(mel)[0]

    def through(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """The wave, and the commitment [B] of the vectors between to their codes."""
        found = self.quantiser(self.encoder(mel))
        return self.decoder(found.values.transpose(1, 2)), found.commitment

    @torch.no_grad()
    def codes(self, mel: Tensor) -> Tensor:
        """i64 [B, K, T] of [B, bands, T]; codebooks stay as they are."""
        return self.quantiser.codes(self.encoder(mel))

    def wave(self, codes: Tensor) -> Tensor:
        """[B, 1, N] of codes [B, K, T]."""
        return self.decoder(self.quantiser.values(codes).transpose(1, 2))

    def pipe(self) -> Pipe:
        chosen = Each(lambda z: self.quantiser(z.transpose(1, 2)).values.transpose(1, 2))
        return Chain(self.encoder.pipe(), chosen, self.decoder.pipe())


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────
TINY = {
    "mel": "hifigan@8000,n_fft=256,window=256,hop=64,bands=40",
    "segment": 1536,
    "latent": 8,
    "width": 16,
    "inner": 32,
    "layers": 2,
    "stages": 2,
    "codes": 16,
    "period_width": 2,
    "resolution_width": 8,
}
SMALL = {
    "segment": 8192,
    "width": 192,
    "inner": 576,
    "layers": 6,
    "period_width": 4,
    "resolution_width": 0,
    "alone": 0.6,
}


@register("codec")
class Codec(SpectralVocoder):
    """Sound as `stages` numbers below `codes` a frame, and the sound that they stand for.

    `mel`, `segment`, `similar`, `features` and `alone` are a Vocoder's, the critics Vocos's; the hop of `mel` is that of the codes. `width`,
    `inner` and `layers` are those of the encoder, and of the decoder; between them each frame is `latent` numbers.
    `commitment` weighs their distance to their codes.
    """

    card = Card(
        paper="SoundStream: An End-to-End Neural Audio Codec",
        authors="Zeghidour, Luebs, Omran, Skoglund, Tagliasacchi",
        year=2021,
        url="https://arxiv.org/abs/2107.03312",
        summary="Sound as a few small numbers a frame, for storing it or for another model to write, and back to sound.",
        changes="Encoder and decoder are Vocos's (Siuzdak 2023): they work at the rate of the codes, from a mel spectrogram and "
        "through an inverse Fourier transform, which a CPU trains in minutes; phases are made up. Waves are compared by mel "
        "spectrograms at four resolutions (as in Kumar et al. 2023), by HiFi-GAN's periods and UnivNet's resolutions. The "
        "vectors have one length. All stages are always used.",
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=4, model=TINY),
        "cpu": Recipe(minutes=20, batch_size=8, lr=1e-3, betas=(0.8, 0.9), ema=0.995, decay=0.5, clip=1.0, model=SMALL),
        "default": Recipe(steps=300_000, batch_size=16, betas=(0.8, 0.9), decay=1.0, curve="cosine"),
    }
    generator: Network

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
    ):
        super().__init__(spec, mel=mel, segment=segment, similar=similar, spectra=0.0, features=features, alone=alone)
        if self.mel.edges != "same":
            raise UserError("A codec has as many frames as hops fit into a clip: give --model.mel edges=same.")
        if min(stages, codes) < 1:
            raise UserError(f"A codec has 1 or more --model.stages and --model.codes, not {stages} and {codes}.")
        self.commitment = commitment
        rate = self.mel.rate
        self.heard = [
            Mel(rate, n, n // 4, n, bands, epsilon=1e-9) for n, bands in HEARD if (n - n // 4) // 2 < self.segment
        ]
        self.generator = Network(self.mel, latent, width, inner, layers, stages, codes)
        self.discriminator = Discriminators(period_width, resolution_width)

    def prepare(self, batch: Batch) -> None:
        super().prepare(batch)
        encoder = self.generator.encoder
        if not encoder.mean.any():  # else it comes from a run before, and has learnt with what it had there
            mel = self.mel(batch["audio"])  # [B, bands, T]
            encoder.mean.copy_(mel.mean((0, 2))[:, None])
            encoder.deviation.copy_(mel.std((0, 2))[:, None].clamp(min=0.1))

    def made_of(self, mel: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        wave, far = self.generator.through(mel)
        return wave, {"commitment": self.commitment * far}

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """The mean over mel spectrograms of several windows: long ones tell pitches, short ones beats."""
        return torch.stack([mel_distance(mel, real, fake) for mel in self.heard]).mean(0)

    def encode(self, audio: Tensor) -> Tensor:
        """Codes i64 [B, K, T] of waves [B, 1, N] at the model's rate; T is how many hops fit into N."""
        return self.generator.codes(self.mel(audio[..., : audio.shape[2] // self.mel.hop * self.mel.hop]))

    def decode(self, codes: Tensor) -> Tensor:
        """Waves [B, 1, T · hop] in [-1, 1] of codes [B, K, T]."""
        return self.generator.wave(codes).float().clamp(-1, 1)
