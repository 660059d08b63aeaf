"""What should be known of a data set before it is trained on: what is there nearly twice, what of it is in the held-out part
too, which personal data its texts hold, and which pictures look unsafe.

It reads every file once more, and holds some 300 bytes of each. That nothing is found proves nothing; what is found is for people
to look at.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from genloom.data import find_modality, options_of, resolve, suffixes_of, unsafe
from genloom.data.alike import SIDE, Alike
from genloom.data.catalog import Entry
from genloom.data.decode import SUFFIXES as PICTURES
from genloom.data.decode import Plan, decode, read_each
from genloom.data.files import READING, Files, hashed, shown, streams, suffix
from genloom.data.labels import SPLITS, held_out, spread
from genloom.data.personal import Names, find, hidden
from genloom.data.preflight import listed, report
from genloom.data.translation import find_sides
from genloom.data.written import WRITTEN, Block, blocks
from genloom.errors import UserError

SHOWN = 5  # of each list, when it is written as text; and places of each kind of personal data that are kept
JUDGED = 10_000  # pictures that the filter looks at, evenly spaced over all
FRAME = 0.032  # seconds of sound that a spectrum is taken of, about
LOWEST, HIGHEST = 100.0, 3400.0  # Hz that are compared: even telephones keep them
RANGE = 60.0  # dB below the loudest
LENGTHS = 0.02  # by which sounds that are the same may differ in length


def audit(source: str | Path, modality: str, facts: Mapping[str, Any], names: Path | None = None) -> dict[str, Any]:
    """What `inspect` adds under `audit`, JSON-able.

    `facts`: what the preflight of that modality found. `names`: a file of people's names to look for. Keys: looked_at (kind: how
    many), near (groups of names), leaks (groups that lie on both sides of a held-out part, and in held_out_leaked how many of its
    pictures those are), personal (kind: count, and the first
    places with masked values), unsafe (judge, looked_at, unsafe {name: chance}, doubtful), unreadable (name: why), and
    `sentences`, which say all that in words. Raises UserError for a list of names that cannot be read.
    """
    known, at = Names.read(names) if names else None, resolve(source)
    if isinstance(at, Entry) and modality == "audio":
        at = at.load("train")
    made: dict[str, Any] = {"looked_at": {}, "near": [], "leaks": [], "personal": {}, "unsafe": None, "unreadable": {}}
    made["personal"] = _written(at, modality, known, made["looked_at"], made["unreadable"])
    if modality == "image":
        made |= pictures(at, made["looked_at"], made["unreadable"])
        made["unsafe"] = judged(at) if isinstance(at, Path) else None
    elif modality == "audio":
        made["near"] = sounds(Path(str(at)), made["looked_at"])
    elif modality == "text":
        made["near"] = [list(group) for group in facts.get("near", ())]
    return made | {"sentences": sentences(made, modality, facts)}


# ── personal data ────────────────────────────────────────────────────────────────────────────────────────────────
def _written(
    found: Entry | Path, modality: str, names: Names | None, looked_at: dict[str, int], bad: dict[str, str]
) -> dict[str, dict[str, Any]]:
    if isinstance(found, Entry):
        texts = found.load("train")[0] if found.modality == "text" else []
        read: Iterator[Block] = (Block(text, lambda row, name=name: f"{name}:{row + 1}") for name, text in texts)  # type: ignore[misc]
        count = len(texts)
    else:
        files = streams(found, WRITTEN | (suffixes_of(modality) if modality else frozenset()))
        files.names = [
            name for name in files.names if suffix(name) in WRITTEN
        ]  # none in a picture that is all there is
        read, count = blocks(files, bad), len(files.names)
    found_there = personal(read, names)
    if count > len(bad):
        looked_at["texts"] = count - len(bad)
    return found_there


def personal(read: Iterable[Block], names: Names | None = None) -> dict[str, dict[str, Any]]:
    """Kind of personal data: how often it is there, and the first places, with the values masked. The most frequent first."""
    found: dict[str, dict[str, Any]] = {}
    for block in read:
        for kind, start, _, value in find(block.text, names):
            entry = found.setdefault(kind, {"count": 0, "places": []})
            entry["count"] += 1
            if len(entry["places"]) < SHOWN:
                entry["places"].append({"place": block.place(block.text.count("\n", 0, start)), "value": value})
    return dict(sorted(found.items(), key=lambda item: -item[1]["count"]))


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────
def pictures(found: Entry | Path, looked_at: dict[str, int], unreadable: dict[str, str]) -> dict[str, Any]:
    """near and leaks of a built-in set, or of the pictures of a folder, zip or tar: all parts of it."""
    bad: dict[int, str] = {}
    if isinstance(found, Entry):
        parts = {split: found.load(split).pixels for split in found.splits}
        names = [f"{split} #{i}" for split, pixels in parts.items() for i in range(len(pixels))]
        sketches: Iterator[Any] = enumerate((_digest(p.tobytes()), _small(p)) for p in chain(*parts.values()))
        held = np.array([name.startswith("test") for name in names])
        alone: Sequence[str] = names
    else:
        files = streams(found, PICTURES)
        names, alone = files.names, _without_side(files.names)
        sketches = read_each(lambda i: _read(files, names[i]), range(len(names)), bad)
        held = np.isin(np.array(names), np.array(held_out(names)))
    alike, digests = Alike(len(names)), np.arange(len(names), dtype=np.uint64)
    for i, (digest, picture) in sketches:
        digests[i] = digest
        alike.add(i, picture)
    unreadable |= {shown(names[i]): why for i, why in bad.items()}
    looked_at["pictures"] = len(names) - len(bad)
    groups = alike.groups()
    flat = (group for group in _copies(digests) if not alike.usable[group[0]])
    leaks = [group for group in (*flat, *groups) if 0 < held[group].sum() < len(group)]
    near = []
    for group in groups:
        different = {alone[i]: i for i in {digests[i]: i for i in reversed(group)}.values()}
        if len(different) > 1:
            near.append(sorted(different.values()))
    by_name = [[[shown(names[i]) for i in group] for group in found] for found in (near, leaks)]
    leaked = int(sum(held[group].sum() for group in leaks))
    return {"near": by_name[0], "leaks": by_name[1], "held_out_leaked": leaked}


def _read(files: Files, name: str) -> tuple[int, np.ndarray]:
    picture = decode(files, name, Plan(SIDE, 1, "stretch", (255, 255, 255)))[0]
    with files.open(name) as stream:
        return _digest(stream.read()), picture


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _small(pixels: np.ndarray) -> np.ndarray:
    """uint8 [C, H, W] -> grey [SIDE, SIDE]."""
    grey = Image.fromarray(pixels.mean(0).round().astype(np.uint8))
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _without_side(names: list[str]) -> list[str]:
    """Names in which a source and its target, which are meant to be alike, are the same."""
    changed = dict(zip(names, names, strict=True))
    for split in SPLITS:
        for folder, side in find_sides(names, split) or ():
            changed |= {name: f"{split}/{name[len(folder) :].rpartition('.')[0]}" for name in side}
    return list(changed.values())


def _copies(digests: np.ndarray) -> list[list[int]]:
    """Groups of numbers with the same digest."""
    order = np.argsort(digests, kind="stable")
    edges = np.flatnonzero(np.diff(digests[order])) + 1
    return [group.tolist() for group in np.split(order, edges) if len(group) > 1]


def judged(path: Path) -> dict[str, Any]:
    """What the filter of unsafe pictures says, where one is installed; else how to install one."""
    weights = unsafe.weights()
    if weights is None:
        return {"judge": None, "install": unsafe.INSTALL}
    name, score = unsafe.judge(weights)
    files = streams(path, PICTURES)
    chances: dict[str, float] = {}
    for i in spread(JUDGED, len(files.names)):
        with suppress(*READING):  # it is named where pictures are compared
            chances[files.names[i]] = score(files, files.names[i])
    worst = sorted(chances.items(), key=lambda item: -item[1])
    flagged = {shown(picture): round(chance, 3) for picture, chance in worst if chance > unsafe.UNSAFE}
    doubtful = sum(unsafe.DOUBTFUL < chance <= unsafe.UNSAFE for chance in chances.values())
    return {"judge": name, "looked_at": len(chances), "unsafe": flagged, "doubtful": doubtful}


# ── sounds ───────────────────────────────────────────────────────────────────────────────────────────────────────
def sounds(path: Path, looked_at: dict[str, int]) -> list[list[str]]:
    """Groups of sounds nearly the same and of nearly one length: at another loudness or rate, or compressed. Copies count once."""
    from genloom.data.sound import SUFFIXES, read

    files = streams(path, SUFFIXES)
    alike, seconds, digests = Alike(len(files.names)), np.zeros(len(files.names)), dict[str, int]()
    for i, name in enumerate(files.names):
        with suppress(*READING), files.open(name) as stream:  # inspect names what cannot be read
            sound = read(stream, name)
            seconds[i] = sound.seconds
            looked_at["sounds"] = looked_at.get("sounds", 0) + 1
            if digests.setdefault(hashed(sound.samples.tobytes()), i) == i:
                alike.add(i, spectrum(sound.samples, sound.rate))
    found = []
    for group in alike.groups():
        fits = [i for i in group if abs(seconds[i] - seconds[group[0]]) <= LENGTHS * seconds[group[0]] + 0.1]
        found += [[shown(files.names[i]) for i in fits]] if len(fits) > 1 else []
    return found


def spectrum(samples: np.ndarray, rate: int) -> np.ndarray:
    """A sound [N] f32 as a grey picture [SIDE bands, SIDE times]: the energy of equal bands in equal times, in dB."""
    hop = 1 << round(np.log2(FRAME * rate))
    samples = np.pad(samples, (0, max(0, SIDE * hop - len(samples))))
    edges = np.searchsorted(np.fft.rfftfreq(hop, 1 / rate), np.linspace(LOWEST, HIGHEST, SIDE + 1))
    ends = np.linspace(0, len(samples) // hop, SIDE + 1).astype(int)
    picture = np.zeros((SIDE, SIDE))
    for time, (first, last) in enumerate(pairwise(ends)):
        power = np.zeros(hop // 2 + 1)
        for start in range(first, last, 1024):  # frames at once
            frames = samples[start * hop : min(last, start + 1024) * hop].reshape(-1, hop) * np.hanning(hop)
            power += np.square(np.abs(np.fft.rfft(frames))).sum(0)
        bands = [power[low : max(high, low + 1)].mean() for low, high in pairwise(edges)]
        picture[:, time] = np.array(bands) / (last - first)
    level = 10 * np.log10(picture + 1e-12)
    return np.asarray((255 * (1 + (level - level.max()) / RANGE).clip(0, 1)).round().astype(np.uint8))


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────────────
def sentences(made: Mapping[str, Any], modality: str, facts: Mapping[str, Any]) -> list[str]:
    """What was found and what to do about it. No value and no file is named: these may be shown to anybody."""
    said = []
    what = {"image": "pictures", "text": "texts", "audio": "sounds"}.get(modality, "items")
    if exact := sum(len(group) - 1 for group in facts.get("duplicates", ())):
        said.append(
            f"{exact:,} {what} are exact copies of others: a model learns by heart what it sees often. Keep one of each."
        )
    if near := sum(len(group) - 1 for group in made["near"]):
        said.append(f"{near:,} {what} are nearly the same as others: look at the groups, and keep one of each.")
    if made["leaks"]:
        said.append(
            f"{made['held_out_leaked']:,} held-out {what} are in the training part too, or nearly: figures measured against them "
            "flatter. Remove them from one of the parts."
        )
    elif (exact or near) and modality in ("text", "audio"):
        said.append(f"A part of the {what} is held out of training: with copies on both sides its figures flatter.")
    if made["personal"]:
        counts = ", ".join(f"{kind} {entry['count']:,}" for kind, entry in made["personal"].items())
        said.append(
            f"The texts seem to hold personal data ({counts}): remove or replace what people did not agree to, for a model may "
            "repeat it."
        )
    if (found := made["unsafe"]) and found["judge"]:
        share = f"of {found['looked_at']:,} pictures that {found['judge']} looked at"
        if found["unsafe"] or found["doubtful"]:
            said.append(
                f"{len(found['unsafe']):,} {share} seem unsafe, and {found['doubtful']:,} are doubtful: look at them."
            )
        else:
            said.append(f"None {share} seems unsafe.")
    elif found:
        said.append(f"Whether pictures are unsafe was not looked at, for no filter is installed: {found['install']}")
    looked = (
        ", ".join(f"{kind} {count:,}" for kind, count in made["looked_at"].items()) or "nothing that the audit can read"
    )
    return [f"Looked at: {looked}. What is not found may still be there.", *said]


def format_audit(made: Mapping[str, Any]) -> str:
    """What the audit found, as lines to read."""

    def some(what: str, groups: Sequence[Sequence[str]]) -> str:
        more = [f"{len(groups) - SHOWN:,} more"] if len(groups) > SHOWN else []
        return listed(f"{len(groups):,} {what}", [*(" ≈ ".join(group[:4]) for group in groups[:SHOWN]), *more])

    lines = [("alike", some("groups nearly the same", made["near"]))]
    if made["leaks"]:
        lines.append(("LEAK", some("groups on both sides of the held-out part", made["leaks"])))
    for kind, entry in made["personal"].items():
        places = [f"{p['place']}: {p['value']}" for p in entry["places"]]
        lines.append(("personal", listed(f"{kind} {entry['count']:,}", places)))
    if made["unsafe"] and made["unsafe"]["judge"]:
        flagged = [f"{name} {chance:.2f}" for name, chance in made["unsafe"]["unsafe"].items()]
        lines.append(("unsafe", listed(f"{len(flagged):,}", flagged[:SHOWN])))
    lines += [("unreadable", f"{name}: {why}") for name, why in list(made["unreadable"].items())[:SHOWN]]
    lines += [("audit", sentence) for sentence in made["sentences"]]
    return "\n".join(f"{name:<12} {text}" for name, text in lines)


# ── files that are written, and of no modality ───────────────────────────────────────────────────────────────────
def only_written(source: str | Path) -> tuple[str, ModuleType] | None:
    """What stands for modality and preflight where files hold text and are no data of a modality, such as web pages alone."""
    found = resolve(source)
    try:
        if isinstance(found, Path):
            find_modality(found)
    except UserError:
        if streams(Path(source), WRITTEN).names:
            return "", sys.modules[__name__]
    return None


def preflight(
    source: str | Path, modality: str, module: ModuleType, given: Mapping[str, Any]
) -> tuple[ModuleType, dict[str, Any]]:
    """What the preflight of that modality finds, and the module that says it in lines; of texts and tables that nobody can learn from,
    why, for they may hold personal data all the same. Raises UserError for options that make no sense."""
    try:
        return module, module.inspect(source, **given)
    except UserError as error:
        if modality not in ("text", "table"):
            raise
        options_of(modality).of(given)  # type: ignore[attr-defined]
        return sys.modules[__name__], inspect(source) | {"notes": [hidden(str(error))]}


def inspect(source: str | Path) -> dict[str, Any]:
    """Keys: source, kind, files, notes."""
    files = streams(Path(source), WRITTEN)
    note = "fit cannot learn from these files: they are looked at for what they hold."
    return {"source": str(source), "kind": files.kind, "files": len(files.names), "notes": [note]}


def format_report(facts: Mapping[str, Any]) -> str:
    return report(facts, [("files", f"{facts['files']:,}")])
