"""The heart of genloom, readable in five minutes.

A `Spec` says what the data is, a `Model` gives losses and samples, its `Phase`s say which parameters move on which
loss and how often, its `Card` says whose idea it is, its `Recipe`s how to train it. The loop (train.py) does the rest.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from genloom import parallel
from genloom.errors import UserError, nearest, unknown

Modality = Literal["image", "text", "audio", "video", "table"]
MODALITIES: tuple[str, ...] = get_args(Modality)
Batch = dict[str, Tensor]
SEEDS = 2**63  # a seed is below this: larger ones are not kept as they are by every format that tells of them
NEEDS = {  # kinds of data beyond a modality: what to give
    "pairs": "pairs of pictures, in sub-folders 'source' and 'target' under the same file names (or side by side in one "
    "picture: --data.side-by-side)",
    "domains": "two kinds of pictures, in sub-folders 'trainA' and 'trainB' (or A and B, or source and target)",
    "films": "pairs of films, in sub-folders 'source' and 'target' under the same file names, or films alone with --data.source "
    "edges (grey, blurred, small, compressed ...) to make the sources from them",
    "speech": "clips of speech, each with its text: NAME.txt beside NAME.wav, or a metadata.csv of lines name|text",
}


@dataclass(frozen=True)
class Spec:
    """What one item of the data is: written by the data set, read by the model, kept in the run.

    `shape` is one item without the batch dimension, image [C, H, W]. `classes` are the names behind `label`, empty
    when the data has no labels. `extra` holds what files are made from again (sample rate, vocabulary, schema ...).
    """

    modality: Modality
    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Spec:
        return cls(d["modality"], tuple(d["shape"]), tuple(d["classes"]), dict(d["extra"]))


@dataclass(frozen=True)
class Result:
    """A published figure: never one of ours, those come from runs."""

    metric: str
    value: float
    data: str
    where: str


@dataclass(frozen=True)
class Card:
    """Whose idea this is and what they reached. `changes` says where ours departs from the paper, and why."""

    paper: str
    authors: str
    year: int
    url: str
    summary: str
    source: str = "written from the paper"
    licence: str = "Apache-2.0"
    changes: str = ""
    results: tuple[Result, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How to train: what a paper's table of hyper-parameters holds.

    Attributes:
        steps: steps to train for
        minutes: time to train for, in place of steps
        batch_size: items a step, over all processes
        lr: learning rate
        betas: Adam's decay rates
        weight_decay: AdamW's weight decay
        ema: decay of the averaged weights, that sampling uses
        clip: largest gradient norm
        warmup: first share of the run over which the rate rises from zero
        decay: last share of the run over which the rate falls to zero
        curve: how it falls there
        optimiser: adamw for all, or muon for matrices and adamw for the rest
        keep: the last averaged weights, or the best: those with the least loss on items kept out of training
        model: arguments of the model
    """

    steps: int = 10_000
    minutes: float | None = None
    batch_size: int = 64
    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    ema: float = 0.999
    clip: float | None = None
    warmup: float = 0.0
    decay: float = 0.0
    curve: Literal["linear", "cosine"] = "linear"
    optimiser: Literal["adamw", "muon"] = "adamw"
    keep: Literal["last", "best"] = "last"
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """One update: the sub-modules in `moves` (all when empty) step on `Model.loss(batch, name)` every `every` steps.

    Phases with the same `moves` share an optimiser. `lr` multiplies the recipe's rate; `clip` replaces its clipping.
    `span`: from and until which share of the run it is done; `decay`: the last share of that over which its rate falls to
    zero, beside the recipe's own fall.
    """

    name: str
    moves: tuple[str, ...] = ()
    every: int = 1
    lr: float = 1.0
    clip: float | None = None
    span: tuple[float, float] = (0.0, 1.0)
    decay: float = 0.0

    def due(self, step: int, progress: float) -> bool:
        start, stop = self.span
        return step % self.every == 0 and start <= progress and (progress < stop or stop >= 1)

    def rate_at(self, progress: float) -> float:
        """What multiplies the recipe's rate at a share of the run in [0, 1]."""
        start, stop = self.span
        fall = self.decay * (stop - start)
        return self.lr * (min(1.0, max(0.0, stop - progress) / fall) if fall else 1.0)


class Model(nn.Module):
    """A generative model. Keyword-only arguments of `__init__` after `spec` are its hyper-parameters (`--model.width 64`).

    `samples_with` names the sub-modules that `sample` needs (all when empty): they are averaged and published.
    `conditions` names what `sample` accepts beside n and seed. `bf16` says that quality holds under bf16 autocast, `exact`
    that what is made must not depend on how it is cut: texts on those beside them, a stream on its pieces.
    `needs` is what data it takes beyond its modality, a key of NEEDS. `looks_with` are conditions of the samples that a
    run in training is looked at with, `looks_at` how many items its losses are then measured on. `borrows` names the
    conditions that are other models: verbs take a run folder for one, and hand `sample` its loaded model.
    `config` holds the hyper-parameters that it was built with.
    """

    name: ClassVar[str]
    modality: ClassVar[Modality]
    card: ClassVar[Card]
    recipes: ClassVar[dict[str, Recipe]]
    samples_with: ClassVar[tuple[str, ...]] = ()
    conditions: ClassVar[tuple[str, ...]] = ()
    bf16: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    needs: ClassVar[str] = ""
    looks_with: ClassVar[Mapping[str, Any]] = {}
    looks_at: ClassVar[int] = 128
    borrows: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def asks(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the data that these hyper-parameters decide: how much of a text it sees at once, say."""
        return {}

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec
        self.config: dict[str, Any] = {}

    def phases(self) -> list[Phase]:
        return [Phase("all")]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Named terms, each [B] where the maths allows; the loop minimises the sum of their means."""
        raise NotImplementedError

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        return self.loss(batch, phase)  # so that torch.compile and distributed wrappers see the loss

    def prepare(self, batch: Batch) -> None:
        """Shown some items of the data, evenly spaced, before the first step: for buffers that the data fills."""

    def matrix(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay shrinks this parameter, and Muon orthogonalises its steps: matrices of products alone."""
        return parameter.ndim > 1

    def starts_fresh(self, name: str) -> bool:
        """Whether a weight is this run's own, and not taken from the run that it starts from."""
        return False

    def after_step(self, progress: float) -> None:
        """Called once a step with progress in [0, 1]: schedules, adaptive strengths (keep them in buffers)."""

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> Tensor | list[Any]:
        """Items start .. start + n - 1. Item i depends on (seed, i) alone, never on n or start."""
        raise NotImplementedError

    def takes(self, condition: str) -> bool:
        """Whether `sample` takes this condition as the model was built: a label only where it knows classes."""
        return condition in self.conditions and (condition != "label" or bool(self.spec.classes))

    def sheet(self, samples: Any, *, seed: int = 0) -> Any:
        """What to show of samples 0, 1, ... of that seed: the same, or each beside what it was made from."""
        return samples

    def grid(self) -> int:
        """How many samples the grid of a run in training shows: no more than can differ."""
        return 64

    def critic(self, batch: Batch) -> Tensor | None:
        """[B] how real the critic holds each item, for models that have one: watched for overfitting."""
        return None

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Model:
        """The official implementation's state dict and its own hyper-parameter names -> the same numbers out."""
        raise UserError(f"'{cls.name}' has no importer for reference weights.")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def randn(self, n: int, *shape: int) -> Tensor:
        """Noise for a loss: standard normal [n, *shape] on the model's device, in step over ranks."""
        return parallel.randn(n, *shape, device=self.device)

    def item_noise(self, n: int, *shape: int, seed: int, start: int) -> Tensor:
        """Noise for a sample [n, *shape]: row i depends on (seed, start + i) alone, on every device the same."""
        rows = [torch.randn(shape, generator=generator(seed, i)) for i in range(start, start + n)]
        return torch.stack(rows).to(self.device)

    def item_labels(self, n: int, label: int | Tensor | None, start: int) -> Tensor:
        """[n] i64 class of each sample: `label` for all, a tensor's own, or the classes in turn.

        Raises UserError when the data has no such class.
        """
        count = len(self.spec.classes)
        labels = torch.arange(start, start + n) % max(count, 1) if label is None else torch.as_tensor(label)
        labels = labels.long().expand(n) if labels.ndim == 0 else labels.long()
        if len(labels) != n:
            raise UserError(f"{n} samples need {n} labels, not {len(labels)}.")
        wrong = labels[(labels < 0) | (labels >= count)]
        if len(wrong):
            raise UserError(f"Label {wrong.max()} is not one of the {count} classes (0 to {count - 1}) of this model.")
        return labels.to(self.device)


def generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream depends on the whole key: (seed, step), (seed, item) ..."""
    return torch.Generator().manual_seed(mix(*key))


def mix(*key: int) -> int:
    """Hash integers into one 63-bit seed (splitmix64 steps): near keys give unrelated seeds."""
    h = 0x9E3779B97F4A7C15
    for k in key:
        h = (h ^ (k & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        h = (h ^ (h >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        h ^= h >> 31
    return h >> 1


class Verb(ModuleType):
    """A package whose name is a verb too: calling it calls its `verb`."""

    verb: Callable[[], Any]

    def __call__(self) -> Any:
        return self.verb()


# ── the registry ─────────────────────────────────────────────────────────────────────────────────────────────────
registered: dict[str, type[Model]] = {}
Made = TypeVar("Made", bound=Model)


def register(name: str) -> Callable[[type[Made]], type[Made]]:
    """Class decorator: make a Model known by name to every verb."""

    def add(cls: type[Made]) -> type[Made]:
        if missing := [k for k in ("modality", "card", "recipes") if not hasattr(cls, k)]:
            raise UserError(f"Model '{name}' needs the class attribute {' and '.join(missing)}.")
        if cls.modality not in MODALITIES:
            raise UserError(f"Model '{name}' has modality '{cls.modality}', not one of {', '.join(MODALITIES)}.")
        cls.name = name
        registered[name] = cls
        return cls

    return add


def _import_ours(ending: str = "") -> None:
    package = importlib.import_module("genloom.models")
    for module in pkgutil.walk_packages(package.__path__, "genloom.models."):
        if module.name.endswith(ending):
            importlib.import_module(module.name)


def models() -> dict[str, type[Model]]:
    """Every registered model by name: ours, and those of installed packages (entry-point group `genloom.models`)."""
    _import_ours()
    for point in entry_points(group="genloom.models"):
        point.load()
    return dict(sorted(registered.items()))


def find(name: str) -> type[Model]:
    """The model of that name. Raises UserError that offers the nearest name."""
    if name not in registered:
        _import_ours(f".{name}")  # its own file first: one import, not a zoo
    if name not in registered and name not in models():
        raise unknown("model", name, registered)
    return registered[name]


def hyper_parameters(cls: type[Model]) -> dict[str, inspect.Parameter]:
    """The keyword-only arguments of a model's `__init__`: its hyper-parameters, with types and defaults."""
    signature = inspect.signature(cls.__init__, eval_str=True)
    return {k: p for k, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def within(least: float, most: float, **options: float) -> None:
    """Raises UserError for the first hyper-parameter that is not in [least, most]."""
    for name, value in options.items():
        if not least <= value <= most:
            raise UserError(f"--model.{name.replace('_', '-')} must be from {least:,g} to {most:,g}, not {value}.")


def build(cls: type[Made], spec: Spec, config: Mapping[str, Any]) -> Made:
    """Make a model for this data. Raises UserError for data of another kind or an unknown hyper-parameter."""
    if spec.modality != cls.modality:
        raise UserError(f"'{cls.name}' makes {cls.modality}, and this data is {spec.modality}.")
    if cls.needs and cls.needs not in spec.extra.get("serves", ()):
        raise UserError(f"'{cls.name}' needs more than this data holds: give {NEEDS[cls.needs]}.")
    known = hyper_parameters(cls)
    for key in config:
        if key not in known:
            raise UserError(f"'{cls.name}' has no option '{key}'.{nearest(key, known)}")
    model = cls(spec, **config)
    model.config = dict(config)
    return model
