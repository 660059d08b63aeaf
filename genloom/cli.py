"""One subcommand a verb, over the same dataclasses as the API. Torch is imported by the verbs that need it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from genloom.errors import UserError, nearest, unknown

if TYPE_CHECKING:
    from genloom.core import Model

OPTION_HELP = {
    "steps": "steps to train for",
    "minutes": "time to train for, in place of steps",
    "batch_size": "items a step, over all processes",
    "lr": "learning rate",
    "betas": "Adam's decay rates",
    "weight_decay": "AdamW's weight decay",
    "ema": "decay of the averaged weights, that sampling uses",
    "clip": "largest gradient norm",
    "decay": "last share of the run over which the rate falls to zero",
    "seed": "decides the initial weights, the order of the data and the noise",
    "precision": "auto: bf16 where the device is fast in it and the model holds its quality",
    "accumulate": "pieces that a batch is computed in, for less memory",
    "compile": "compile the losses with torch.compile",
    "save_minutes": "time between checkpoints",
}

HELP = """genloom: train, sample, measure and compare generative models on your own data

  genloom fit MODEL DATA      train a model on data into a run folder (again: resume)
  genloom sample RUN          draw samples from a run into files
  genloom evaluate RUN        measure a run against real data
  genloom compare RUN…        runs side by side
  genloom models              the models, their papers and recipes
  genloom data                the built-in data sets;  genloom data inspect PATH: what fit would do with yours

  genloom VERB --help         the options of a verb;  genloom fit MODEL --help: also the model's own

Try: genloom fit gan mnist --minutes 3
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command. Exit code 0, or 2 after one sentence on what to do."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
    except UserError as error:
        print(f"genloom: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("genloom: stopped; what was saved is whole, and the same command goes on from there.", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    sys.stdout.flush()
    if code:
        sys.exit(code)


def _run(words: list[str]) -> int:
    verbs: dict[str, Callable[[list[str]], None]] = {
        "fit": _fit,
        "sample": _sample,
        "evaluate": _evaluate,
        "compare": _compare,
        "models": _models,
        "data": _data,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if words[0] in ("-V", "--version", "version"):
        from genloom import __version__

        print(f"genloom {__version__}")
        return 0
    if words[0] not in verbs:
        raise unknown("verb", words[0], verbs)
    verbs[words[0]](words[1:])
    return 0


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _fit(words: list[str]) -> None:
    model = _first_word(words)
    if model is None:
        if not {"-h", "--help"} & set(words):
            raise UserError("fit needs a model and data: genloom fit gan mnist. `genloom models` lists the models.")
        print("usage: genloom fit MODEL DATA [options]\n\nName a model to see its options: genloom fit gan --help")
        return
    from genloom import api, parallel
    from genloom.plugins import resolve

    cls = resolve(model)
    recipe = _peek(words, "--recipe") or api.default_recipe(cls, parallel.device())
    options = api.resolve_options(cls, recipe, {})
    form = _fit_form(cls, recipe, options)
    values = parse(form, f"genloom fit {model}", words[1:], cls.card.summary)
    data_options = {k: v for k, v in vars(values["data"]).items() if v != _default(type(values["data"]), k)}
    overrides = {k: v for k, v in values.items() if k in _names(options) and k != "model" and v != getattr(options, k)}
    hyper = {k: v for k, v in vars(values["model"]).items() if v != options.model[k]}
    run = api.fit(
        cls,
        values["DATA"],
        values["out"],
        recipe=recipe,
        config=hyper,
        data_options=data_options,
        quiet=values["quiet"],
        **overrides,
    )
    if parallel.rank() == 0:
        print(f"run     {run.folder}\nreport  {run.folder / 'report.html'}\nnext    genloom sample {run.folder}")
    parallel.teardown()


def _fit_form(cls: type[Model], recipe: str, options: Any) -> type:
    """The command line of fit for one model: positionals, options with the recipe's own defaults, --model.*, --data.*"""
    from genloom.core import hyper_parameters
    from genloom.data import options_of

    hyper = [(k, p.annotation, options.model[k]) for k, p in hyper_parameters(cls).items()]
    fields: list[Any] = [
        ("DATA", positional("DATA", "a built-in data set, or a folder, zip or tar of your own"), field()),
        ("out", option(Path | None, "the run folder; by default runs/MODEL-DATA"), None),
        ("recipe", option(str, f"one of: {', '.join(cls.recipes)}"), recipe),
        ("quiet", option(bool, "print nothing while training"), False),
    ]
    hints = typing.get_type_hints(type(options))
    fields += [
        (name, option(hints[name], OPTION_HELP[name]), getattr(options, name))
        for name in (f.name for f in dataclasses.fields(options))
        if name != "model"
    ]
    form = make_dataclass("HyperParameters", hyper, frozen=True)
    fields.append(("model", form, field(default_factory=form)))
    data_form = options_of(cls.modality, cls.needs)
    fields.append(("data", data_form, field(default_factory=data_form)))
    return make_dataclass("Fit", fields)


def _sample(words: list[str]) -> None:
    run_folder = _first_word(words)
    extra: list[Any] = []
    if run_folder is not None:
        extra = _condition_fields(run_folder, _peek(words, "--code"))
    form = make_dataclass(
        "Sample",
        [
            ("RUN", positional("RUN", "a run folder"), field()),
            ("n", option(int, "how many", "-n"), 64),
            ("out", option(Path | None, "the folder to write into; by default RUN/samples/seedS"), None),
            ("seed", option(int, "sample i depends on this and i alone"), 0),
            ("code", option(Path | None, "the model's own file, when the run's model is yours"), None),
            *extra,
        ],
    )
    args = parse(form, "genloom sample", words)
    from genloom import generate
    from genloom.run import Run

    if args["n"] < 1:
        raise UserError(f"-n must be 1 or more, not {args['n']}.")
    run = Run.open(args["RUN"])
    out = args["out"] or run.folder / "samples" / f"seed{args['seed']}"
    conditions = {name: args[name] for name, _, _ in extra}
    paths = generate.to_files(run, args["n"], out, seed=args["seed"], **conditions)
    print(f"{len(paths)} samples in {out}")


def _condition_fields(run_folder: str, code: str | None) -> list[tuple[str, Any, Any]]:
    """The conditions that this run's model takes, as options: from the signature of its `sample`."""
    import inspect

    from genloom.plugins import model_of, resolve
    from genloom.run import Run

    if code is not None:
        resolve(code)
    cls = model_of(Run.open(run_folder))
    parameters = inspect.signature(cls.sample, eval_str=True).parameters
    kinds = {name: parameters[name].annotation for name in cls.conditions}
    typed = {"label": str, "source": str}  # a class by name or number; a path
    return [(name, typed.get(name, kind) | None, None) for name, kind in kinds.items()]


def _evaluate(words: list[str]) -> None:
    form = make_dataclass(
        "Evaluate",
        [
            ("RUN", positional("RUN", "a run folder"), field()),
            ("data", option(str | None, "measure against this data; by default the run's own"), None),
            ("metrics", option(str | None, "fd,kid,… by default all"), None),
            ("n", option(int, "samples to draw", "-n"), 10_000),
            ("extractor", option(str | None, "digits, lite0 or inception"), None),
            ("seed", option(int, "of the samples"), 0),
            ("json", option(bool, "print JSON"), False),
            ("code", option(Path | None, "the model's own file, when the run's model is yours"), None),
        ],
    )
    args = parse(form, "genloom evaluate", words)
    from genloom import api

    _trust(args["code"])
    metrics = [m.strip() for m in args["metrics"].split(",")] if args["metrics"] else None
    result = api.evaluate(
        args["RUN"], args["data"], metrics=metrics, n=args["n"], extractor=args["extractor"], seed=args["seed"]
    )
    if args["json"]:
        print(json.dumps(result, indent=1))
        return
    from genloom.measure import format_result

    print(format_result(result))
    print(f"report  {Path(args['RUN']) / 'report.html'}")


def _compare(words: list[str]) -> None:
    form = make_dataclass(
        "Compare",
        [("RUN", positional("RUN", "run folders", list[str]), field()), ("json", option(bool, "print JSON"), False)],
    )
    args = parse(form, "genloom compare", words)
    from genloom import api
    from genloom.report import format_comparison

    if not args["RUN"]:
        raise UserError("compare needs run folders: genloom compare runs/*.")
    rows = api.compare(args["RUN"])
    print(json.dumps(rows, indent=1) if args["json"] else format_comparison(rows))


def _models(words: list[str]) -> None:
    form = make_dataclass(
        "Models",
        [
            ("MODEL", positional("MODEL", "one model, whole", str | None), None),
            ("json", option(bool, "print JSON"), False),
        ],
    )
    args = parse(form, "genloom models", words)
    from genloom import core
    from genloom.plugins import resolve

    chosen = {args["MODEL"]: resolve(args["MODEL"])} if args["MODEL"] else core.models()
    if args["json"]:
        facts = {
            k: {"modality": m.modality, "card": dataclasses.asdict(m.card), "recipes": list(m.recipes)}
            for k, m in chosen.items()
        }
        print(json.dumps(facts, indent=1))
    elif args["MODEL"]:
        print(_describe(resolve(args["MODEL"])))
    else:
        for name, cls in chosen.items():
            print(f"{name:<10} {cls.modality:<6} {cls.card.year}  {cls.card.summary}")


def _describe(cls: type[Model]) -> str:
    card = cls.card
    lines = [
        f"{cls.name}: {card.summary}",
        f"{card.authors} ({card.year}): {card.paper}",
        card.url,
        f"licence {card.licence}, {card.source}",
    ]
    lines += [f"changed: {card.changes}"] if card.changes else []
    for name, r in cls.recipes.items():
        budget = f"{r.minutes:g} minutes" if r.minutes else f"{r.steps} steps"
        lines.append(
            f"recipe {name:<9} {budget}, batch {r.batch_size}, lr {r.lr:g}, ema {r.ema:g} {dict(r.model) or ''}"
        )
    return "\n".join(lines)


def _data(words: list[str]) -> None:
    from genloom.data.catalog import catalog

    if words[:1] == ["inspect"]:
        _inspect(words[1:])
        return
    if words and words[0] not in ("-h", "--help"):
        raise UserError(
            f"data takes no '{words[0]}': `genloom data` lists the built-in sets, `genloom data inspect PATH` looks at yours."
        )
    for name, entry in catalog().items():
        print(f"{name:<10} {entry.modality:<6} {entry.summary}  [{entry.licence}]")
    print("\nYour own: any folder, zip or tar. Look before you fit: genloom data inspect PATH")


def _inspect(words: list[str]) -> None:
    from genloom.data import options_of

    image = options_of("image")
    form = make_dataclass(
        "Inspect",
        [
            ("PATH", positional("PATH", "a folder, zip or tar, or a built-in name"), field()),
            ("json", option(bool, "print JSON"), False),
            ("data", image, field(default_factory=image)),
        ],
    )
    args = parse(form, "genloom data inspect", words)
    from genloom.data.inspect import format_report, inspect

    options = {k: v for k, v in vars(args["data"]).items() if v != _default(image, k)}
    facts = inspect(args["PATH"], **options)
    print(json.dumps(facts, indent=1) if args["json"] else format_report(facts))


# ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────
def parse(form: type, prog: str, words: Sequence[str], description: str | None = None) -> dict[str, Any]:
    """The words as values of the form. Raises UserError for words that do not fit: tyro's complaint in one sentence."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return dict(vars(tyro.cli(form, prog=prog, args=words, description=description)))
    except SystemExit as stop:
        if not stop.code:
            raise
    plain = re.sub("[╭╮╰╯│]", " ", said.getvalue())
    blocks = [" ".join(b.split()) for b in re.split(r"\n?[^\n]*[─-]{4,}[^\n]*\n", plain)]  # between rules
    what = next((b for b in blocks[1:] if b), blocks[0])
    suggested = [flag for b in blocks if b.startswith("Perhaps you meant") for flag in re.findall(r"--[\w.-]+", b)]
    flags = suggested[:1] or [f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(form)]
    wrong = re.search(r"Unrecognized options: (--[\w.-]+)", what)
    offer = nearest(wrong[1], flags) if wrong else ""
    raise UserError(f"{what.rstrip('.')}.{offer} `{prog} --help` lists what there is.")


def positional(metavar: str, help: str, kind: Any = str) -> Any:
    import tyro

    return Annotated[kind, tyro.conf.Positional, tyro.conf.arg(metavar=metavar, help=help)]


def option(kind: Any, help: str, *aliases: str) -> Any:
    import tyro

    return Annotated[kind, tyro.conf.arg(help=help, aliases=aliases or None)]


def _first_word(words: Sequence[str]) -> str | None:
    return words[0] if words and not words[0].startswith("-") else None


def _peek(words: Sequence[str], flag: str) -> str | None:
    """The value of a flag before the real parse: it decides what else there is to parse."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
    return None


def _trust(code: Path | None) -> None:
    if code is not None:
        from genloom.plugins import resolve

        resolve(str(code))


def _names(options: Any) -> set[str]:
    return {f.name for f in dataclasses.fields(options)}


def _default(form: type, name: str) -> Any:
    return getattr(form(), name)
