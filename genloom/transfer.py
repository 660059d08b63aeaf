"""Runs that begin from weights: official checkpoints taken as runs, and fits that start from an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genloom import generate
from genloom.core import Model
from genloom.errors import UserError
from genloom.nn.weights import shape
from genloom.plugins import model_of
from genloom.reference import read_checkpoint
from genloom.run import STATE, WEIGHTS, Place, Run, as_json, read_json
from genloom.state import Options, State


def read_reference(cls: type[Model], checkpoint: Path, config: Path | Mapping[str, Any] | None) -> Model:
    """The model of an official checkpoint. `config`: its own keyword arguments, or a JSON file of them, where it tells none.

    Raises UserError for a file that is damaged, hostile, or of another architecture.
    """
    weights, told = read_checkpoint(checkpoint)
    options = (read_json(config) if isinstance(config, Path) else dict(config or {})) or told
    if getattr(cls.from_reference, "__func__", None) is getattr(Model.from_reference, "__func__", None):
        cls.from_reference(weights, options)  # says that it has no importer
    try:
        return cls.from_reference(weights, options)
    except (KeyError, TypeError, AttributeError) as error:  # options of another network, or of the wrong kind
        why = f"These are not the options of a '{cls.name}': {type(error).__name__} {error}."
    except UserError as error:
        why = str(error)
    if not options:
        why += (
            f" '{checkpoint}' tells no options: give those that its network was made with, in the reference's own names, "
            "as --config FILE.json."
        )
    raise UserError(why)


def keep(model: Model, folder: Path, about: Mapping[str, Any]) -> Run:
    """A run folder that holds a model as it is, at step 0: every verb works on it, and fits can start from it."""
    settings = {k: v for k, v in asdict(Options()).items() if k != "model"}
    info = {**about, "config": model.config, "options": settings, "spec": model.spec.to_json()}
    run = Run.create(folder, as_json(info))
    with run.lock():
        state = State(model, Options())
        run.save_tensors(STATE, state.tensors(), state.numbers())
        run.save_tensors(WEIGHTS, state.published(), {"step": 0})
    return run


def initial(init: Place, cls: type[Model]) -> tuple[dict[str, Any], Model]:
    """The hyper-parameters and the model of the run to start from: of the same model, or of one that it is built upon.

    Raises UserError when it is of another model.
    """
    run = Run.open(init)
    if run.info["model"] != cls.name and not issubclass(cls, model_of(run)):
        raise UserError(
            f"'{run.folder}' holds a '{run.info['model']}': fit that, or start '{cls.name}' without --init."
        )
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in run.info["config"].items()}  # JSON has no tuples
    return config, generate.load(run, torch.device("cpu"))


@torch.no_grad()
def start_from(model: Model, old: Model) -> list[str]:
    """Copy the weights of an earlier run, and return the names of those that stay fresh: what differs for other classes.

    Raises UserError for data of another shape, and for the first weight that does not fit and has nothing to do with
    classes.
    """
    if model.modality == "image" and model.spec.shape != old.spec.shape:
        channels, size = old.spec.shape[0], old.spec.shape[-1]
        kind = {1: "grey", 3: "rgb", 4: "rgba"}.get(channels, str(channels))
        theirs, ours = (" × ".join(map(str, s)) for s in (old.spec.shape, model.spec.shape))
        raise UserError(
            f"The run to start from makes pictures of {theirs}, and this data is {ours}: "
            f"give --data.size {size} --data.channels {kind}."
        )
    same_classes = len(model.spec.classes) == len(old.spec.classes)
    theirs_by_name: dict[str, Tensor] = old.state_dict()
    fresh: list[str] = []
    for name, mine in model.state_dict().items():
        given = theirs_by_name.get(name)
        if given is not None and given.shape == mine.shape:
            mine.copy_(given)
        elif same_classes and not model.starts_fresh(name):
            there = shape(given) if given is not None else "missing"
            raise UserError(
                f"The run to start from is of other options: '{name}' is {there} there, {shape(mine)} here."
            )
        else:
            fresh.append(name)
    return fresh
