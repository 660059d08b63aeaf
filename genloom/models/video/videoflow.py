"""Class-conditional rectified flow over clips, that goes on from given frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Card, Model, Recipe, Result, Spec, mix, register
from genloom.errors import UserError
from genloom.nn.spacetime import SpaceTimeUNet, fold
from genloom.objectives.diffusion import (
    flow_matching_loss,
    guided,
    interpolate,
    logit_normal,
    preconditioning,
    sample_adams,
)

GUIDANCE, GUIDED_UNTIL = 4.0, 0.5


@register("videoflow")
class VideoFlow(Model):
    """A velocity field from noise to clips, followed by `ode_steps` steps of an ODE solver.

    Each frame has a time of its own: frames that are given stand at its end, clean, and the others come to them.
    `drop` is the share of clips trained without their class, which is what guidance leads away from; `prompted` the
    share of them trained with their first frames given, up to half of the clip and mostly few.
    """

    modality = "video"
    card = Card(
        paper="Video Diffusion Models",
        authors="Jonathan Ho, Tim Salimans, Alexey Gritsenko, William Chan, Mohammad Norouzi, David J. Fleet",
        year=2022,
        url="https://arxiv.org/abs/2204.03458",
        summary="Clips from noise, a class or first frames, by a U-Net over space and time; longer ones window by window.",
        changes=(
            "Rectified flow (Liu et al. 2022) in place of diffusion: a straight path from noise, whose velocity the network "
            "learns but for a linear guess (Karras et al. 2022), at logit-normal times (Esser et al. 2024). Each frame has a "
            "time of its own (after Chen et al. 2024, Diffusion Forcing), and given frames stand at its end: one network "
            "goes on from nothing, a picture or a film, where the paper steers one that knows of no given frames. "
            "Convolutions across three frames in every block; attention with rotary positions (Su et al. 2021) over all "
            "places of all frames at the coarsest scales, where the paper's looks along one axis at a time. Pixels are "
            "folded into channels for small machines, whose recipe steps by Muon (Jordan et al. 2024)."
        ),
        results=(
            Result("Inception score", 57.0, "UCF-101, 16 frames of 64x64", "table 1"),
            Result("FVD", 66.92, "BAIR robot pushing", "table 2"),
        ),
    )
    recipes = {
        "cpu": Recipe(minutes=10, batch_size=16, lr=3e-3, betas=(0.9, 0.99), decay=0.9, clip=1.0),
        "default": Recipe(
            steps=100_000, batch_size=64, lr=5e-4, ema=0.9995, clip=1.0, decay=0.2, model={"width": 128, "depth": 2}
        ),
        "paper": Recipe(
            steps=60_000,
            batch_size=128,
            lr=3e-4,
            betas=(0.9, 0.99),
            ema=0.9999,
            model={"width": 256, "levels": 4, "depth": 2, "patch": 1, "attends": 3},
        ),
        "tiny": Recipe(steps=12, batch_size=4, lr=1e-2, ema=0.9, optimiser="muon", model={"width": 8, "levels": 2}),
    }
    conditions = ("label", "prompt", "guidance", "ode_steps", "frames")
    looks_at = 16
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        width: int = 32,
        levels: int = 3,
        depth: int = 1,
        patch: int = 4,
        attends: int = 1,
        drop: float = 0.1,
        prompted: float = 0.5,
    ):
        super().__init__(spec)
        channels, self.length, *sides = spec.shape
        fold = patch * 2 ** (levels - 1)
        if any(side % fold for side in sides):
            raise UserError(
                f"videoflow needs a height and width that divide by {fold}, not {sides[0]}x{sides[1]}: choose another size."
            )
        self.drop, self.prompted = drop, prompted
        self.net = SpaceTimeUNet(
            channels, classes=len(spec.classes), width=width, levels=levels, depth=depth, patch=patch, attends=attends
        )
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.tensor(0.5))

    def prepare(self, batch: Batch) -> None:
        """Clips are learnt about their mean, and their deviation says what is left to the network at each time."""
        self.mean.fill_(float(batch["video"].mean()))
        self.spread.fill_(max(float(batch["video"].std()), 0.05))

    def matrix(self, name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim > 1 and not name.startswith("net.label.")

    def grid(self) -> int:
        return 8

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        clips = batch["video"] - self.mean  # [B, C, T, H, W]
        count = len(clips)
        given = self._given(count)  # [B, T]
        t = torch.where(given, 1.0, logit_normal(self.randn(count))[:, None])
        data, noise = fold(clips), self.randn(count * self.length, *clips.shape[1:2], *clips.shape[3:])
        velocity = self.velocity(interpolate(noise, data, t.flatten()), t, self._some_labels(batch))
        each = flow_matching_loss(velocity, noise, data).view(count, -1).masked_fill(given, 0.0)
        return {"flow": each.sum(1) / (~given).sum(1)}

    def velocity(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The velocity f32 of frames [B·T, C, H, W] at their times [B, T], for classes [B]."""
        times = t.flatten()
        slope, inner, outer = (c.view(-1, 1, 1, 1) for c in preconditioning(times, self.spread))
        return slope * x + outer * self.net(inner * x, times, labels, t.shape[1]).float()

    def _given(self, count: int) -> Tensor:
        """[B, T] whether a frame is given: none of most clips, else the first 1 to T/2 of them, few more often than many."""
        prompted, most = (parallel.rand(count, 2, device=self.device)).unbind(1)
        known = (most.square() * (self.length // 2)).ceil().clamp(1, self.length - 1)
        known = known * (prompted < self.prompted)
        return torch.arange(self.length, device=self.device) < known[:, None]

    def _some_labels(self, batch: Batch) -> Tensor | None:
        """[B] labels, a share `drop` of them replaced by "no class"; None when the data has no classes."""
        if not self.spec.classes:
            return None
        dropped = parallel.rand(len(batch["label"]), device=self.device) < self.drop
        return batch["label"].masked_fill(dropped, len(self.spec.classes))

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        label: int | Tensor | None = None,
        prompt: Tensor | None = None,
        guidance: float | None = None,
        ode_steps: int = 8,
        frames: int | None = None,
    ) -> Tensor:
        """[n, C, T, H, W] in [-1, 1]. Without `label` the classes come in turn; `guidance` is 4 where there are classes,
        and 1 is none: a third less work, more variety, less likeness; 7 keeps things what they are from frame to frame.

        `prompt`: first frames [C, t, H, W], or [n, C, t, H, W], that the clips begin with and go on from. `frames`: how
        many to make in all, by default a clip's own, or half as many more than the prompt has where that is more; what
        does not fit into one clip is made window by window, each going on from the one before.
        """
        if ode_steps < 1:
            raise UserError(f"ode_steps is {ode_steps}: take 1 or more.")
        if not self.spec.classes and (label is not None or guidance not in (None, 1)):
            raise UserError("This videoflow was trained without classes: it takes no label and no guidance.")
        labels = self.item_labels(n, label, start) if self.spec.classes else None
        scale = GUIDANCE if guidance is None else guidance
        clips = self._begin(n, prompt)
        known = clips.shape[2]
        wanted = max(self.length, known + self.length // 2) if frames is None else frames
        if wanted <= known:
            raise UserError(f"The prompt has {known} frames already: ask for more than that with --frames.")
        window = 0
        while clips.shape[2] < wanted:
            noise = self.item_noise(n, *self.spec.shape, seed=mix(seed, window) if window else seed, start=start)
            told = clips[:, :, max(0, clips.shape[2] - self.length // 2) :]
            made = self._window(noise, told, labels, scale, ode_steps)
            clips = torch.cat([clips, made[:, :, told.shape[2] :]], 2)
            window += 1
        return clips[:, :, :wanted]

    def _begin(self, n: int, prompt: Tensor | None) -> Tensor:
        """[n, C, t, H, W] the first frames; none without a prompt. Raises UserError for a prompt of another shape."""
        channels, _, height, width = self.spec.shape
        if prompt is None:
            return torch.zeros(n, channels, 0, height, width, device=self.device)
        clips = prompt if prompt.ndim == 5 else prompt.expand(n, *prompt.shape)
        if clips.shape[:2] != (n, channels) or clips.shape[3:] != (height, width) or not clips.shape[2]:
            raise UserError(
                f"A prompt holds frames [{channels}, t, {height}, {width}] for all of {n} samples, or one such each, "
                f"not {list(prompt.shape)}."
            )
        return clips.float().to(self.device)

    def _window(self, noise: Tensor, told: Tensor, labels: Tensor | None, guidance: float, ode_steps: int) -> Tensor:
        """One clip [n, C, T, H, W] that begins with the frames `told` [n, C, t, H, W], from noise of the clip's shape."""
        n, known = len(noise), told.shape[2]
        start = fold(torch.cat([told - self.mean, noise[:, :, known:]], 2))
        given = (torch.arange(self.length, device=self.device) < known).expand(n, -1)  # [n, T]

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            v = self._guided(x, torch.where(given, 1.0, t), t, labels, guidance)
            return v.masked_fill(given.reshape(-1, 1, 1, 1), 0.0)

        frames = sample_adams(velocity, start, ode_steps) + self.mean
        return frames.unflatten(0, (n, -1)).transpose(1, 2).clamp(-1, 1)

    def _guided(self, x: Tensor, times: Tensor, t: Tensor, labels: Tensor | None, guidance: float) -> Tensor:
        """The velocity led away from "no class" in the first half of the way, where the shape is decided."""
        velocity = self.velocity(x, times, labels)
        if labels is None or guidance == 1 or t >= GUIDED_UNTIL:
            return velocity
        nobody = torch.full_like(labels, len(self.spec.classes))
        return guided(velocity, self.velocity(x, times, nobody), guidance)
