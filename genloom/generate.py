"""Run -> samples -> files."""

from __future__ import annotations

import importlib
import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genloom import naming, parallel
from genloom.core import Model
from genloom.data.labels import class_number
from genloom.errors import UserError, nearest
from genloom.machine import has_fast_bf16, keep_freed_memory, multiply_fast
from genloom.nn.weights import under
from genloom.origin import Marks
from genloom.plugins import built
from genloom.provenance import keys
from genloom.run import STATE, WEIGHTS, Run

MOST_ROWS = 100_000  # of a table, unless more are asked for
LATENCY = 0.044  # seconds that a piece of a stream takes
FIRST, MOST_FRAMES = 24, 96  # frames of its first piece, and of any
BATCH = 256  # samples that are made at once
Span = tuple[int, int]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", "fp32", *DTYPES)


def resolve_precision(model: Model, precision: str) -> str:
    """`auto` is bf16 where the device multiplies it in hardware and the family's quality holds, else fp32."""
    if precision not in PRECISIONS:
        raise UserError(f"precision is one of {', '.join(PRECISIONS)}, not '{precision}'.")
    if precision != "auto":
        return precision
    return "bf16" if model.bf16 and has_fast_bf16(model.device) else "fp32"


def drawing_precision(model: Model, precision: str = "auto") -> str:
    """`auto` as above, but fp32 on a CPU for what must not depend on how it is cut: bf16 rounds otherwise in other company."""
    if precision == "auto" and model.exact and model.device.type == "cpu":
        return "fp32"
    return resolve_precision(model, precision)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, DTYPES.get(precision), enabled=precision in DTYPES)


@torch.inference_mode()
def draw(model: Model, n: int, **how: Any) -> Tensor | list[Any]:
    """n samples, `how` as of `drawn`, all at once."""
    made = list(drawn(model, n, **how))
    if made and isinstance(made[0], Tensor):
        return torch.cat(made)
    return [item for piece in made for item in piece]


def drawn(
    model: Model,
    n: int,
    *,
    seed: int = 0,
    precision: str = "auto",
    batch_size: int = BATCH,
    span: Span | None = None,
    **conditions: Any,
) -> Iterator[Any]:
    """n samples on the CPU, in pieces of batch_size, or those of `span` (first, end) among them: one piece at a time, for
    what does not fit into memory all at once.

    Conditions of n rows (labels, sources) are cut alike.
    """
    model.eval()
    rows = {k: v for k, v in conditions.items() if isinstance(v, (Tensor, list)) and len(v) == n}
    first, end = span or (0, n)
    for start in range(first, end, batch_size):
        count = min(batch_size, end - start)
        mine = conditions | {k: v[start : start + count] for k, v in rows.items()}
        with torch.inference_mode(), autocast(model.device, drawing_precision(model, precision)):
            piece = model.sample(count, seed=seed, start=start, **mine)
        yield piece.float().cpu() if isinstance(piece, Tensor) else piece


def load(run: Run, device: torch.device | None = None) -> Model:
    """The run's model with its averaged weights, in evaluation mode: a plain nn.Module.

    What sampling does not need (a discriminator) comes from the last checkpoint where there is one.
    """
    multiply_fast()  # as in training: the same numbers whether or not this process trained
    keep_freed_memory()
    model = built(run)
    weights, _ = run.load_tensors(WEIGHTS)
    if run.has_state() and model.samples_with:
        state, _ = run.load_tensors(STATE)
        weights = under(state, "model.") | weights
    try:
        wrong = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"'{run.folder}/{WEIGHTS}' is of another model: {str(error).splitlines()[1].strip()}") from None
    needed = tuple(f"{n}." for n in model.samples_with) or ("",)
    if lost := [*wrong.unexpected_keys, *(k for k in wrong.missing_keys if k.startswith(needed))]:
        raise UserError(f"'{run.folder}/{WEIGHTS}' is of another model: '{lost[0]}' does not fit '{model.name}'.")
    return model.to(device or parallel.device()).eval()


@torch.inference_mode()
def tell(
    run: Run, n: int, show: Callable[[int, str], None], *, seed: int = 0, watermark: bool = True, **conditions: Any
) -> list[str]:
    """n texts of a language model, with the mark of this installation; `show(row, piece)` is called as they come."""
    model = load(run)
    given = checked(model, conditions) | (keyed(model, keys.installation_key(), conditions) if watermark else {})
    with autocast(model.device, drawing_precision(model, given.pop("precision", "auto"))):
        return model.sample(n, seed=seed, show=show, **given)  # type: ignore[call-arg, return-value]


def keyed(model: Model, key: bytes | None, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The key as an option of `sample`, of a model that marks what it makes while it draws: where it draws at all."""
    takes = key is not None and "watermark" in inspect.signature(model.sample).parameters
    return {"watermark": key} if takes and conditions.get("temperature") != 0 else {}


def named(
    run: Run,
    n: int,
    seed: int,
    conditions: dict[str, Any],
    span: Span | None = None,
    marks: Marks | None = None,
    alone: Path | None = None,
) -> tuple[Tensor | list[Any], list[str] | None]:
    """n samples of a run, or one of each `source`, and the names of the files that they were made from where that is a path;
    `span` as of `draw`. Item i depends on (seed, i), and its source, alone. With `marks` texts have the watermark in them.
    `alone` is the name of the one file that one sample is to become.

    Raises UserError for a condition that the model lacks, for a source that cannot be read, and for several in one file.
    """
    model = load(run)
    given, names = checked(model, conditions), None
    if model.needs == "films" and isinstance(given.get("source"), (str, Path)):
        reader = importlib.import_module("genloom.data.video").read_sources
        films, names = reader(Path(given.pop("source")).expanduser(), model.spec)
        films = films[slice(*span)] if span else films
        if alone:
            naming.holds_one(alone, len(films))
        made = [torch.cat([*streamed(model, film, **given)]).transpose(0, 1) for film in films]
        return made, names
    if isinstance(prompt := given.get("prompt"), Tensor) and prompt.ndim == len(run.spec.shape):
        given["prompt"] = prompt.expand(n, *prompt.shape)  # one for all
    if isinstance(source := given.get("source"), (str, Path)):
        kind = "translation" if run.spec.modality == "image" else run.spec.modality
        reader = importlib.import_module(f"genloom.data.{kind}").read_sources
        given["source"], names = reader(Path(source).expanduser(), model.spec, targets=bool(given.get("back")))
    for name in ("source", "prompt"):
        if isinstance(several := given.get(name), (Tensor, list)):
            n = len(several)
    if alone:
        naming.holds_one(alone, n)
    if marks and (told := keyed(model, marks.key, conditions)):
        given |= told
        marks.is_watermarked()
    return draw(model, n, seed=seed, span=span, **given), names


@torch.inference_mode()
def streamed(model: Any, frames: Iterable[Tensor], *, precision: str = "auto", **given: Any) -> Iterator[Tensor]:
    """Frames [1, C, H, W] f32 in [-1, 1] of source frames [1, C', H, W], as they come; memory does not grow."""
    precision = drawing_precision(model, precision)
    stream = model.stream((frame.to(model.device) for frame in frames), **given)
    while True:
        with autocast(model.device, precision):  # not while it waits: what its taker computes is not the model's
            frame = next(stream, None)
        if frame is None:
            return
        yield frame.float().cpu()


def films_to(
    run: Run,
    out: Path,
    source: str | Path,
    *,
    form: str | None = None,
    beside: bool = False,
    provenance: bool = True,
    watermark: bool = True,
    **conditions: Any,
) -> tuple[list[Path], list[str]]:
    """Write what a model makes of films, frame by frame and of any length: the paths, and what is to be said of them.

    `out` is a folder or, of one film, its file, whose ending says what it is to be; in a folder `form` does: mp4, gif, webp
    or frames. `beside`: with the source at the left. Raises UserError for a film that cannot be read.
    """
    told = {"source": source, "form": form, "beside": beside}
    marks = Marks(run, how="films", options=told, conditions=conditions, provenance=provenance, watermark=watermark)
    video, model = importlib.import_module("genloom.data.video"), load(run)
    given = checked(model, conditions)
    films, names = video.read_sources(Path(source).expanduser(), model.spec)
    alone = naming.is_file(out, naming.FILMS, len(films), form)
    names = [out.name] if alone else [naming.with_form(name, form or "mp4") for name in names]
    notes = list[str]()

    def write(folder: Path) -> list[Path]:
        paths = [folder / name for name in names]
        for path, film in zip(paths, films, strict=True):
            notes.extend(_film_to(path, film, model, beside, given, marks))
        return paths

    return marks.written(write, out.parent if alone else out), list(dict.fromkeys(notes))


def _film_to(path: Path, film: Any, model: Model, beside: bool, given: dict[str, Any], marks: Marks) -> list[str]:
    writing, (sources, shown) = importlib.import_module("genloom.data.film_write"), tee(film)
    with writing.Writer(path, film.rate) as file:
        for source, made in zip(shown, streamed(model, sources, **given), strict=True):
            sides = [source, marks.frame(made)] if beside else [marks.frame(made)]
            frames = [next(iter(writing.as_frames(side.transpose(0, 1)))) for side in sides]
            file.add(writing.side_by_side(*frames) if beside else frames[0])
    return [n for n in (f"'{film.name}' is {film.broken}." if film.broken else "", file.note) if n]


class Pace:
    """How many frames a stream is made of at a time: as many as this machine makes in LATENCY seconds, which it finds out.

    The number changes seldom, for a library plans each new size anew.
    """

    def __init__(self) -> None:
        self.frames = FIRST

    def keep(self, stream: Iterator[Tensor]) -> Iterator[Tensor]:
        settling = 2  # pieces whose time says nothing yet: those that fill the stream, and the first of a new size
        while True:
            start = time.perf_counter()
            if (piece := next(stream, None)) is None:
                return
            share = (time.perf_counter() - start) / LATENCY
            wanted = max(8, min(MOST_FRAMES, int(self.frames / share) // 8 * 8))
            if not settling and not 0.85 < share < 1.25 and wanted != self.frames:
                self.frames, settling = wanted, 1
            else:
                settling = max(0, settling - 1)
            yield piece


@torch.inference_mode()
def stream_to(
    run: Run,
    out: Path,
    *,
    source: str | None = None,
    provenance: bool = True,
    watermark: bool = True,
    **conditions: Any,
) -> float:
    """Write what a vocoder makes of one sound or mel spectrogram as it comes, and return its seconds; memory does not grow.

    `out` is a .wav file, which appears whole, or "-", the standard output, in which nothing is marked. Raises UserError for
    another name, and for a model that makes no waves of mel spectrograms.
    """
    piped = str(out) == "-"
    if not piped:
        naming.only_file(out, naming.SOUNDS)
    sound = importlib.import_module("genloom.data.sound")
    model: Any = load(run)
    if "source" not in model.conditions or not hasattr(model, "stream"):
        raise UserError(f"'{model.name}' does not make a wave as it comes: leave --stream out.")
    if not source:
        raise UserError("--stream makes a wave as it comes from a --source: a sound, or a mel spectrogram (.npy).")
    told = {"stream": True, "source": source}
    provenance = provenance and not piped
    marks = Marks(run, how="stream", options=told, conditions=conditions, provenance=provenance, watermark=watermark)
    path = Path(source).expanduser()
    given, rate = checked(model, conditions), int(model.spec.extra["rate"])
    pace = Pace()
    pieces: Any
    if waves := path.suffix.lower() not in sound.MELS:
        model.of_no_kind(given.get("kind"))
        pieces = (
            torch.from_numpy(x).to(model.device)[None, None]
            for x in sound.pieces_of(path, rate, lambda: pace.frames * model.mel.hop)
        )
    else:
        (mel,), _ = sound.read_sources(path, model.spec)
        pieces = cut(model.frames(mel, given.get("kind")), lambda: pace.frames)
    precision = drawing_precision(model, given.get("precision", "auto"))
    samples = 0

    def write(folder: Path) -> list[Path]:
        nonlocal samples
        with autocast(model.device, precision), sound.Writer(folder / out.name, rate) as file:
            for made in marks.sound((piece[0] for piece in pace.keep(model.stream(pieces, waves=waves))), rate):
                file.add(made)
        samples = file.samples
        return [file.path]

    marks.written(write, out.parent)
    return samples / rate


def cut(mel: Tensor, frames: Callable[[], int]) -> Iterator[Tensor]:
    """Pieces [B, bands, t] of [B, bands, T], each as long as is wanted when it is asked for."""
    start = 0
    while start < mel.shape[2]:
        stop = start + frames()
        yield mel[..., start:stop]
        start = stop


def checked(model: Model, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions that were given, with class names turned into numbers, and run folders into their models.

    `precision` is one of every model.
    """
    given = {k: v for k, v in conditions.items() if v is not None}
    for name in given:
        if name not in (*model.conditions, "precision"):
            takes = f"it takes {', '.join(model.conditions)}" if model.conditions else "it takes none"
            raise UserError(f"'{model.name}' has no condition '{name}': {takes}.{nearest(name, model.conditions)}")
        if isinstance(value := given[name], float) and not math.isfinite(value):
            raise UserError(f"{name} is {value:g}: give a number that is finite.")
    if isinstance(label := given.get("label"), str):
        given["label"] = class_number(label, model.spec.classes)
    for name in ("prompt", "first") if model.modality == "video" else ():
        if isinstance(path := given.get(name), (str, Path)):
            frames = importlib.import_module("genloom.data.video").read_frames(Path(path).expanduser(), model.spec)
            given[name] = frames if name == "prompt" else frames[None, :, 0]
    for name in model.borrows:
        if isinstance(folder := given.get(name), (str, Path, Run)):
            given[name] = load(Run.open(folder), model.device)
    return given


def to_files(
    run: Run,
    n: int | None,
    out: Path,
    *,
    seed: int = 0,
    form: str | None = None,
    provenance: bool = True,
    watermark: bool = True,
    visible_label: bool = False,
    **conditions: Any,
) -> list[Path]:
    """Write n samples into `out`, in the modality's own format; those of a `source` under the names of its files.

    One sound or clip may have a name, `hello.wav` or `walk.mp4`, in place of a folder, and all rows of a table go into one
    file, rows.csv or that name; in a folder `form` says what clips become: mp4, gif, webp or frames. n is 1 by default for a
    name or a prompt, else 64, and of rows as many as were trained on. With `provenance` each says in
    itself which run made it and how, and with `watermark` it is marked. Raises UserError for a name for several.
    """
    kind = run.spec.modality
    if form is not None and kind != "video":
        raise UserError(f"--form is of films, and this run makes {kind}: leave it out.")
    alone = naming.is_file(out, naming.ENDINGS.get(kind, ()), n, form, holds_all=kind == "table")
    n = n or (1 if alone or conditions.get("prompt") is not None else _usual(run))
    asked = ({"n": n} if conditions.get("source") is None else {}) | {"seed": seed, "form": form}
    told = {"seed": seed, "options": asked, "conditions": conditions}
    marks = marks_of(run, provenance, visible_label, watermark=watermark, **told)
    made, names = named(run, n, seed, conditions, marks=marks, alone=out if alone and kind != "table" else None)
    if alone:
        out, names = out.parent, [out.name]
    elif names and kind == "video":
        names = [naming.with_form(name, form or "mp4") for name in names]
    how: dict[str, Any] = ({"form": form} if form else {}) | ({"names": names} if names else {})
    return written(run, made, out, marks, of=len(made) if kind == "table" else None, **how)


def _usual(run: Run) -> int:
    """How many samples are made where none says: rows of a table as many as were trained on."""
    rows = (run.info["data"].get("summary") or {}).get("items")
    return min(int(rows), MOST_ROWS) if run.spec.modality == "table" and rows else 64


def marks_of(run: Run, provenance: bool, visible: bool, **given: Any) -> Marks:
    """What marks the files of a command. Raises UserError for a visible label on no picture."""
    if visible and run.spec.modality != "image":
        raise UserError(f"A visible label is drawn on pictures, and this run makes {run.spec.modality}: leave it out.")
    if visible and not provenance:
        raise UserError("A visible label is part of provenance: give --visible-label or --no-provenance, not both.")
    return Marks(run, visible=visible, provenance=provenance, **given)


def written(
    run: Run, made: Tensor | list[Any], out: Path, marks: Marks, *, first: int = 0, of: int | None = None, **how: Any
) -> list[Path]:
    """Samples as files, in the modality's own format, and marked: they are numbers `first` and on of `of`."""
    if isinstance(made, Tensor) and run.spec.modality == "image":
        return marks.pictures(made, out, first, of, **how)
    modality, made = importlib.import_module(f"genloom.data.{run.spec.modality}"), marks.watermarked(made)
    return marks.written(partial(modality.write, made, spec=run.spec, **how), out, first, of)
