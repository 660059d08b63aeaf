"""vid2vid: a film from a film, frame by frame, each from what the source shows and from the frames made before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Card, Model, Phase, Recipe, Spec, build, register
from genloom.errors import UserError
from genloom.metrics.perceptual import feature_distance, looker
from genloom.nn.norm import batch_statistics
from genloom.nn.vid2vid import (
    CRITICS,
    CompositeGenerator,
    Frame,
    LocalGenerator,
    reference_model,
    reference_parts,
    split,
)
from genloom.nn.weights import load_exactly
from genloom.objectives.film_critics import FilmCritics
from genloom.objectives.films import (
    Clips,
    Course,
    Made,
    beside,
    folded,
    halve,
    halved,
    motion_losses,
    of_clips,
    painted,
    window,
)

LOOKED_AT = 2  # frames of a clip whose features are compared, at each step


@register("vid2vid")
class Vid2Vid(Model):
    """A generator that paints a frame, warps the one before, and blends both; critics of pictures and of motion.

    `width`, `halvings`, `blocks`: of the coarsest generator (its width doubles for each finer one); `levels` - 1 finer ones
    of `local_blocks` double the size each, and for the first share `coarse` of training the coarsest learns alone, at its
    size. `previous`: frames that it sees of its own (0: each frame by itself), `flow`: whether it warps. `skip`: the source
    is added to the picture, where both have the same channels. `foreground`: planes of the source, as of a label map, that
    a branch of its own paints. `detach`: what was made before counts as given. `growth`: the share of training over which
    clips grow to `frames`; `alone`, `at_once`: when frames have none before them,
    and when all of a clip are painted together (`Course`); `blank`: how often a
    clip begins from nothing and not from real frames, which sampling never sees. `teacher`: the optical flow that its own
    is held to. `time_scales`: critics of motion, each with steps three times as long. `raw`: the pictures before warping
    are judged too. `perceptual`: lite0, vgg19, none, or auto. `statistics`: what normalises in sampling, `running` or, as
    in the authors' scripts, those of the `batch`. The other numbers weigh losses.
    """

    card = Card(
        paper="Video-to-Video Synthesis",
        authors="Wang, Liu, Zhu, Liu, Tao, Kautz, Catanzaro",
        year=2018,
        url="https://arxiv.org/abs/1808.06601",
        summary="Turns films into other films: paints each frame, warps the one before along its own flow, and blends both.",
        source="written from the paper; the authors' code is not open source",
        changes="Flow is taught by OpenCV's DIS (or a pyramid of our own), not by FlowNet2, computed once a data set. Corners "
        "are pixel centres everywhere, as they were when it was written: later PyTorch blurs. Losses of motion are means over "
        "the pixels that the teacher is sure of, not over all. The objective is the one asked for (the authors' option was "
        "ignored). Instance normalisation without memory by default, for their batch normalisation used the test batch's "
        "statistics. One model starts from nothing, from a given frame, or from a still-image model's. Where the source has "
        "the picture's channels it is added to it. Perceptual features of EfficientNet-lite0 unless VGG-19's are there.",
    )
    recipes = {
        "tiny": Recipe(
            steps=4,
            batch_size=8,
            model={
                "width": 4,
                "halvings": 1,
                "blocks": 2,
                "frames": 5,
                "critic_width": 4,
                "critic_layers": 1,
                "critic_scales": 1,
                "time_scales": 1,
                "growth": 0.0,
                "perceptual": "none",
            },
        ),
        "cpu": Recipe(
            minutes=15,
            batch_size=2,
            lr=4e-4,
            betas=(0.5, 0.999),
            ema=0.995,
            decay=0.4,
            model={
                "width": 24,
                "halvings": 2,
                "blocks": 3,
                "frames": 6,
                "critic_width": 16,
                "critic_layers": 2,
                "time_scales": 1,
                "alone": 0.4,
                "at_once": 0.8,
                "growth": 0.8,
                "blank": 1.0,
                "trust": 0.0,
                "reconstruction": 30.0,
            },
        ),
        "default": Recipe(
            steps=100_000, batch_size=4, betas=(0.5, 0.999), decay=0.5, model={"blocks": 6, "reconstruction": 10.0}
        ),
        "paper": Recipe(
            steps=200_000,
            batch_size=1,
            betas=(0.5, 0.999),
            ema=0.0,
            decay=0.5,
            model={
                "norm": "batch",
                "statistics": "batch",
                "skip": False,
                "width": 128,
                "frames": 30,
                "time_scales": 3,
                "levels": 2,
                "coarse": 0.3,
                "detach": False,
                "blank": 0.0,
            },
        ),
    }
    samples_with = ("generators", "sources", "course")
    conditions: ClassVar[tuple[str, ...]] = ("source", "first", "still")
    borrows: ClassVar[tuple[str, ...]] = ("still",)
    modality = "video"
    needs = "films"
    looks_at = 8

    def __init__(
        self,
        spec: Spec,
        *,
        width: int = 64,
        halvings: int = 3,
        blocks: int = 9,
        local_blocks: int = 3,
        levels: int = 1,
        coarse: float = 0.0,
        previous: int = 2,
        flow: bool = True,
        skip: bool = True,
        foreground: tuple[int, ...] = (),
        norm: str = "instance",
        statistics: str = "running",
        frames: int = 12,
        detach: bool = True,
        growth: float = 0.5,
        alone: float = 0.0,
        at_once: float = 0.0,
        blank: float = 0.25,
        teacher: str = "dis",
        critic_width: int = 64,
        critic_layers: int = 3,
        critic_scales: int = 2,
        time_scales: int = 2,
        objective: str = "least_squares",
        perceptual: str = "auto",
        matching: float = 10.0,
        likeness: float = 10.0,
        motion: float = 10.0,
        trust: float = 1.0,
        raw: bool = False,
        reconstruction: float = 0.0,
    ):
        super().__init__(spec)
        channels, sources = spec.shape[0], int(spec.extra["source_channels"])
        if previous < 0 or levels < 1:
            raise UserError("--model.previous is 0 or more, and --model.levels 1 or more.")
        if foreground and levels > 1:
            raise UserError("A foreground is painted at one level: leave --model.levels at 1, or the foreground out.")
        self.previous, self.flow, self.levels = previous, flow and previous > 0, levels
        self.skip = skip and sources == channels
        self.foreground, self.statistics = tuple(foreground), statistics
        self.detach, self.blank = detach, blank if previous else 1.0
        self.course = Course(coarse=coarse, growth=growth, alone=alone, at_once=at_once if previous else 1.0)
        self.likeness, self.motion, self.trust, self.reconstruction = likeness, motion, trust, reconstruction
        self.judge_raw = raw and self.flow
        self.look = looker(perceptual)
        seen, before = sources * (previous + 1), channels * previous
        first = width * 2 ** (levels - 1) if levels > 1 else width
        coarsest = CompositeGenerator(
            seen, channels, before, first, halvings, blocks, norm, self.flow, fg=bool(self.foreground)
        )
        finer = [
            LocalGenerator(seen, channels, before, first // 2**i, local_blocks, i, norm, self.flow)
            for i in range(1, levels)
        ]
        self.generators = nn.ModuleList([coarsest, *finer])
        self.critics = FilmCritics(
            channels,
            sources,
            objective,
            matching,
            [3**i for i in range(time_scales)] if previous else [],
            width=critic_width,
            layers=critic_layers,
            scales=critic_scales,
            norm=norm,
        )
        self.sources = Clips(sources, *spec.shape[1:])
        for networks in (self.generators, self.critics):  # few channels at full size: up to three times as fast
            networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.made: dict[int, list[Tensor]] = {}  # of this step, by batch: what its critics are shown

    @classmethod
    def asks(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        moves = config["previous"] and (config["flow"] or config["time_scales"])
        return {"frames": config["frames"], "flow": config["teacher"] if moves else "none"}

    def prepare(self, batch: Batch) -> None:
        self.sources.keep(batch["source"])
        self.course.begin()

    def starts_fresh(self, name: str) -> bool:
        return name.startswith("sources.")  # of clips of another size or length

    def grid(self) -> int:
        return int(self.sources.count) or 1

    def sheet(self, samples: Tensor, *, seed: int = 0) -> Tensor:
        """Each source and after it what was made of it [2 n, C, T, H, W]."""
        return beside(self.sources.take(len(samples), seed, 0).cpu(), samples)

    def phases(self) -> list[Phase]:
        return [Phase("generator", ("generators",)), Phase("critics", ("critics",))]

    def after_step(self, progress: float) -> None:
        self.course.reach(progress)
        self.made.clear()

    # training
    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """The generator first, and then its critics on the same frames, for making them is most of the work."""
        place, used = batch["video"].data_ptr(), self.course.levels(self.levels)
        begin = 0 if self.blank and float(parallel.rand(1, device=self.device)) < self.blank else self.previous
        batch = self.cut(batch, begin)
        for _ in range(self.levels - used):
            batch = halved(batch)
        if phase == "critics":
            images = self.made.pop(place, None)
            if images is None:
                with torch.no_grad():
                    images = self.shown(self.roll(batch, begin, used))
            return self.critics.judge(batch, *images)
        made = self.roll(batch, begin, used)
        if torch.is_grad_enabled():
            self.made[place] = self.shown(made)
        return self.generator_terms(batch, made)

    def shown(self, made: Made) -> list[Tensor]:
        """What the critics see: the frames and, if asked, the raw pictures that are part of them."""
        raw = [made.raw.detach()] if self.judge_raw and made.flow is not None else []
        return [made.images.detach(), *raw]

    def cut(self, batch: Batch, begin: int) -> Batch:
        """The clips as far as they are looked at by now, and without their motion as long as nothing is remembered."""
        most = batch["video"].shape[2] - self.previous
        if most < 1:
            raise UserError(f"Clips of {batch['video'].shape[2]} frames are too short: give more --model.frames.")
        last, moves = begin + self.course.frames(most), ("flow", "confidence")
        kept = batch if self.course.memory() else {k: v for k, v in batch.items() if k not in moves}
        return {k: v[:, :, : last - (k in moves)] for k, v in kept.items() if v.ndim == 5}

    def roll(self, batch: Batch, begin: int, used: int) -> Made:
        """Frames from number `begin` on, one after another; before number 0 there are none."""
        video, source = batch["video"], batch["source"]
        windows = [window(source, t, self.previous) for t in range(begin, video.shape[2])]
        before = [video[:, :, i] for i in range(begin)] or [torch.zeros_like(video[:, :, 0])] * self.previous
        if len(windows) > 1 and self.course.together():
            return Made.of(begin, self.together(windows, before, begin > 0, used))
        frames = list[Frame]()
        for t, sources in enumerate(windows, begin):
            frames.append(self.paint(sources, before, warps=t > 0, used=used))
            image = frames[-1].image
            before = self.remembered(before, image.detach() if self.detach else image)
        return Made.of(begin, frames)

    def together(self, windows: list[Tensor], before: list[Tensor], warps: bool, used: int) -> list[Frame]:
        """The same frames, but all at once: each after what was painted of those before it by themselves."""
        blank = [torch.zeros_like(x[:1]) for x in before]  # seen once for all
        if not before or not self.course.memory():
            return split(self.paint(torch.cat(windows), blank, warps=False, used=used), len(windows))
        with torch.no_grad():
            guesses = self.paint(torch.cat(windows), blank, warps=False, used=used).image.chunk(len(windows))
        first = self.paint(windows[0], before, warps=warps, used=used)
        known, more = [*before, *guesses], len(windows) - 1
        past = [torch.cat(known[1 + i :][:more]) for i in range(self.previous)]
        return [first, *split(self.paint(torch.cat(windows[1:]), past, warps=True, used=used), more)]

    def remembered(self, before: list[Tensor], image: Tensor) -> list[Tensor]:
        """The frames that the next is made with."""
        return [*before, image][max(0, len(before) + 1 - self.previous) :]

    def paint(self, source: Tensor, before: Sequence[Tensor], *, warps: bool, used: int) -> Frame:
        """One frame, from the coarsest generator to the finest of `used`. source [B, (K + 1) · C', H, W]."""
        source = source.contiguous(memory_format=torch.channels_last)
        pyramid = [(source, torch.cat(list(before), 1) if before else source[:, :0])]
        for _ in range(used - 1):
            pyramid.insert(0, (halve(pyramid[0][0]), halve(pyramid[0][1])))
        own = source.shape[1] // (self.previous + 1)
        skips = [x[:, -own:] if self.skip else None for x, _ in pyramid]
        mask = None
        if self.foreground:
            mask = (source[:, -own:][:, list(self.foreground)].amax(1, keepdim=True) > 0).to(source.dtype)
        memory = self.course.memory()
        frame = self.generators[0](*pyramid[0], warps, mask, skips[0], used > 1, memory)
        for i in range(1, used):
            frame = self.generators[i](*pyramid[i], frame, warps, skips[i], i < used - 1, memory)
        return frame

    def generator_terms(self, batch: Batch, made: Made) -> dict[str, Tensor]:
        b, real = len(batch["video"]), folded(batch["video"][:, :, made.first :])
        images = folded(made.images)
        apart = self.judge_raw and made.flow is not None
        terms = self.critics.fool(batch, made.images, made.raw if apart else None)
        if self.look is not None and self.likeness:
            some = torch.randperm(made.images.shape[2])[:LOOKED_AT]  # it is as dear as all else, and frames are alike
            with torch.no_grad():
                wanted = self.look(folded(batch["video"][:, :, made.first :][:, :, some]))
            terms["likeness"] = self.likeness * of_clips(
                feature_distance(self.look(folded(made.images[:, :, some])), wanted), b
            )
        if self.reconstruction:
            terms["l1"] = self.reconstruction * of_clips((images - real).abs(), b)
            if made.flow is not None:  # or the picture is only good where the last one cannot be had
                terms["raw_l1"] = self.reconstruction * of_clips((folded(made.raw) - real).abs(), b)
        if made.flow is not None and made.weight is not None and "flow" in batch:
            found = motion_losses(batch, made.images, made.moved[0], made.flow, made.weight)
            terms |= {k: v * (self.trust if k == "trust" else self.motion) for k, v in found.items()}
        return terms

    # sampling
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        source: Tensor | None = None,
        first: Tensor | None = None,
        still: Model | None = None,
    ) -> Tensor:
        """[n, C, T, H, W] in [-1, 1], of `source` [n or 1, C', T, H, W], else of clips that the model keeps of its data.

        `first` [C, H, W] or [n, C, H, W]: the first frame; `still`: a model that makes it from the first source. Without
        them it is painted from nothing. Raises UserError for sources of another shape.
        """
        given = self.sources.take(n, seed, start) if source is None else self.checked(n, source)
        given = given.to(self.device)
        first = first if first is None else first.expand(n, -1, -1, -1)
        frames = self.stream((given[:, :, t] for t in range(given.shape[2])), first=first, still=still)
        return torch.stack(list(frames), 2).float()

    def checked(self, n: int, source: Tensor) -> Tensor:
        channels = int(self.spec.extra["source_channels"])
        if source.ndim != 5 or source.shape[1] != channels or len(source) not in (1, n):
            raise UserError(f"Sources of this model are [{n}, {channels}, T, H, W], not {list(source.shape)}.")
        return source.expand(n, -1, -1, -1, -1)

    def stream(
        self,
        frames: Iterator[Tensor],
        *,
        first: Tensor | None = None,
        still: Model | None = None,
        alone: bool = False,
    ) -> Iterator[Tensor]:
        """Frames [B, C, H, W] in [-1, 1] of source frames [B, C', H, W] as they come; no more is kept than it looks back at.

        `alone`: each from nothing, as the same model without flow and memory makes it.
        """
        seen, before = list[Tensor](), list[Tensor]()
        with batch_statistics(self.generators) if self.statistics == "batch" else nullcontext():
            for source in frames:
                seen = [source] if alone else [*seen, source][-self.previous - 1 :]
                if not before and first is None and still is not None:
                    first = painted(still, source, self.spec)
                image = first.to(source) if not before and first is not None else self.next(seen, before)
                before = [] if alone else self.remembered(before, image)
                yield image

    def next(self, seen: list[Tensor], before: list[Tensor]) -> Tensor:
        lacking = self.previous - len(before)
        source = torch.cat([seen[0]] * (self.previous + 1 - len(seen)) + seen, 1)
        blank = source.new_zeros(len(source), self.spec.shape[0], *source.shape[2:])
        frame = self.paint(source, [blank] * lacking + before, warps=bool(before), used=self.levels)
        return frame.image.float().clamp(-1, 1)

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Vid2Vid:
        """The authors' networks, under "G0." (the coarsest generator), "G1." …, "D." and "D_T0." …, or one alone; `config`
        holds the arguments of their `define_G` and `define_D`, for several by those names.

        The spec's frames are 256 x 512. Raises UserError for what does not fit.
        """
        parts = reference_parts(weights, config)
        model, channels = reference_model(parts)
        extra = {"source_channels": channels[0], "serves": ["films"], "rate": 25.0}
        net = build(cls, Spec("video", (channels[1], 12, 256, 512), extra=extra), model)
        for name, (held, _) in parts.items():
            network = net.generators[int(name[1:])] if name[0] == "G" else net.critics[CRITICS[name]]
            load_exactly(network, held, f"the {type(network).__name__} that the config describes")
        return net.eval()
