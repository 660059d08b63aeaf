"""What files tell of their origin: the verb detect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genloom.core import Spec
from genloom.data.files import hidden
from genloom.errors import UserError, printable, shortened
from genloom.origin import locate, weights_hash
from genloom.provenance import Check, Origin, check, keys, label, watermark
from genloom.run import Run

WIDEST = 80  # characters of a cell of the table
SURE = 0.001  # the p-value of a watermark from which it is said to be there
MADE = frozenset({"sheet", "mix", "interpolate", "films", "stream"})  # ways to make what is no sample of one seed
TABLES = frozenset({".csv", ".jsonl"})  # that have no place for metadata


@dataclass(frozen=True)
class Finding:
    """What one file tells. `label` is ours, `aigc` that of GB 45438-2025 by whomever; `watermark` (score, p) or None where
    none could be looked for; `run` the folder that made it, where it is here; `error` why it could not be read."""

    file: Path
    c2pa: Check = field(default_factory=lambda: Check("absent"))
    label: Origin | None = None
    aigc: dict[str, Any] | None = None
    watermark: tuple[float, float] | None = None
    run: str | None = None
    notes: tuple[str, ...] = ()
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        mark = None if self.watermark is None else dict(zip(("score", "p"), self.watermark, strict=True))
        return {
            "file": str(self.file),
            "generated": self.generated,
            "c2pa": {k: v for k, v in vars(self.c2pa).items() if k != "origin"},
            "label": dict(vars(self.label)) if self.label else None,
            "aigc": self.aigc,
            "watermark": mark,
            "run": self.run,
            "note": self.note,
            "error": self.error,
        }

    @property
    def note(self) -> str:
        return " ".join(self.notes)

    @property
    def origin(self) -> Origin | None:
        """The signed one where there is one: the label alone proves nothing."""
        return self.c2pa.origin if self.c2pa.state in ("valid", "foreign") and self.c2pa.origin else self.label

    @property
    def generated(self) -> str:
        """Whether the file was generated, as far as it tells: proved, says so, or unknown."""
        if self.c2pa.state == "valid" or (self.watermark and self.watermark[1] <= SURE):
            return "proved"
        return "says so" if self.label or self.aigc or self.c2pa.origin else "unknown"


def detect(paths: Sequence[Path], run: Path | None = None) -> list[Finding]:
    """One finding a file, of folders all files that could carry a mark. Raises UserError for a path that is not there.

    `run`: the one that may have made them, by whose tokenizer texts are read.
    """
    key, runs = keys.existing_key(), Runs(run)
    return [_finding(file, key, runs) for path in paths for file in _files(path)]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"There is nothing at '{path}': check the path.")
    if not path.is_dir():
        return [path]
    inside = (p for p in path.rglob("*") if p.is_file() and not hidden(p.relative_to(path).as_posix()))
    return sorted(p for p in inside if not p.name.endswith(label.BESIDE) and _could_tell(p))


def _could_tell(path: Path) -> bool:
    try:
        return path.suffix.lower() in TABLES | watermark.SEARCHED or label.kind_of(path) is not None
    except OSError:
        return True  # to be told why it cannot be read


def _finding(path: Path, key: bytes | None, runs: Runs) -> Finding:
    if not path.is_file():  # a pipe would be waited for
        return Finding(path, error="it is no file")
    notes = list[str]()
    try:
        manifest, told = check(path), _told(path, notes)
        ours = Origin.from_json(told.get("GENLOOM", ""))
        aigc, run = label.as_object(told.get("AIGC", "")), None
        if origin := ours or manifest.origin:
            run, why = runs.find(origin, path)
            notes.append(why)
        mark = _mark(path, key, run, runs, notes) if key else None
    except OSError as error:
        return Finding(path, error=error.strerror or str(error))
    return Finding(path, manifest, ours, aigc, mark, run, tuple(filter(None, notes)))


def _told(path: Path, notes: list[str]) -> dict[str, str]:
    """What a file says of itself; where it cannot be read, for it is broken or a library is not here, that is noted."""
    try:
        return label.texts(path)
    except label.BrokenError as error:
        notes.append(f"What '{path}' says of itself cannot be read: {error}.")
    except UserError as error:
        notes.append(str(error))
    return {}


def _mark(path: Path, key: bytes, run: str | None, runs: Runs, notes: list[str]) -> tuple[float, float] | None:
    """The score of the watermark; why none could be looked for is noted."""
    spec = runs.reader(run)
    if watermark.is_text(path) and spec is None:
        notes.append(runs.no_reader())
    try:
        return watermark.score(path, key, spec)
    except UserError as error:  # a library is not here
        notes.append(str(error))
        return None


class Runs:
    """The runs that made files: looked for once for all files of a folder, first of all the one that is `given`."""

    def __init__(self, given: Path | None = None) -> None:
        self.given = Run.open(given) if given else None
        self.found: dict[tuple[str, str, Path], tuple[str | None, str]] = {}

    def find(self, origin: Origin, path: Path) -> tuple[str | None, str]:
        """The folder of the run; or, in words, why it is not found."""
        where = (origin.run, origin.run_hash, path.parent)
        if where not in self.found:
            self.found[where] = self._found(origin, path)
        return self.found[where]

    def _found(self, origin: Origin, path: Path) -> tuple[str | None, str]:
        if self.given and weights_hash(self.given) == origin.run_hash:
            return str(self.given.folder), ""
        try:
            return str(locate(origin, path).folder), ""
        except UserError as error:
            return None, str(error)
        except (OSError, ValueError):  # no name that a folder can have
            return None, f"'{path}' names a run that cannot be."

    def reader(self, folder: str | None) -> Spec | None:
        """Of the run by whose tokenizer a text is read: the one that was given, else the one that was found."""
        runs = (self.given, Run.open(folder) if folder else None)
        return next((run.spec for run in runs if run and "tokenizer" in run.spec.extra), None)

    def no_reader(self) -> str:
        """What is to be said of a text where there is none."""
        if self.given and self.given.spec.modality == "text":
            return f"A text's watermark is read by tokens, and '{self.given.folder}' has no tokenizer: give a run that has one."
        if self.given:
            return f"A text's watermark is read by a run that makes text: '{self.given.folder}' makes {self.given.spec.modality}."
        return "A text's watermark is looked for with the run that may have made it: give --run FOLDER."


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────
def table(found: Sequence[Finding]) -> str:
    """A line a file, and under the table, once each, what the words in it mean."""
    if not found:
        return "There is no file that could carry a mark."
    head = ("file", "C2PA", "label", "made by", "watermark")
    rows = [head, *(_row(f) for f in found)]
    rows = [tuple(shortened(printable(cell), WIDEST) for cell in row) for row in rows]
    wide = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows]
    said = [by_chance(found), *(n for f in found for n in (f.c2pa.reason, *f.notes))]
    notes = dict.fromkeys(printable(n) for n in said if n)
    return "\n".join([*lines, *([""] if notes else []), *notes])


def by_chance(found: Sequence[Finding]) -> str:
    """What is to be said where a watermark is all that speaks for some of many files: among these some may have it by chance."""
    bare = [f.watermark[1] for f in found if f.watermark and not f.label and not f.c2pa.origin]
    marked = [p for p in bare if p <= SURE]
    if len(bare) < 2 or all(p <= SURE / len(bare) for p in marked):
        return ""
    return (
        f"Of {len(bare):,} files without a label {len(marked):,} show a watermark at p {SURE:g} or less, as about "
        f"{SURE * len(bare):.2g} would by chance: what is beyond doubt among so many has p {SURE / len(bare):.1g} or less."
    )


def _row(f: Finding) -> tuple[str, ...]:
    if f.error:
        return (str(f.file), "-", "-", f.error, "-")
    who = "genloom" if f.label else str(f.aigc.get("ContentProducer", "other")) if f.aigc else "absent"
    made = f"{f.origin.run} {_which(f.origin)}" if f.origin else "-"
    mark = "-" if f.watermark is None else f"{f.watermark[0]:.2f}, p {f.watermark[1]:.1g}"
    return (str(f.file), f.c2pa.state, who, made, mark)


def _which(origin: Origin) -> str:
    """Which of the run's pieces it is: a number of a seed, or in what way it was made where it is none."""
    return origin.how if origin.how in MADE else f"#{origin.index} of seed {origin.seed}"
