"""The public verbs. Each takes what its command takes, and returns a Run, tensors, or plain results."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from genloom import budget, core, generate, machine, parallel, private, transfer
from genloom.core import Model, build
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.data.canaries import Planted
from genloom.errors import UserError
from genloom.latents import verbs
from genloom.latents.verbs import Numbers, edit, interpolate, project  # noqa: F401 - verbs, as those below
from genloom.plugins import resolve
from genloom.policy import Policy
from genloom.report import compare_runs, write_model_card, write_report
from genloom.request import about, default_recipe, open_or_create, refuse_occupied, request, resolve_options
from genloom.run import Place, Run
from genloom.seal import TRAINED, checkpoint_parent, parent_of, write_seal
from genloom.state import State
from genloom.train import Loop, some

Given = TypeVar("Given")


def fit(
    model: str | type[Model],
    data: Place | Dataset,
    out: Place | None = None,
    *,
    recipe: str | None = None,
    config: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    init: Place | None = None,
    licence: str | None = None,
    consent: str | None = None,
    canaries: int = 0,
    quiet: bool = False,
    **overrides: Any,
) -> Run:
    """Train a model on data into a run folder; the same call again resumes it.

    `model`: a registered name, a Python file that registers one, or a class. `data`: a built-in name, a path, or a
    Dataset. `recipe`: one of the model's, by default the one that fits the machine. `config`: hyper-parameters of the
    model. `init`: a run to start from, its hyper-parameters the defaults. `canaries`: made-up items to plant in the data, that
    `audit` looks for. `licence`, `consent`: under which licence the data is, and what the people in it agreed to (or the path of a
    note that says it): kept in the run and shown on its card. `overrides`: fields of Options (steps, minutes, batch_size, lr,
    seed, precision ...).
    Raises UserError for anything that the caller can mend, KeyboardInterrupt after Ctrl-C, when all has been saved.
    """
    parallel.setup()
    cls = resolve(model)
    device = parallel.device()
    recipe = recipe or default_recipe(cls, device)
    inherited, old = transfer.initial(init, cls) if init else ({}, None)
    options = resolve_options(cls, recipe, overrides, {**inherited, **(config or {})})
    share = parallel.world() * options.accumulate
    if options.batch_size % share:
        raise UserError(f"--batch-size {options.batch_size} does not divide among {share} (processes × accumulate).")
    data_options = dict(data_options or {})
    if isinstance(data, Dataset):
        dataset, named, asked = data, data.name, data_options
    else:
        named, asked = os.fspath(data), cls.asks(options.model) | data_options
        like = old.spec if old else None
        dataset = open_data(_place(data), modality=cls.modality, needs=cls.needs, like=like, **asked)
    dataset = Planted(dataset, canaries, options.seed) if canaries else dataset
    machine.keep_freed_memory()
    machine.multiply_fast()
    torch.manual_seed(core.mix(options.seed, 0))
    net = build(cls, dataset.spec, options.model)
    if old and (fresh := transfer.start_from(net, old)) and not quiet:
        print(f"{len(fresh)} weights have no counterpart there and start fresh: {', '.join(fresh[:3])} …")
    private_with = None
    if options.dp_epsilon is not None:
        learnt = old is None and asked.get("tokenizer", "auto") in ("auto", "char", "bpe")
        dataset = dataset.still()
        private_with = private.check(net, dataset, options, learnt)
    net.prepare(some(dataset, cls.looks_at))
    net.to(device)
    if dataset.spec.modality == "video":
        budget.check(net, dataset, options.batch_size // share)
    more = {"init": os.fspath(init) if init else None, "licence": licence, "consent": consent, "canaries": canaries}
    info = request(cls, recipe, options, named, dataset, data_options, net.spec, more)
    info["data"]["options"] = asked
    info["parents"] = [parent_of(Run.open(init))] if init else []
    run = open_or_create(out, info) if parallel.main() else Run(Path(), info)
    run.folder = Path(parallel.text_from_main(os.fspath(run.folder)))
    with run.lock() if parallel.main() else nullcontext():
        state = State(net, options)
        if private_with:
            private_with.to(net.device)
            state.privacy = private.begin(private_with, options, run, dataset)
        loop = Loop(state, dataset, options, run)
        loop.go(quiet)
        if state.privacy:
            private.settle(run, state.privacy, state.step)
        if parallel.main():
            _tell(run, TRAINED)
    if loop.stopped_by:
        raise KeyboardInterrupt
    return run


def import_(
    model: str | type[Model], checkpoint: Place, out: Place, *, config: Place | Mapping[str, Any] | None = None
) -> Run:
    """Take an official checkpoint as a run folder: `genloom import` (the name is a keyword of Python).

    `config`: the reference's own keyword arguments, or a JSON file of them, where the checkpoint does not tell them.
    Nothing in the checkpoint is executed. Raises UserError for one that is damaged, hostile, or of another model.
    """
    cls, checkpoint, folder = resolve(model), Path(checkpoint), Path(out)
    refuse_occupied(folder)
    words = ["genloom", "import", cls.name, str(checkpoint), "--out", str(folder)]
    if config is not None and not isinstance(config, Mapping):
        config = Path(config)
        words += ["--config", str(config)]
    net = transfer.read_reference(cls, checkpoint, config)
    data = {"source": "", "options": {}, "name": checkpoint.name, "fingerprint": "", "summary": {}}
    facts = {"data": data, "parents": [checkpoint_parent(checkpoint)]}
    run = transfer.keep(net, folder, about(cls, "imported", shlex.join(words)) | facts)
    write_model_card(run.folder)
    write_seal(run, TRAINED)
    return run


def sample(
    run: Place,
    n: int = 64,
    *,
    seed: int = 0,
    seeds: Numbers | None = None,
    policy: Policy | None = None,
    **conditions: Any,
) -> Tensor | list[Any]:
    """n samples on the CPU, images [n, C, H, W] in [-1, 1]; for a model that starts from pictures one of each `source`
    (a path, or a tensor [n, C, H, W]). Item i depends on (seed, i), and its source, alone.

    With `seeds` ([3, 7] or "3,7,100-120") the first picture of each of them; without a label the classes come in turn.
    Under a `policy` what its rules forbid is left out: RefusedError is raised for a forbidden request, or where nothing is left.
    """
    opened = Run.open(run)
    if policy:
        policy.ask(opened, conditions)
    made = generate.named(opened, n, seed, conditions)[0] if seeds is None else verbs.seeds(opened, seeds, **conditions)
    if not policy:
        return made
    allowed = policy.allowed(opened, made)
    return made[allowed] if isinstance(made, Tensor) else [made[i] for i in allowed]


def mix(run: Place, rows: Numbers, columns: Numbers, layers: Numbers = verbs.COARSE, **conditions: Any) -> Tensor:
    """[R, C, channels, H, W] in [-1, 1]: each row's picture with the styles of these layers taken from each column's."""
    return verbs.mix(Run.open(run), rows, columns, layers, **conditions)[0]


def load(run: Place) -> Model:
    """The trained model, in evaluation mode, on the best device: a plain nn.Module."""
    return generate.load(Run.open(run))


def evaluate(
    run: Place,
    data: Place | Dataset | None = None,
    *,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    extractor: str | None = None,
    seed: int = 0,
    vocoder: Place | None = None,
    **conditions: Any,
) -> dict[str, Any]:
    """Measure a run against data (its own by default): writes metrics.json and the report, returns the figures.

    `n`: samples, by default 10,000 pictures, 256 clips (1,000 of digits), or all films up to 10,000 frames. `conditions`:
    numbers that `sample` takes for pictures and clips from nothing, as `truncation=0.7`.
    """
    from genloom.measure import evaluate_run

    opened = Run.open(run)
    waves = None if vocoder is None else os.fspath(vocoder)
    result = evaluate_run(
        opened, _place(data), metrics=metrics or None, n=n, extractor=extractor, seed=seed, vocoder=waves, **conditions
    )
    _tell(opened, ("metrics.json",))
    return result


def audit(
    run: Place,
    data: Place | Dataset | None = None,
    *,
    holdout: Place | Dataset | None = None,
    n: int | None = None,
    attributes: Place | None = None,
    reference: Place | None = None,
    max_copies: float = 0.01,
    max_membership: float = 0.6,
    seed: int = 0,
) -> dict[str, Any]:
    """Whether a run gives away its training data, and which groups it leaves out: writes audit.json and the report.

    `data`: the training data, where it has moved. `holdout`: items that the run never saw, by default what its data holds
    out. `n`: samples, by default 1,000 pictures, 128 clips, 64 texts or sounds. `attributes`: a labels file of groups.
    `reference`: a run of the same model on other data, to calibrate membership by. `passed` of the result is False where
    more than a share `max_copies` of samples are copies, or the AUC of membership is above `max_membership`, for certain.
    """
    from genloom.auditing import audit_run

    opened = Run.open(run)
    result = audit_run(
        opened,
        _place(data),
        holdout=_place(holdout),
        n=n,
        attributes=_place(attributes),
        reference=None if reference is None else Run.open(reference),
        max_copies=max_copies,
        max_membership=max_membership,
        seed=seed,
    )
    _tell(opened, ("audit.json",))
    return result


def _place(given: Given | os.PathLike[str]) -> Given | Path:
    return Path(given) if isinstance(given, os.PathLike) else given


def evaluate_tasks(run: Place, tasks: Place, *, shots: Sequence[int] = (0,), seed: int = 0) -> dict[str, Any]:
    """Few-shot tasks for a language model, from JSON lines: accuracy at each number of solved examples before a task."""
    from genloom import tasks as module

    opened = Run.open(run)
    result = module.evaluate_tasks(opened, Path(tasks), shots, seed)
    write_seal(opened, ("tasks.json",))
    return result


def export(run: Place, out: Place) -> Path:
    """A language model's run as a folder that Hugging Face's transformers loads; LoRA is merged into its weights."""
    from genloom.exporting import to_transformers

    return to_transformers(Run.open(run), Path(out))


def compare(runs: Sequence[Place]) -> list[dict[str, Any]]:
    """One row a run: model, data, budget, and every figure that was measured."""
    return compare_runs([Run.open(r).folder for r in runs])


def inspect(path: Place, *, audit: bool = False, names: Place | None = None, **options: Any) -> dict[str, Any]:
    """The preflight of a data set: what is there, what is unreadable, and what fit would do with it.

    `audit`: also near-duplicates, leaks into the held-out part, personal data (and the names in the file `names`) and unsafe
    pictures, under the key `audit` (`genloom.data.hygiene.audit`).
    """
    from genloom.data import hygiene, inspector

    source = _place(path)
    modality, module = (audit and hygiene.only_written(source)) or inspector(source)
    if not audit:
        facts: dict[str, Any] = module.inspect(source, **options)
        return facts
    _, facts = hygiene.preflight(source, modality, module, options)
    facts["audit"] = hygiene.audit(source, modality, facts, None if names is None else Path(names))
    return facts


def _tell(run: Run, wrote: Sequence[str]) -> None:
    """Write the card and the report anew, and seal the run with the files that the verb wrote."""
    write_model_card(run.folder)
    write_report(run.folder)
    write_seal(run, wrote)
