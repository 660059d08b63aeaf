"""One subcommand a verb, over the same dataclasses as the API. Torch is imported by the verbs that need it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, arg

from genloom import __version__
from genloom.errors import UserError, unknown

if TYPE_CHECKING:
    from genloom.core import Model
    from genloom.state import Options

HELP = """genloom: train, sample, measure and compare generative models on your own data

  genloom fit MODEL DATA      train a model on data into a run folder (again: resume)
  genloom import MODEL FILE   take an official checkpoint as a run folder
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
        "import": _import,
        "sample": _sample,
        "evaluate": _evaluate,
        "compare": _compare,
        "models": _models,
        "data": _data,
    }
    verb = words[0] if words else "help"
    if verb in ("-h", "--help", "help"):
        print(HELP)
    elif verb in ("-V", "--version", "version"):
        print(f"genloom {__version__}")
    elif verb in verbs:
        verbs[verb](words[1:])
    else:
        raise unknown("verb", verb, verbs)
    return 0


# ── what each verb takes: a comment is the option's help ─────────────────────────────────────────────────────────
RunFolder = Annotated[str, Positional, arg(metavar="RUN", help="a run folder")]
Code = Annotated[str | None, arg(help="the model's own file, when the run's model is yours", metavar="PATH")]
FLAT = arg(name="")  # options of a part, without its name before them


@dataclass
class Sample:
    """Draw samples from a run into files."""

    RUN: RunFolder
    n: Annotated[int, arg(aliases=["-n"])] = 64  # how many
    out: Path | None = None  # the folder to write into; by default RUN/samples/seedS
    seed: int = 0  # sample i depends on this and i alone
    code: Code = None


@dataclass
class Import:
    """Take an official checkpoint as a run folder. Nothing in it is executed."""

    MODEL: Annotated[str, Positional, arg(metavar="MODEL", help="the model that it is of")]
    CHECKPOINT: Annotated[Path, Positional, arg(metavar="CHECKPOINT", help="a .pkl, .pth or .safetensors file")]
    out: Path  # the run folder to make
    config: Path | None = None  # JSON: the reference's own options, where the file does not tell them


@dataclass
class Evaluate:
    """Measure a run against real data."""

    RUN: RunFolder
    data: str | None = None  # measure against this data; by default the run's own
    metrics: str | None = None  # fd,kid,… by default all
    n: Annotated[int, arg(aliases=["-n"])] = 10_000  # samples to draw
    extractor: str | None = None  # digits, lite0 or inception
    seed: int = 0  # of the samples
    json: bool = False  # print JSON
    code: Code = None


@dataclass
class Compare:
    """Runs side by side."""

    RUN: Annotated[list[str], Positional, arg(metavar="RUN…", help="run folders")]
    json: bool = False  # print JSON


@dataclass
class Models:
    """The models, their papers and recipes."""

    MODEL: Annotated[str | None, Positional, arg(metavar="MODEL", help="one model, whole")] = None
    json: bool = False  # print JSON


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _fit(words: list[str]) -> None:
    model = _first_word(words)
    if model is None:
        if not {"-h", "--help"} & set(words):
            raise UserError("fit needs a model and data: genloom fit gan mnist. `genloom models` lists the models.")
        print("usage: genloom fit MODEL DATA [options]\n\nName a model to see its options: genloom fit gan --help")
        return
    from genloom import api, parallel, transfer
    from genloom.plugins import resolve

    cls = resolve(model)
    recipe = _peek(words, "--recipe") or api.default_recipe(cls, parallel.device())
    init = _peek(words, "--init")
    options = api.resolve_options(cls, recipe, {}, transfer.initial(init, cls)[0] if init else None)
    default = _fit_form(cls, recipe, options)
    args = parse(type(default), f"fit {model}", words[1:], default=default, description=cls.card.summary)
    run = api.fit(
        cls,
        args.DATA,
        args.out,
        recipe=recipe,
        config=vars(args.model),
        init=args.init,
        data_options=_changed(args.data, default.data),
        quiet=args.quiet,
        **{k: getattr(args, k) for k, v in vars(options).items() if k != "model" and getattr(args, k) != v},
    )
    if parallel.main():
        print(f"run     {run.folder}\nreport  {run.folder / 'report.html'}\nnext    genloom sample {run.folder}")
    parallel.teardown()


def _fit_form(cls: type[Model], recipe: str, options: Options) -> Any:
    """What fit takes for one model: data, the recipe's options, --model.* and --data.*, all at their defaults."""
    from genloom.core import hyper_parameters
    from genloom.data import options_of

    hyper = [(k, p.annotation, options.model[k]) for k, p in hyper_parameters(cls).items()]
    model = make_dataclass("HyperParameters", hyper, frozen=True)
    data = options_of(cls.modality, cls.needs)
    here = "a built-in data set, or a folder, zip or tar of your own"
    fields: list[Any] = [
        ("DATA", Annotated[str, Positional, arg(metavar="DATA", help=here)]),
        ("out", Annotated[Path | None, arg(help="the run folder; by default runs/MODEL-DATA")], None),
        ("recipe", Annotated[str, arg(help=f"one of: {', '.join(cls.recipes)}")], recipe),
        ("init", Annotated[str | None, arg(help="a run of the same model to start from")], None),
        ("quiet", Annotated[bool, arg(help="print nothing while training")], False),
        ("model", model, field(default_factory=model)),
        ("data", data, field(default_factory=data)),
    ]
    form: Any = make_dataclass("Fit", fields, bases=(type(options),), kw_only=True, frozen=True)
    return form(**{**vars(options), "DATA": tyro.MISSING, "model": model()})


def _import(words: list[str]) -> None:
    args = parse(Import, "import", words)
    from genloom import api

    run = api.import_(args.MODEL, args.CHECKPOINT, args.out, config=args.config)
    print(f"run     {run.folder}\nnext    genloom sample {run.folder}")


def _sample(words: list[str]) -> None:
    _trust(_peek(words, "--code"))
    folder = _first_word(words)
    conditions = make_dataclass("Conditions", _condition_fields(folder) if folder else [])
    args, asked = parse(tuple[Annotated[Sample, FLAT], Annotated[conditions, FLAT]], "sample", words)  # type: ignore[valid-type]
    if args.n < 1:
        raise UserError(f"-n must be 1 or more, not {args.n}.")
    from genloom import generate
    from genloom.run import Run

    run = Run.open(args.RUN)
    out = args.out or run.folder / "samples" / f"seed{args.seed}"
    paths = generate.to_files(run, args.n, out, seed=args.seed, **vars(asked))
    print(f"{len(paths)} samples in {out}")


def _condition_fields(folder: str) -> list[tuple[str, Any, Any]]:
    """The conditions that this run's model takes, as options: from the signature of its `sample`."""
    import inspect

    from genloom.plugins import model_of
    from genloom.run import Run

    cls = model_of(Run.open(folder))
    parameters = inspect.signature(cls.sample, eval_str=True).parameters
    kinds = {name: parameters[name].annotation for name in cls.conditions}
    typed = {"label": str, "source": str}  # a class by name or number; a path
    return [(name, typed.get(name, kind) | None, None) for name, kind in kinds.items()]


def _evaluate(words: list[str]) -> None:
    args = parse(Evaluate, "evaluate", words)
    from genloom import api
    from genloom.measure import format_result

    _trust(args.code)
    metrics = [m.strip() for m in args.metrics.split(",")] if args.metrics else None
    result = api.evaluate(args.RUN, args.data, metrics=metrics, n=args.n, extractor=args.extractor, seed=args.seed)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{format_result(result)}\nreport  {Path(args.RUN) / 'report.html'}")


def _compare(words: list[str]) -> None:
    args = parse(Compare, "compare", words)
    if not args.RUN:
        raise UserError("compare needs run folders: genloom compare runs/*.")
    from genloom import api
    from genloom.report import format_comparison

    _show(api.compare(args.RUN), format_comparison, args.json)


def _models(words: list[str]) -> None:
    args = parse(Models, "models", words)
    from genloom import core
    from genloom.plugins import resolve

    chosen = {args.MODEL: resolve(args.MODEL)} if args.MODEL else core.models()
    if args.json:
        facts = {
            k: {"modality": m.modality, "card": asdict(m.card), "recipes": list(m.recipes)} for k, m in chosen.items()
        }
        print(json.dumps(facts, indent=1))
        return
    for name, cls in chosen.items():
        print(_describe(cls) if args.MODEL else f"{name:<10} {cls.modality:<6} {cls.card.year}  {cls.card.summary}")


def _describe(cls: type[Model]) -> str:
    card = cls.card
    lines = [
        f"{cls.name}: {card.summary}",
        f"{card.authors} ({card.year}): {card.paper}",
        card.url,
        f"licence {card.licence}, {card.source}",
    ]
    if card.changes:
        lines.append(f"changed: {card.changes}")
    for name, r in cls.recipes.items():
        budget = f"{r.minutes:g} minutes" if r.minutes else f"{r.steps} steps"
        optimiser = f"batch {r.batch_size}, lr {r.lr:g}, ema {r.ema:g}"
        lines.append(f"recipe {name:<9} {budget}, {optimiser} {dict(r.model) or ''}")
    return "\n".join(lines)


def _data(words: list[str]) -> None:
    if words[:1] == ["inspect"]:
        _inspect(words[1:])
        return
    if words and words[0] not in ("-h", "--help"):
        raise UserError(
            f"data takes no '{words[0]}': `genloom data` lists the built-in sets, `genloom data inspect PATH` looks at yours."
        )
    from genloom.data.catalog import catalog

    for name, entry in catalog().items():
        print(f"{name:<10} {entry.modality:<6} {entry.summary}  [{entry.licence}]")
    print("\nYour own: any folder, zip or tar. Look before you fit: genloom data inspect PATH")


def _inspect(words: list[str]) -> None:
    from genloom.data import options_of
    from genloom.data.inspect import format_report, inspect

    image = options_of("image")
    path = Annotated[str, Positional, arg(metavar="PATH", help="a folder, zip or tar, or a built-in name")]
    as_json = Annotated[bool, arg(help="print JSON")]
    fields: list[Any] = [("PATH", path), ("json", as_json, False), ("data", image, field(default_factory=image))]
    args = parse(make_dataclass("Inspect", fields), "data inspect", words)
    _show(inspect(args.PATH, **_changed(args.data, image())), format_report, args.json)


# ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────
def parse(form: Any, verb: str, words: Sequence[str], **more: Any) -> Any:
    """The words as values of the form. Raises UserError for words that do not fit: tyro's complaint in one sentence."""
    prog, said = f"genloom {verb}", io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(form, prog=prog, args=words, **more)
    except SystemExit as stop:
        if not stop.code:
            raise
    plain = re.sub("[╭╮╰╯│]", " ", said.getvalue())
    blocks = [" ".join(b.split()) for b in re.split(r"\n?[^\n]*[─-]{4,}[^\n]*\n", plain)]  # between rules
    what = next((b for b in blocks[1:] if b), blocks[0])
    near = re.search(r"Perhaps you meant.*?(--[\w.-]+)", " ".join(blocks))
    offer = f" Did you mean '{near[1]}'?" if near else ""
    raise UserError(f"{what.rstrip('.')}.{offer} `{prog} --help` lists what there is.")


def _first_word(words: Sequence[str]) -> str | None:
    return words[0] if words and not words[0].startswith("-") else None


def _peek(words: Sequence[str], flag: str) -> str | None:
    """The value of a flag before the real parse: it decides what else there is to parse."""
    for word, after in zip(words, [*words[1:], None], strict=True):
        if word == flag:
            return after
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
    return None


def _trust(code: str | None) -> None:
    """Run a model's own file, named by the user, so that its run can be opened."""
    if code is not None:
        from genloom.plugins import resolve

        resolve(code)


def _changed(values: Any, default: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(values).items() if v != getattr(default, k)}


def _show(value: Any, as_text: Callable[[Any], str], as_json: bool) -> None:
    print(json.dumps(value, indent=1) if as_json else as_text(value))
