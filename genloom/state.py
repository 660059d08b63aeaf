"""What training is between two steps: the options it runs under, and the state that is saved and resumed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from genloom.core import Batch, Model, Recipe
from genloom.errors import UserError
from genloom.generate import resolve_precision
from genloom.nn.muon import Muon
from genloom.nn.weights import under

if TYPE_CHECKING:
    from genloom.private import Privacy

Moves = tuple[str, ...]
NUMBERS = ("step", "seconds", "rate", "rollbacks", "cpu", "best_step", "best_loss")  # of the state, that are no tensors


@dataclass(frozen=True)
class Options(Recipe):
    """A recipe with what the machine and the user add. `model` holds the hyper-parameters as resolved.

    Attributes:
        seed: decides the initial weights, the order of the data and the noise
        precision: auto: bf16 where the device is fast in it and the model holds its quality
        accumulate: pieces that a batch is computed in, for less memory
        compile: compile the losses with torch.compile
        save_minutes: time between checkpoints
        dp_epsilon: train with differential privacy, and spend so much of it
        dp_delta: chance with which that may fail, below 1 / items: by default 1e-5
        dp_clip: largest gradient of one item then, by default 1
    """

    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: int = 1
    compile: bool = False
    save_minutes: float = 1.0
    dp_epsilon: float | None = None
    dp_delta: float | None = None
    dp_clip: float | None = None

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
            "warmup": (0 <= self.warmup < 1, "in [0, 1)"),
            "accumulate": (self.accumulate >= 1 and not self.batch_size % self.accumulate, "a divisor of --batch-size"),
            "save_minutes": (self.save_minutes >= 0, "0 or more"),
            "dp_epsilon": (self.dp_epsilon is None or 0 < self.dp_epsilon < math.inf, "more than 0"),
            "dp_delta": (self.dp_delta is None or 0 < self.dp_delta < 1, "in (0, 1)"),
            "dp_clip": (self.dp_clip is None or 0 < self.dp_clip < math.inf, "more than 0"),
        }
        for name, (good, rule) in checks.items():
            if not good:
                raise UserError(f"--{name.replace('_', '-')} must be {rule}, not {getattr(self, name)}.")
        if self.dp_epsilon is None and (self.dp_delta or self.dp_clip):
            raise UserError("--dp-delta and --dp-clip are of private training: give --dp-epsilon too.")

    def rate_at(self, progress: float) -> float:
        """The rate at a share of the run in [0, 1]: `lr` between a rise from 0 and a fall to 0, both shares of it."""
        rise = min(1.0, progress / self.warmup) if self.warmup else 1.0
        left = min(1.0, (1.0 - progress) / self.decay) if self.decay else 1.0
        return self.lr * rise * (left if self.curve == "linear" else 0.5 - 0.5 * math.cos(math.pi * left))


class State:
    """All that a run is between two steps. `rate` is halved by each rollback."""

    def __init__(self, model: Model, options: Options):
        self.model = model.train()
        self.average = copy.deepcopy(model).eval()  # the EMA copy, that samples
        self.averaged = tuple(tuple(parameters(m, model.samples_with)) for m in (self.average, model))
        self.average.requires_grad_(False)
        self.phases = model.phases()
        if options.keep == "best" and len(self.phases) > 1:
            raise UserError(f"'{model.name}' has no one loss that tells which weights are best: leave --keep at last.")
        everything = set(parameters(model, ()))
        self.moved = {p.moves: parameters(model, p.moves) for p in self.phases}
        self.frozen = {moves: everything.difference(moved) for moves, moved in self.moved.items()}
        self.optimisers = {moves: optimisers(model, moved, options) for moves, moved in self.moved.items()}
        self.precision = resolve_precision(model, options.precision)
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=self.precision == "fp16")
        self.loss: Callable[[Batch, str], dict[str, Tensor]] = torch.compile(model) if options.compile else model
        self.privacy: Privacy | None = None
        self.step, self.seconds, self.rate, self.rollbacks, self.cpu = 0, 0.0, 1.0, 0, 0.0
        self.best: dict[str, Tensor] = {}  # the averaged weights of `best_step`, which had the least held-out loss
        self.best_step = 0
        self.best_loss: float | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state under a name of its own."""
        named = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        named |= {f"average.{k}": v for k, v in self.averages().items()}
        named |= {f"best.{k}": v for k, v in self.best.items()}
        names: dict[Tensor, str] = {p: k for k, p in self.model.named_parameters()}
        for key, several in self.optimisers.items():
            for p, slots in chain.from_iterable(o.state.items() for o in several):
                named |= {f"optimiser.{'+'.join(key)}.{slot}.{names[p]}": v for slot, v in slots.items()}
        return named

    def published(self) -> dict[str, Tensor]:
        """The weights that are sampled from: averaged ones, the best if they are kept."""
        return self.best or self.averages()

    @torch.no_grad()
    def complete(self) -> Model:
        """The average, with what sampling does not need (an encoder) as the model has it now."""
        averaged = set(self.averaged[0])
        for a, b in zip(self.average.parameters(), self.model.parameters(), strict=True):
            if a not in averaged:
                a.copy_(b)
        return self.average

    def hear(self, loss: float) -> None:
        """The averaged weights are kept if this, their loss on held-out items, is the least so far."""
        if self.best_loss is None or loss < self.best_loss:
            self.best = {k: v.clone() for k, v in self.averages().items()}
            self.best_step, self.best_loss = self.step, loss

    def averages(self) -> dict[str, Tensor]:
        """The averaged weights that sampling needs."""
        needed = tuple(f"{n}." for n in self.model.samples_with) or ("",)
        return {k: v for k, v in self.average.state_dict().items() if k.startswith(needed)}

    def numbers(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in NUMBERS} | {"scaler": self.scaler.state_dict()}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take a saved state. Raises UserError when it is of another model."""
        try:
            self.model.load_state_dict(under(tensors, "model."))
            self.average.load_state_dict(under(tensors, "average."), strict=not self.model.samples_with)
        except RuntimeError as error:
            raise UserError(f"The saved state is of another model: {str(error).splitlines()[1].strip()}") from None
        names = dict(self.model.named_parameters())
        for key, several in self.optimisers.items():
            of_optimiser = {p: o for o in several for group in o.param_groups for p in group["params"]}
            for optimiser in several:
                optimiser.state.clear()
            for name, value in under(tensors, f"optimiser.{'+'.join(key)}.").items():
                slot, parameter = name.split(".", 1)
                of = names[parameter]
                like = torch.empty_like(of) if value.shape == of.shape else torch.empty_like(value, device=of.device)
                of_optimiser[of].state[of][slot] = like.copy_(value)  # in the parameter's own memory layout
        for name in NUMBERS:
            setattr(self, name, numbers.get(name, getattr(self, name)))
        self.best = under(tensors, "best.")
        self.scaler.load_state_dict(numbers["scaler"])


def optimisers(model: Model, moved: list[nn.Parameter], options: Options) -> list[Optimizer]:
    """AdamW, with weight decay on matrices alone; with `muon` those go to Muon (Jordan et al. 2024), at AdamW's scale."""
    mine, decay = set(moved), options.weight_decay
    matrices = [p for name, p in model.named_parameters() if p in mine and model.matrix(name, p)]
    chosen = set(matrices)
    rest = [p for p in moved if p not in chosen]
    fused = model.device.type in ("cpu", "cuda")
    if options.optimiser == "muon" and matrices:
        muon: list[Optimizer] = [Muon(matrices, options.lr, weight_decay=decay)]
        return muon + ([AdamW(rest, options.lr, options.betas, weight_decay=0.0, fused=fused)] if rest else [])
    groups: Any = [{"params": matrices}, {"params": rest, "weight_decay": 0.0}] if decay else moved
    return [AdamW(groups, options.lr, options.betas, weight_decay=decay, fused=fused)]


def parameters(model: Model, names: Moves) -> list[nn.Parameter]:
    """The trainable parameters of these sub-modules; of the whole model for no name."""
    modules = [model.get_submodule(n) for n in names] if names else [model]
    return [p for m in modules for p in m.parameters() if p.requires_grad]
