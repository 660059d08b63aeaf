"""What each verb takes on the command line: a field is an option, its comment the option's help."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args

import tyro
from tyro.conf import Positional, arg

from genloom.errors import UserError

# Options that a way of sampling does not hear: what draws no numbered samples, or no films.
IGNORED = {
    "--interpolate": ("n", "form", "beside", "visible_label"),
    "--interpolate of named seeds": ("n", "seed", "form", "beside", "visible_label"),
    "--stream": ("n", "seed", "form", "beside", "frames", "visible_label"),
    "--seeds": ("n", "seed", "form", "beside", "frames"),
    "--balance": ("form", "beside", "frames"),
    "text on the screen": ("form", "beside", "frames", "visible_label"),
    "films of a --source": ("n", "seed", "visible_label"),
    "what is made of a --source": ("n",),
}
WAYS = ("interpolate", "stream", "seeds", "balance")
TYPED = (int, float, str, bool)  # kinds of values that can be given on a command line
_NUMBERS = {"int": "a whole number", "INT": "a whole number", "float": "a number", "FLOAT": "a number"}

RunFolder = Annotated[str, Positional, arg(metavar="RUN", help="a run folder")]
_CODE = "the model's own file, when the run's model is yours; a number is the code of an infogan's samples"
Code = Annotated[str | None, arg(help=_CODE, metavar="PATH")]
FLAT = arg(name="")  # options of a part, without its name before them


@dataclass
class Sample:
    """Draw samples from a run into files."""

    RUN: RunFolder
    n: Annotated[int | None, arg(aliases=["-n"])] = None  # how many: by default 64, of texts and of a prompt 1
    # the folder to write into, by default RUN/samples/seedS; of a walk the film: .webp, .gif or .png; of one sound
    # the .wav, of one clip the .mp4, .gif or .webp
    out: Path | None = None
    seed: int = 0  # sample i depends on this and i alone
    seeds: str | None = None  # in place of -n: the first sample of each of these seeds, such as 3,7,100-120
    stream: bool = False  # of a vocoder: write the wave as it is made, in memory that does not grow; --out - pipes it
    interpolate: str | None = None  # a film that walks through so many seeds, or through these: 8, or 3,7,12
    # of that film, from one seed to the next (24); of a clip, where the model makes any length
    frames: int | None = None
    form: Literal["mp4", "gif", "webp", "frames"] | None = None  # of clips in a folder; by default mp4
    beside: bool = False  # of films made of a --source: show it at the left of each
    like: Path | None = None  # in place of all: make this file again, from the recipe in it: --like FILE [--run RUN]
    # as many pictures of each group: label, for the classes of the data, or a labels file of groups; rows: a column
    balance: str | None = None
    # to compute in: by default bf16 where the processor has it, and fp32 for texts and vocoders on a CPU, which stay exact
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    provenance: bool = True  # write into each file that it is generated, by which run and how, and sign it
    watermark: bool = True  # put a mark into what is made that is neither seen nor heard, and that `detect` finds
    visible_label: bool = False  # draw AI and its Chinese words into a corner of each picture
    code: Code = None


@dataclass
class Like:
    """Make a file again, exactly, from the recipe that it carries."""

    like: Path  # the file
    run: Path | None = None  # the run that made it; by default found by its name, above the file, here, and in runs/
    out: Path | None = None  # the folder to write into; by default RUN/samples/again
    source: str | None = None  # where the sources are now, of what was made from some
    code: Code = None


@dataclass
class Detect:
    """Say what files tell of their origin: C2PA manifest, label, watermark, and which run made them."""

    FILE: Annotated[list[str], Positional, arg(metavar="FILE…", help="files, or folders of them")]
    run: Path | None = None  # the run that may have made them: a text's watermark is read with its tokenizer
    json: bool = False  # print JSON


@dataclass
class Import:
    """Take an official checkpoint as a run folder. Nothing in it is executed."""

    MODEL: Annotated[str, Positional, arg(metavar="MODEL", help="the model that it is of")]
    CHECKPOINT: Annotated[Path, Positional, arg(metavar="CHECKPOINT", help="a .pkl, .pth or .safetensors file")]
    out: Path  # the run folder to make
    config: Path | None = None  # JSON: the reference's own options, where the file does not tell them


@dataclass
class Export:
    """Write a language model as a folder that transformers loads."""

    RUN: RunFolder
    OUT: Annotated[Path, Positional, arg(metavar="OUT", help="the folder to make")]
    code: Code = None


@dataclass
class Project:
    """Find a real picture in a StyleGAN's styles."""

    RUN: RunFolder
    PICTURE: Annotated[Path, Positional, arg(metavar="PICTURE", help="a picture file")]
    space: Literal["w", "w+"] = "w"  # one style for all layers, or one a layer: closer, and less apt to be edited
    steps: int = 500  # of descent
    out: Path | None = None  # the folder to write into; by default RUN/samples/projection-PICTURE
    seed: int = 0  # of the noise on the way
    label: str | None = None  # the picture's class, where the model knows classes
    code: Code = None


@dataclass
class Edit:
    """Directions that change what a picture means, found without labels, and sheets of what they do."""

    RUN: RunFolder
    method: Literal["sefa", "ganspace"] = "sefa"  # from the weights alone, or principal components
    directions: int = 6  # how many
    strength: float = 3.0  # of the outer columns, in standard deviations
    columns: int = 7  # of a sheet, from -strength to +strength
    seeds: str = "0-3"  # one a row
    start: Path | None = None  # in place of seeds: the w.safetensors of a projected picture
    layers: str | None = None  # the styles to move, such as 0-3; by default all
    out: Path | None = None  # the folder to write into; by default RUN/samples/edit-METHOD
    code: Code = None


@dataclass
class Mix:
    """Mix styles: each row's picture with some layers' styles taken from each column's."""

    RUN: RunFolder
    rows: str  # seeds, such as 1,2,3
    columns: str  # seeds, such as 4,5,6
    layers: str = "0-3"  # what the columns give: the first are coarse, the last are fine
    out: Path | None = None  # the PNG file to write; by default RUN/samples/mix.png
    provenance: bool = True  # write into it that it is generated, by which run and how, and sign it
    watermark: bool = True  # put a mark into it that is not seen, and that `detect` finds
    code: Code = None


@dataclass
class Evaluate:
    """Measure a run against real data."""

    RUN: RunFolder
    data: str | None = None  # measure against this data; by default the run's own
    metrics: str | None = None  # fd,kid,… by default all
    # samples to draw: by default 10,000 pictures, 256 clips (of digits 1,000), or all films up to 10,000 frames
    n: Annotated[int | None, arg(aliases=["-n"])] = None
    extractor: str | None = None  # digits, lite0 or inception
    vocoder: str | None = None  # of text to speech: the run that makes its waves; by default Griffin-Lim
    tasks: Path | None = None  # of a language model: JSON lines of few-shot tasks, in place of the data
    shots: str = "0"  # solved examples before each task: 0,1,5
    seed: int = 0  # of the samples
    json: bool = False  # print JSON
    code: Code = None


@dataclass
class Audit:
    """Whether a run gives away its training data, and which groups it leaves out. Ends with 1 where something is flagged."""

    RUN: RunFolder
    data: str | None = None  # the training data, where it has moved
    holdout: str | None = None  # items of the same kind that the run never saw; by default what its data holds out
    n: Annotated[int | None, arg(aliases=["-n"])] = None  # samples; by default 1,000 pictures, 128 clips, else 64
    # a CSV or JSONL file with columns file and label: groups to count samples by; of tables names of columns: age,sex
    attributes: str | None = None
    reference: str | None = None  # a run of the same model on other data, to calibrate membership by
    max_copies: float = 0.01  # the share of copies among samples that is allowed
    max_membership: float = 0.6  # the AUC of membership that is allowed; 0.5 is chance
    seed: int = 0  # of the samples
    json: bool = False  # print JSON
    code: Code = None


@dataclass
class Compare:
    """Runs side by side."""

    RUN: Annotated[list[str], Positional, arg(metavar="RUN…", help="run folders")]
    json: bool = False  # print JSON


@dataclass
class Verify:
    """Whether a run folder, and the runs that it comes from, are as they were sealed."""

    RUN: RunFolder
    seal: str | None = None  # the seal that it should bear, or how that begins, as you noted it


@dataclass
class Models:
    """The models, their papers and recipes."""

    MODEL: Annotated[str | None, Positional, arg(metavar="MODEL", help="one model, whole")] = None
    json: bool = False  # print JSON


def condition_fields(folder: str, form: Any) -> list[tuple[str, Any, Any]]:
    """The conditions of this run's model as options: from the signature of its `sample`, but those that the form has. `evaluate`
    takes only those that steer all samples alike."""
    from genloom.plugins import model_of
    from genloom.run import Run

    cls = model_of(Run.open(folder))
    offered = cls.conditions
    if form is Evaluate:
        from genloom.measure import steering  # not before there is a run: for --help it would be slow

        offered = steering(cls)
    parameters = inspect.signature(cls.sample, eval_str=True).parameters
    had = {field.name for field in fields(form)}
    kinds = {name: _typed(parameters[name].annotation) for name in offered if name not in had}
    texts = ("label", "source", "kind", "prompt", "first", "stop", "schema", *cls.borrows)
    kinds |= {name: str for name in texts if name in kinds}
    return [(name, bool, False) if kind is bool else (name, kind | None, None) for name, kind in kinds.items()]


def _typed(kind: Any) -> Any:
    """Of a value that may also be a tensor the kind that can be typed."""
    several = get_args(kind) if isinstance(kind, UnionType) else ()
    return next((one for one in several if one in TYPED), kind)


def of_range(args: Sample) -> None:
    """Raises UserError for numbers that cannot be."""
    from genloom.core import SEEDS  # not for --help: it would be slow

    if args.n is not None and args.n < 1:
        raise UserError(f"-n must be 1 or more, not {args.n}.")
    if not -SEEDS <= args.seed < SEEDS:
        raise UserError(f"--seed {args.seed} is out of range: give one from {-SEEDS} to {SEEDS - 1}.")


def way_of(args: Sample, modality: str, source: bool) -> str:
    """The way of sampling, as a key of IGNORED; the empty string for so many files. Raises UserError for two ways."""
    ways = [name for name in WAYS if getattr(args, name) not in (None, False)]
    if len(ways) > 1:
        raise UserError(f"--{ways[0]} and --{ways[1]} are two ways of sampling: give one of them.")
    if ways == ["interpolate"] and not str(args.interpolate).isdecimal():
        return "--interpolate of named seeds"
    if ways:
        return f"--{ways[0]}"
    if source:
        return "films of a --source" if modality == "video" else "what is made of a --source"
    return "text on the screen" if modality == "text" and args.out is None else ""


def heard(args: Sample, modality: str, source: bool) -> str:
    """The way of sampling. Raises UserError for an option that was given and that this way does not hear."""
    way, given = way_of(args, modality, source), changed(args, Sample(args.RUN))
    for name in IGNORED.get(way, ()):
        if name in given:
            option = "-n" if name == "n" else f"--{name.replace('_', '-')}"
            raise UserError(f"{option} does not go with {way}: leave it out.")
    return way


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
    if number := re.match(r"Error parsing ([\w./-]+): .*\b(INT|FLOAT|int|float)\b.*['\"](.*?)['\"]", what):
        what = f"{number[1]} takes {_NUMBERS[number[2]]}, not '{number[3]}'"
    near = re.search(r"Perhaps you meant.*?(--[\w.-]+)", " ".join(blocks))
    offer = f" Did you mean '{near[1]}'?" if near else ""
    raise UserError(f"{what.rstrip('.')}.{offer} `{prog} --help` lists what there is.")


def first_word(words: Sequence[str]) -> str | None:
    return words[0] if words and not words[0].startswith("-") else None


def changed(values: Any, default: Any) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    return {k: v for k, v in vars(values).items() if v != getattr(default, k)}


def show(value: Any, text: str, as_json: bool) -> None:
    print(json.dumps(value, indent=1) if as_json else text)
