"""The public verbs. Each takes what its command takes, and returns a Run, tensors, or plain results."""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genloom
from genloom import generate, machine, parallel
from genloom.core import Model, Recipe, build, hyper_parameters, mix
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.errors import UserError, nearest, unknown
from genloom.plugins import resolve, source_of
from genloom.report import compare_runs, write_model_card, write_report
from genloom.run import Run
from genloom.state import Options, State
from genloom.train import Loop, some

BUDGET = ("steps", "minutes", "save_minutes", "compile")  # may change from one call to the next on the same run


def fit(
    model: str | type[Model],
    data: str | os.PathLike[str] | Dataset,
    out: str | os.PathLike[str] | None = None,
    *,
    recipe: str | None = None,
    config: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Run:
    """Train a model on data into a run folder; the same call again resumes it.

    `model`: a registered name, a Python file that registers one, or a class. `data`: a built-in name, a path, or a
    Dataset. `recipe`: one of the model's, by default the one that fits the machine. `config`: hyper-parameters of the
    model. `overrides`: fields of Options (steps, minutes, batch_size, lr, seed, precision ...).
    Raises UserError for anything that the caller can mend, KeyboardInterrupt after Ctrl-C, when all has been saved.
    """
    parallel.setup()
    cls = resolve(model)
    device = parallel.device()
    recipe = recipe or default_recipe(cls, device)
    options = resolve_options(cls, recipe, overrides, config)
    _check_ranks(options)
    dataset = (
        data
        if isinstance(data, Dataset)
        else open_data(
            Path(data) if isinstance(data, os.PathLike) else data,
            modality=cls.modality,
            needs=cls.needs,
            **(data_options or {}),
        )
    )
    source = dataset.name if isinstance(data, Dataset) else os.fspath(data)
    machine.keep_freed_memory()
    machine.multiply_fast()
    torch.manual_seed(mix(options.seed, 0))
    net = build(cls, dataset.spec, options.model)
    net.prepare(some(dataset, 128))
    net.to(device)
    info = _request(cls, recipe, options, source, dataset, data_options or {})
    run = _open_or_create(out, info) if parallel.rank() == 0 else None
    run = run or Run(Path(), info)
    run.folder = Path(parallel.text_from_main(os.fspath(run.folder)))
    with run.lock() if parallel.rank() == 0 else nullcontext():
        loop = Loop(State.new(net, options), dataset, options, run, held_out=dataset.held_out())
        loop.go(quiet)
        if parallel.rank() == 0:
            write_model_card(run.folder)
            write_report(run.folder)
    if loop.stopped_by:
        raise KeyboardInterrupt
    return run


def sample(run: str | os.PathLike[str] | Run, n: int = 64, *, seed: int = 0, **conditions: Any) -> Tensor | list[Any]:
    """n samples on the CPU, images [n, C, H, W] in [-1, 1]; for a model that starts from pictures one of each `source`
    (a path, or a tensor [n, C, H, W]). Item i depends on (seed, i), and its source, alone."""
    return generate.samples(_run(run), n, seed=seed, **conditions)


def load(run: str | os.PathLike[str] | Run) -> Model:
    """The trained model, in evaluation mode, on the best device: a plain nn.Module."""
    return generate.load(_run(run))


def evaluate(
    run: str | os.PathLike[str] | Run,
    data: str | os.PathLike[str] | Dataset | None = None,
    *,
    metrics: Sequence[str] | None = None,
    n: int = 10_000,
    extractor: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a run against data (its own by default): writes metrics.json and the report, returns the figures."""
    from genloom.measure import evaluate_run

    opened = _run(run)
    against = data if data is None or isinstance(data, (str, Dataset)) else Path(data)
    chosen = tuple(metrics) if metrics else None
    result = evaluate_run(opened, against, metrics=chosen, n=n, extractor=extractor, seed=seed)
    write_model_card(opened.folder)
    write_report(opened.folder)
    return result


def compare(runs: Sequence[str | os.PathLike[str] | Run]) -> list[dict[str, Any]]:
    """One row a run: model, data, budget, and every figure that was measured."""
    return compare_runs([_run(r).folder for r in runs])


def inspect(path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """The preflight of a data set: what is there, what is unreadable, and what fit would do with it."""
    from genloom.data.inspect import inspect as look

    return look(path, **options)


def default_recipe(cls: type[Model], device: torch.device) -> str:
    """`cpu` on a CPU, `default` on anything faster, else whatever the model has."""
    for name in ("cpu", "default") if device.type == "cpu" else ("default", "cpu"):
        if name in cls.recipes:
            return name
    return next(iter(cls.recipes))


def resolve_options(
    cls: type[Model], recipe: str, overrides: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> Options:
    """The recipe of that name with the caller's changes. Raises UserError for an unknown recipe or option."""
    if recipe not in cls.recipes:
        raise unknown(f"recipe of '{cls.name}'", recipe, cls.recipes)
    known = [f.name for f in fields(Options) if f.name != "model"]
    for name in overrides:
        if name not in known:
            raise UserError(f"fit has no option '{name}'.{nearest(name, known)}")
    base = cls.recipes[recipe]
    values = {f.name: getattr(base, f.name) for f in fields(Recipe)}
    given = dict(overrides)
    if "steps" in given and "minutes" not in given:
        given["minutes"] = None  # a budget in steps replaces a recipe's in minutes
    hyper = {k: p.default for k, p in hyper_parameters(cls).items()} | dict(base.model)
    return Options(**{**values, **given, "model": {**hyper, **(config or {})}})


def _run(run: str | os.PathLike[str] | Run) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def _check_ranks(options: Options) -> None:
    share = parallel.world() * options.accumulate
    if options.batch_size % share:
        raise UserError(f"--batch-size {options.batch_size} does not divide among {share} (processes × accumulate).")


def _request(
    cls: type[Model], recipe: str, options: Options, source: str, data: Dataset, data_options: Mapping[str, Any]
) -> dict[str, Any]:
    """run.json: the whole resolved request, which is also the config to reuse."""
    settings = {k: v for k, v in asdict(options).items() if k != "model"}
    return {
        "genloom": genloom.__version__,
        "model": cls.name,
        "source": source_of(cls),
        "card": asdict(cls.card),
        "recipe": recipe,
        "config": dict(options.model),
        "options": settings | {"betas": list(options.betas)},
        "data": {
            "source": source if source == data.name else os.path.abspath(source),
            "options": {k: str(v) if isinstance(v, Path) else v for k, v in data_options.items()},
            "name": data.name,
            "fingerprint": data.fingerprint,
            "summary": data.summary,
        },
        "spec": data.spec.to_json(),
        "versions": {"genloom": genloom.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": str(parallel.device()),
        "command": _command(cls, recipe, options, source, data_options),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _command(cls: type[Model], recipe: str, options: Options, source: str, data_options: Mapping[str, Any]) -> str:
    """The command that makes this run again: the recipe, and what departs from it."""
    model = source_of(cls)
    words = ["genloom", "fit", model["path"] if model else cls.name, source, "--recipe", recipe]
    plain = resolve_options(cls, recipe, {})
    for name in (f.name for f in fields(Options) if f.name != "model"):
        if (value := getattr(options, name)) != getattr(plain, name) and value is not None:
            words += _flag(name, value)
    for name, value in options.model.items():
        if value != plain.model[name]:
            words += _flag(f"model.{name}", value)
    for name, value in data_options.items():
        words += _flag(f"data.{name}", value)
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        head, _, tail = flag.rpartition(".")
        return [f"--{flag}" if value else f"--{head}.no-{tail}" if head else f"--no-{tail}"]
    return [f"--{flag}", *(str(v) for v in value)] if isinstance(value, (tuple, list)) else [f"--{flag}", str(value)]


def _open_or_create(out: str | os.PathLike[str] | None, info: dict[str, Any]) -> Run:
    """The folder to train in: made, or resumed when it holds the same request. Raises UserError when it holds another."""
    if out is not None:
        folder = Path(out)
        if not (folder / "run.json").exists():
            _refuse_foreign(folder)
            return Run.create(folder, info)
        run = Run.open(folder)
        if changes := _changes(run.info, info):
            raise UserError(f"'{folder}' holds another run ({changes[0]}): give another --out, or ask for the same.")
        return Run.create(folder, {**info, "started": run.info.get("started")})
    name = f"{info['model']}-{Path(info['data']['name']).stem}"
    for number in range(1, 1000):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not (folder / "run.json").exists() or not _changes(Run.open(folder).info, info):
            return _open_or_create(folder, info)
    raise UserError("There are a thousand runs of that name: give an --out.")


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file: give --out a new folder.")
    if folder.exists() and any(p.name not in (".lock",) for p in folder.iterdir()):
        raise UserError(f"'{folder}' is not empty and holds no run: give --out a new or an empty folder.")


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In what two requests differ, in the user's words; what the budget holds does not count."""
    pairs: list[tuple[str, Any, Any]] = [("model", old["model"], new["model"])]
    if old["data"]["fingerprint"] != new["data"]["fingerprint"]:
        pairs.append(("data", _data_words(old), _data_words(new)))
    pairs += [(f"--model.{k}", old["config"].get(k), v) for k, v in new["config"].items()]
    pairs += [(f"--{k}", old["options"].get(k), v) for k, v in new["options"].items() if k not in BUDGET]
    return [f"{name.replace('_', '-')} {a} there, {b} here" for name, a, b in pairs if _json(a) != _json(b)]


def _data_words(info: Mapping[str, Any]) -> str:
    return f"{info['data']['name']} ({info['data']['fingerprint'][:8]})"


def _json(value: Any) -> Any:
    return [_json(v) for v in value] if isinstance(value, (list, tuple)) else value
