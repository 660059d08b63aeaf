"""One subcommand a verb, over the same dataclasses as the API. Torch is imported by the verbs that need it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, arg

import genloom
from genloom import cli_data, cli_safe, forms
from genloom.errors import UserError, unknown
from genloom.forms import FLAT, changed, first_word, parse, show

if TYPE_CHECKING:
    from genloom.core import Model
    from genloom.run import Run
    from genloom.state import Options

HELP = """genloom: train, sample, measure and compare generative models on your own data

  genloom fit MODEL DATA      train a model on data into a run folder (again: resume)
  genloom import MODEL FILE   take an official checkpoint as a run folder
  genloom export RUN FOLDER   write a language model for transformers
  genloom sample RUN          draw samples from a run into files, or text onto the screen
  genloom detect FILE…        what files say of their origin: manifests, labels, watermarks, and which run made them
  genloom project RUN PICTURE find a real picture in a StyleGAN's styles
  genloom edit RUN            directions that change a picture's meaning, and sheets of what they do
  genloom mix RUN             pictures with the coarse styles of some seeds and the fine ones of others
  genloom evaluate RUN        measure a run against real data
  genloom audit RUN           whether a run gives away its training data, and which groups it leaves out
  genloom compare RUN…        runs side by side
  genloom verify RUN          whether a run is as it was sealed, and what it comes from
  genloom models              the models, their papers and recipes
  genloom data                the built-in data sets;  genloom data inspect PATH [--audit]: look at yours

  genloom VERB --help         the options of a verb;  genloom fit MODEL --help: also the model's own

Try: genloom fit gan mnist --minutes 3
"""


LESS = {  # what to ask for where memory is lacking, by verb; the other verbs take what they are given
    "fit": "give a smaller --batch-size",
    "sample": "ask for fewer or shorter samples",
    "evaluate": "give a smaller -n",
    "audit": "give a smaller -n",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command. Exit code 0, 1 where an audit flags something, or 2 after one sentence on what to do."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
    except UserError as error:
        print(f"genloom: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        then = "goes on from there" if words[:1] == ["fit"] else "begins anew"
        print(f"genloom: stopped; what was saved is whole, and the same command {then}.", file=sys.stderr)
        code = 130
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        less = LESS.get(words[0] if words else "", "give it less, or close other programs")
        print(f"genloom: there is not enough memory for so much at once: {less}.", file=sys.stderr)
        code = 2
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    sys.stdout.flush()
    if code:
        sys.exit(code)


def _run(words: list[str]) -> int:
    verbs: dict[str, Callable[[list[str]], int | None]] = {
        "fit": _fit,
        "import": _import,
        "export": _export,
        "sample": _sample,
        "detect": cli_safe.detect,
        "project": _project,
        "edit": _edit,
        "mix": _mix,
        "evaluate": _evaluate,
        "audit": cli_safe.audit,
        "compare": _compare,
        "models": _models,
        "data": cli_data.data,
        "verify": cli_safe.verify,
    }
    verb = words[0] if words else "help"
    if verb in ("-h", "--help", "help"):
        print(HELP)
    elif verb in ("-V", "--version", "version"):
        print(f"genloom {genloom.__version__}")
    elif verb in verbs:
        return verbs[verb](words[1:]) or 0
    else:
        raise unknown("verb", verb, verbs)
    return 0


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _fit(words: list[str]) -> None:
    model = first_word(words)
    if model is None:
        if not {"-h", "--help"} & set(words):
            raise UserError("fit needs a model and data: genloom fit gan mnist. `genloom models` lists the models.")
        print("usage: genloom fit MODEL DATA [options]\n\nName a model to see its options: genloom fit gan --help")
        return
    from genloom import parallel, request, transfer
    from genloom.plugins import resolve

    cls = resolve(model)
    recipe = _peek(words, "--recipe") or request.default_recipe(cls, parallel.device())
    init = _peek(words, "--init")
    options = request.resolve_options(cls, recipe, {}, transfer.initial(init, cls)[0] if init else None)
    default = _fit_form(cls, recipe, options)
    args = parse(type(default), f"fit {model}", words[1:], default=default, description=cls.card.summary)
    asked = {k: v for k, v in changed(args, default).items() if k not in ("DATA", "recipe", "model", "data")}
    data_options = changed(args.data, default.data)
    run = genloom.fit(cls, args.DATA, recipe=recipe, config=vars(args.model), data_options=data_options, **asked)
    if parallel.main():
        print(f"run     {run.folder}\nreport  {run.folder / 'report.html'}\nnext    genloom sample {run.folder}")
    parallel.finish()


def _fit_form(cls: type[Model], recipe: str, options: Options) -> Any:
    """What fit takes for one model: data, the recipe's options, --model.* and --data.*, all at their defaults."""
    from genloom.core import hyper_parameters
    from genloom.data import options_of

    hyper = [(k, p.annotation, options.model[k]) for k, p in hyper_parameters(cls).items()]
    model = make_dataclass("HyperParameters", hyper, frozen=True)
    data = options_of(cls.modality, cls.needs)
    here = "a built-in data set, or a folder, zip or tar of your own"
    planted = "made-up items to plant in the data, for `genloom audit` to look for"
    fields: list[Any] = [
        ("DATA", Annotated[str, Positional, arg(metavar="DATA", help=here)]),
        ("out", Annotated[Path | None, arg(help="the run folder; by default runs/MODEL-DATA")], None),
        ("recipe", Annotated[str, arg(help=f"one of: {', '.join(cls.recipes)}")], recipe),
        ("init", Annotated[str | None, arg(help="a run of the same model to start from")], None),
        ("licence", Annotated[str | None, arg(help="of the data, in words: kept in the run and on its card")], None),
        ("consent", Annotated[str | None, arg(help="what the people in it agreed to, or a note that says it")], None),
        ("canaries", Annotated[int, arg(help=planted)], 0),
        ("quiet", Annotated[bool, arg(help="print nothing while training")], False),
        ("model", model, field(default_factory=model)),
        ("data", data, field(default_factory=data)),
    ]
    form: Any = make_dataclass("Fit", fields, bases=(type(options),), kw_only=True, frozen=True)
    return form(**{**vars(options), "DATA": tyro.MISSING, "model": model()})


def _import(words: list[str]) -> None:
    args = parse(forms.Import, "import", words)
    run = genloom.import_(args.MODEL, args.CHECKPOINT, args.out, config=args.config)
    print(f"run     {run.folder}\nnext    genloom sample {run.folder}")


def _export(words: list[str]) -> None:
    args = parse(forms.Export, "export", words)
    cli_safe.trust(args.code)
    print(f"folder  {genloom.export(args.RUN, args.OUT)}")


def _sample(words: list[str]) -> None:
    if _peek(words, "--like") is not None:
        return cli_safe.like(words)
    args, asked = _with_conditions(forms.Sample, "sample", words)
    forms.of_range(args)
    from genloom import generate
    from genloom.latents import verbs
    from genloom.run import Run
    from genloom.text.stops import unescaped

    run = Run.open(args.RUN)
    samples = run.folder / "samples"
    way = forms.heard(args, run.spec.modality, asked.get("source") is not None)
    asked |= {"provenance": args.provenance, "watermark": args.watermark}
    if asked.get("stop") is not None:
        asked["stop"] = unescaped(asked["stop"])
    if args.precision != "auto":
        asked["precision"] = args.precision
    if args.interpolate is not None:
        given = args.interpolate
        named = range(args.seed, args.seed + int(given)) if given.isdecimal() else given
        seeds = verbs.numbers("interpolate", named)
        out = args.out or samples / f"walk-{'-'.join(map(str, seeds[:: max(1, len(seeds) - 1)]))}.webp"
        frames = verbs.interpolate_to_file(run, seeds, out, 24 if args.frames is None else args.frames, **asked)
        return print(f"film    {out}, {frames} frames")
    if args.stream:
        seconds = generate.stream_to(run, out := args.out or samples / "stream.wav", **asked)
        return print(f"sound   {out}, {seconds:.1f} s", file=sys.stderr if str(out) == "-" else sys.stdout)
    if way == "text on the screen":
        return _tell(run, args.n or 1, args.seed, {k: v for k, v in asked.items() if k != "provenance"})
    if args.seeds is not None:
        out = args.out or samples / "seeds"
        paths = verbs.seeds_to_files(run, args.seeds, out, visible_label=args.visible_label, **asked)
    else:
        paths = _to_files(run, args, way, out := args.out or samples / f"seed{args.seed}", asked)
    print(f"table   {paths[0]}" if run.spec.modality == "table" else f"{len(paths)} samples in {out}")


def _to_files(run: Run, args: forms.Sample, way: str, out: Path, asked: dict[str, Any]) -> list[Path]:
    from genloom import generate

    labelled: dict[str, Any] = {"seed": args.seed, "visible_label": args.visible_label}
    if args.balance is not None:
        from genloom.auditing.balance import balanced_files

        paths, drawn = balanced_files(run, n := args.n or 64, args.balance, out, **labelled, **asked)
        print(f"note: {drawn:,} were drawn, and {n:,} kept.", file=sys.stderr)
        return paths
    if args.frames is not None:
        asked["frames"] = args.frames
    if way == "films of a --source":
        paths, notes = generate.films_to(run, out, form=args.form, beside=args.beside, **asked)
        print("".join(f"note: {note}\n" for note in notes), end="", file=sys.stderr)
        return paths
    if args.beside:
        raise UserError("--beside shows the source of a film: give a model that makes films of films a --source.")
    return generate.to_files(run, args.n, out, form=args.form, **labelled, **asked)


def _tell(run: Run, n: int, seed: int, asked: dict[str, Any]) -> None:
    """Texts on the screen: one as it comes, several one after another."""
    from genloom import generate

    prompt = asked.get("prompt") or ""
    waits = [prompt]  # until the model has taken it

    def show(row: int, piece: str) -> None:
        print("".join(waits) + piece if n == 1 else "", end="", flush=True)
        waits.clear()

    texts = generate.tell(run, n, show, seed=seed, **asked)
    if n == 1:
        return print("".join(waits))
    for i, text in enumerate(texts):
        print(f"── {i} ──\n{prompt}{text}\n")


def _project(words: list[str]) -> None:
    args = parse(forms.Project, "project", words)
    cli_safe.trust(args.code)
    asked = {k: v for k, v in vars(args).items() if k not in ("RUN", "PICTURE", "code")}
    found = genloom.project(args.RUN, args.PICTURE, quiet=False, **asked)
    before, after = found["distance"].values()
    print(f"{found['measure']}: {after:.4g} from the picture, {before:.4g} at the mean style")
    styles = Path(found["folder"], "w.safetensors")
    print(f"folder  {found['folder']}\nnext    genloom edit {args.RUN} --start {styles}")


def _edit(words: list[str]) -> None:
    args, asked = _with_conditions(forms.Edit, "edit", words)
    made = genloom.edit(args.RUN, **{k: v for k, v in vars(args).items() if k not in ("RUN", "code")}, **asked)
    for slider in made["sliders"]:
        share = next(v for k, v in slider.items() if k.endswith("explained"))
        print(f"{slider['name']:<12} {share:6.1%}  deviation {slider['deviation']:.3g}")
    print(f"{len(made['sliders'])} sheets in {made['folder']}")


def _mix(words: list[str]) -> None:
    args, asked = _with_conditions(forms.Mix, "mix", words)
    from genloom.latents import verbs
    from genloom.run import Run

    run = Run.open(args.RUN)
    asked |= {"provenance": args.provenance, "watermark": args.watermark}
    out = args.out or run.folder / "samples" / "mix.png"
    print(f"sheet   {verbs.mix_to_file(run, args.rows, args.columns, args.layers, out, **asked)}")


def _with_conditions(form: Any, verb: str, words: list[str]) -> tuple[Any, dict[str, Any]]:
    """The words as values of the form, and those that are conditions of this run's model."""
    code = _peek(words, "--code")
    number = int(code) if code and code.isdecimal() else None  # a condition of infogan has the same name
    cli_safe.trust(code if number is None else None)
    folder = first_word(words)
    conditions = make_dataclass("Conditions", forms.condition_fields(folder, form) if folder else [])
    args, asked = parse(tuple[Annotated[form, FLAT], Annotated[conditions, FLAT]], verb, words)  # type: ignore[valid-type]
    return args, vars(asked) | ({} if number is None else {"code": number})


def _evaluate(words: list[str]) -> None:
    args, conditions = _with_conditions(forms.Evaluate, "evaluate", words)
    from genloom.latents.verbs import numbers
    from genloom.measure import format_result

    if args.tasks:
        result = genloom.evaluate_tasks(args.RUN, args.tasks, shots=list(numbers("shots", args.shots)), seed=args.seed)
        line = "  {name:<28}  {value:>8.4g}   95 %: {low:.4g} to {high:.4g}"
        text = "\n".join(line.format_map(metric) for metric in result["metrics"])
    else:
        metrics = [m.strip() for m in args.metrics.split(",")] if args.metrics else None
        asked = {k: getattr(args, k) for k in ("n", "extractor", "seed", "vocoder")}
        asked |= {k: v for k, v in conditions.items() if v is not None and v is not False}
        result = genloom.evaluate(args.RUN, args.data, metrics=metrics, **asked)
        text = f"{format_result(result)}\nreport  {Path(args.RUN) / 'report.html'}"
    show(result, text, args.json)


def _compare(words: list[str]) -> None:
    args = parse(forms.Compare, "compare", words)
    if not args.RUN:
        raise UserError("compare needs run folders: genloom compare runs/*.")
    from genloom.report import format_comparison

    rows = genloom.compare(args.RUN)
    show(rows, format_comparison(rows), args.json)


def _models(words: list[str]) -> None:
    args = parse(forms.Models, "models", words)
    from genloom import core
    from genloom.plugins import resolve

    chosen = {args.MODEL: resolve(args.MODEL)} if args.MODEL else core.models()
    facts, lines = {}, []
    for name, m in chosen.items():
        facts[name] = {"modality": m.modality, "card": asdict(m.card), "recipes": list(m.recipes)}
        lines.append(_describe(m) if args.MODEL else f"{name:<12} {m.modality:<6} {m.card.year}  {m.card.summary}")
    show(facts, "\n".join(lines), args.json)


def _describe(cls: type[Model]) -> str:
    card = cls.card
    lines = [f"{cls.name}: {card.summary}", f"{card.authors} ({card.year}): {card.paper}", card.url]
    lines.append(f"licence {card.licence}, {card.source}")
    if card.changes:
        lines.append(f"changed: {card.changes}")
    for name, r in cls.recipes.items():
        budget = f"{r.minutes:g} minutes" if r.minutes else f"{r.steps} steps"
        optimiser = f"batch {r.batch_size}, lr {r.lr:g}, ema {r.ema:g}"
        lines.append(f"recipe {name:<9} {budget}, {optimiser} {dict(r.model) or ''}")
    return "\n".join(lines)


# ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _peek(words: Sequence[str], flag: str) -> str | None:
    """The value of a flag before the real parse: it decides what else there is to parse."""
    for word, after in zip(words, [*words[1:], None], strict=False):  # of no words at all the second has one more
        name, equals, value = word.partition("=")
        if name == flag:
            return value if equals else after
    return None


def _is_lack_of_memory(error: Exception) -> bool:
    """Also as Torch says it, of a GPU (an error of its own) and of a CPU (none)."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool({"MemoryError", "OutOfMemoryError"} & names) or "can't allocate memory" in str(error)
