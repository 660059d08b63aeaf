"""What training is between two steps: the options it runs under, and the state that is saved and resumed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from genloom.core import Batch, Model, Phase, Recipe
from genloom.errors import UserError
from genloom.generate import resolve_precision

Moves = tuple[str, ...]


@dataclass(frozen=True)
class Options(Recipe):
    """A recipe with what the machine and the user add. `model` holds the hyper-parameters as resolved."""

    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: int = 1
    compile: bool = False
    save_minutes: float = 1.0

    def __post_init__(self) -> None:
        checks = {
            "steps": (self.steps >= 1, "1 or more"),
            "minutes": (self.minutes is None or 0 < self.minutes < math.inf, "more than 0"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "lr": (0 < self.lr < math.inf, "more than 0"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "ema": (0 <= self.ema < 1, "in [0, 1)"),
            "clip": (self.clip is None or self.clip > 0, "more than 0"),
            "decay": (0 <= self.decay <= 1, "in [0, 1]"),
            "accumulate": (
                self.accumulate >= 1 and self.batch_size % self.accumulate == 0,
                "a divisor of --batch-size",
            ),
            "save_minutes": (self.save_minutes >= 0, "0 or more"),
        }
        for name, (good, rule) in checks.items():
            if not good:
                raise UserError(f"--{name.replace('_', '-')} must be {rule}, not {getattr(self, name)}.")

    def rate_at(self, progress: float) -> float:
        """The rate at a share of the run in [0, 1]: `lr`, then linearly to 0 over the last `decay` of it."""
        return self.lr * min(1.0, (1.0 - progress) / self.decay) if self.decay else self.lr


@dataclass
class State:
    """All that a run is between two steps. `rate` is halved by each rollback."""

    model: Model
    average: Model  # the EMA copy, that samples
    phases: list[Phase]
    moved: dict[Moves, list[nn.Parameter]]
    frozen: dict[Moves, list[nn.Parameter]]
    optimisers: dict[Moves, Optimizer]
    scaler: torch.amp.GradScaler
    loss: Callable[[Batch, str], dict[str, Tensor]]  # the model, perhaps compiled
    precision: str
    averaged: tuple[list[Tensor], list[Tensor]]  # the average's parameters, and the model's
    step: int = 0
    seconds: float = 0.0
    rate: float = 1.0
    rollbacks: int = 0

    @classmethod
    def new(cls, model: Model, options: Options) -> State:
        phases = model.phases()
        moved = {p.moves: parameters(model, p.moves) for p in phases}
        ids = {key: {id(p) for p in ps} for key, ps in moved.items()}
        frozen = {
            key: [p for p in model.parameters() if p.requires_grad and id(p) not in mine] for key, mine in ids.items()
        }
        fused = model.device.type in ("cpu", "cuda")
        average = copy.deepcopy(model).eval()
        averaged: tuple[list[Tensor], list[Tensor]] = (
            [*parameters(average, model.samples_with)],
            [*parameters(model, model.samples_with)],
        )
        average.requires_grad_(False)
        precision = resolve_precision(model, options.precision)
        return cls(
            model=model.train(),
            average=average,
            phases=phases,
            moved=moved,
            frozen=frozen,
            optimisers={
                key: AdamW(ps, options.lr, options.betas, weight_decay=options.weight_decay, fused=fused)
                for key, ps in moved.items()
            },
            scaler=torch.amp.GradScaler(model.device.type, enabled=precision == "fp16"),
            loss=torch.compile(model) if options.compile else model,
            precision=precision,
            averaged=averaged,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state under a name of its own."""
        named = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        named |= {f"average.{k}": v for k, v in self.published().items()}
        names = {id(p): k for k, p in self.model.named_parameters()}
        for key, optimiser in self.optimisers.items():
            for p, slots in optimiser.state.items():
                named |= {f"optimiser.{'+'.join(key)}.{slot}.{names[id(p)]}": v for slot, v in slots.items()}
        return named

    def published(self) -> dict[str, Tensor]:
        """The averaged weights that sampling needs."""
        names = self.model.samples_with
        return {
            k: v
            for k, v in self.average.state_dict().items()
            if not names or k.startswith(tuple(f"{n}." for n in names))
        }

    def numbers(self) -> dict[str, Any]:
        kept = ("step", "seconds", "rate", "rollbacks")
        return {**{k: getattr(self, k) for k in kept}, "scaler": self.scaler.state_dict()}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take a saved state. Raises UserError when it is of another model."""
        try:
            self.model.load_state_dict(under(tensors, "model."))
            self.average.load_state_dict(under(tensors, "average."), strict=not self.model.samples_with)
        except RuntimeError as error:
            raise UserError(f"The saved state is of another model: {str(error).splitlines()[1].strip()}") from None
        names = dict(self.model.named_parameters())
        for key, optimiser in self.optimisers.items():
            optimiser.state.clear()
            for name, value in under(tensors, f"optimiser.{'+'.join(key)}.").items():
                slot, parameter = name.split(".", 1)
                of = names[parameter]
                like = torch.empty_like(of) if value.shape == of.shape else torch.empty_like(value, device=of.device)
                optimiser.state[of][slot] = like.copy_(value)  # in the parameter's own memory layout
        for name in ("step", "seconds", "rate", "rollbacks"):
            setattr(self, name, numbers[name])
        self.scaler.load_state_dict(numbers["scaler"])


def parameters(model: Model, names: Moves) -> list[nn.Parameter]:
    """The trainable parameters of these sub-modules; of the whole model for no name."""
    modules = [model.get_submodule(n) for n in names] if names else [model]
    return [p for m in modules for p in m.parameters() if p.requires_grad]


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
