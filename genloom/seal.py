"""The seal of a run: which bytes it is made of, of what data and code, and from which runs; so that a later change is found.

seal.json holds the SHA-256 of each file that says what the run is, the seals of its parents, the seal that it had before,
and its own: the SHA-256 of all that. It finds changes; it is no signature: who may write the folder may seal it again, but
not to the same number. Note the number elsewhere (a child's seal holds it too) and `genloom verify --seal` tells.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import genloom
from genloom.errors import UserError
from genloom.run import STATE, WEIGHTS, Place, Run, atomic, read_json

FILE = "seal.json"
TRAINED = ("run.json", WEIGHTS, "log.jsonl", STATE)  # what `fit` and `import` write
FOUND = ("metrics.json", "tasks.json", "audit.json")  # what verbs add; each seals what it wrote
SEALED = TRAINED + FOUND
TOLD = ("run.json", "log.jsonl")  # what a parent says of itself, that no verb but fit changes
BROKEN = "state/seal.json"
KINDS = {"files": dict, "parents": list, "altered": list}
KEYS = ("genloom", "code", "data", "parents", "before", "altered", "files", "seal")


def write_seal(run: Run, wrote: Iterable[str]) -> None:
    """Seal a run. `wrote`: files that are new; the seal that stands answers for the others, and where none does nothing is sealed.

    So a verb that adds its figures to a run does not vouch for what somebody else changed in the meantime.
    """
    wrote, stands = set(wrote), (run.folder / FILE).is_file()
    if not stands and "run.json" not in wrote:
        return
    old = _old(run.folder)
    edited = [FILE] if stands and old.get("seal") != own(old) else []
    files = {k: v for k, v in dict(old.get("files") or {}).items() if k not in wrote}
    files |= {k: digest(run.folder / k) for k in wrote if (run.folder / k).is_file()}
    sealed: dict[str, Any] = {
        "genloom": genloom.__version__,
        "code": run.info.get("versions", {}).get("code", ""),
        "data": run.info["data"].get("fingerprint", ""),
        "parents": run.info.get("parents", []),
        "before": old.get("seal"),
        "altered": sorted({*map(str, old.get("altered") or []), *edited}),
        "sealed": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "files": {name: files[name] for name in SEALED if name in files},
    }
    sealed["seal"] = own(sealed)
    run.write_json(FILE, sealed)
    (run.folder / BROKEN).unlink(missing_ok=True)


def break_seal(folder: Path) -> None:
    """Training goes on, and the files change: until the next seal the folder has none. What was altered stays known."""
    if not (folder / FILE).is_file():
        return
    sealed = read_json(folder / FILE)
    now = [name for name in SEALED if _differs(folder, sealed, name)]
    if sealed.get("seal") != own(sealed):
        now.append(FILE)
    sealed["altered"] = sorted({*map(str, sealed.get("altered") or []), *now})
    (folder / BROKEN).parent.mkdir(exist_ok=True)
    with atomic(folder / BROKEN) as path:
        path.write_text(json.dumps(sealed, ensure_ascii=False), encoding="utf-8")
    (folder / FILE).unlink()


def verify(place: Place, noted: str | None = None, seen: frozenset[Path] = frozenset()) -> list[str]:
    """What is wrong with a run folder, a sentence each; nothing when it and its parents are as they were sealed.

    `noted`: the seal that it should bear, as somebody wrote it down. `seen`: runs of its line that are being verified.
    Raises UserError for a folder without a seal.
    """
    folder = Path(place)
    if not folder.is_dir():
        raise UserError(f"There is no run folder '{folder}' to verify.")
    if not (folder / FILE).is_file():
        raise UserError(
            f"'{folder}' has no seal: it is in training, was interrupted, or is of an older genloom; "
            "the same `genloom fit` command, run to its end, seals it."
        )
    sealed = read_json(folder / FILE)
    if any(key not in sealed for key in KEYS) or not all(isinstance(sealed[k], t) for k, t in KINDS.items()):
        return [f"'{folder / FILE}' was changed after it was written: it is no whole seal."]
    found = [
        f"'{folder / name}' was altered by somebody before genloom went on with the run." for name in sealed["altered"]
    ]
    if sealed["seal"] != own(sealed):
        return [f"'{folder / FILE}' was changed after it was written.", *found, *_files(folder, sealed)]
    if noted is not None and not (noted and sealed["seal"].startswith(noted)):
        found.append(
            f"'{folder}' bears the seal {sealed['seal'][:16]}, not the one that was noted: it was sealed again."
        )
    return [*found, *_files(folder, sealed), *_lineage(folder, sealed, seen | {folder.resolve()})]


def unsealed(folder: Path) -> list[str]:
    """Figures in a run folder that its seal does not answer for."""
    return [name for name in FOUND if (folder / name).is_file() and name not in read_json(folder / FILE)["files"]]


def weights_of(run: Run) -> str | None:
    """The SHA-256 of a run's weights, where it has any yet. Figures name it, for of other weights they say nothing."""
    return digest(run.folder / WEIGHTS) if (run.folder / WEIGHTS).is_file() else None


def parent_of(run: Run) -> dict[str, Any]:
    """What a run keeps of the run that it started from."""
    return {
        "run": str(run.folder.resolve()),
        "weights": weights_of(run),
        "files": {name: digest(run.folder / name) for name in TOLD if (run.folder / name).is_file()},
        "seal": read_json(run.folder / FILE).get("seal") if (run.folder / FILE).is_file() else None,
    }


def checkpoint_parent(path: Path) -> dict[str, Any]:
    """What a run keeps of the file, or the folder, that it was imported from."""
    inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    whole = digest(path) if path.is_file() else _sha("".join(digest(p) for p in inside))
    return {"checkpoint": path.name, "sha256": whole}


def digest(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_version() -> str:
    """The SHA-256 of genloom's own Python files as they are here: also an edited copy has a version of its own."""
    house = Path(genloom.__file__).parent
    return _sha("".join(f"{p.relative_to(house).as_posix()} {digest(p)}\n" for p in sorted(house.rglob("*.py"))))


def own(sealed: Mapping[str, Any]) -> str:
    """The seal of what seal.json holds beside it."""
    rest = {k: v for k, v in sealed.items() if k != "seal"}
    return _sha(json.dumps(rest, sort_keys=True, ensure_ascii=False))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _old(folder: Path) -> dict[str, Any]:
    """The seal that stands, or that training broke."""
    return next((read_json(folder / name) for name in (FILE, BROKEN) if (folder / name).is_file()), {})


def _files(folder: Path, sealed: Mapping[str, Any]) -> list[str]:
    found = []
    for name in SEALED:
        path, was = folder / name, sealed["files"].get(name)
        if was and not path.is_file() and name != STATE:  # to train on only, and large: who is done may remove it
            found.append(f"'{path}' is gone: restore it from a copy, or fit again into another folder.")
        elif _differs(folder, sealed, name):
            found.append(f"'{path}' was changed after the run was sealed.")
        elif not was and path.is_file() and name in TRAINED:
            found.append(f"'{path}' was not there when the run was sealed: no verb of genloom put it there.")
    return found


def _differs(folder: Path, sealed: Mapping[str, Any], name: str) -> bool:
    files = sealed.get("files")
    was = files.get(name) if isinstance(files, dict) else None
    return bool(was) and (folder / name).is_file() and digest(folder / name) != was


def _lineage(folder: Path, sealed: Mapping[str, Any], seen: frozenset[Path]) -> list[str]:
    """What is wrong with the runs that it comes from, theirs too. One that moved is looked for beside its child."""
    found = []
    for parent in sealed["parents"]:
        if "run" not in parent:
            continue  # a checkpoint, that nobody need keep: its hash stands in the seal
        told = Path(str(parent["run"]))
        place = next((p for p in (told, folder.resolve().parent / told.name) if (p / "run.json").is_file()), None)
        if place is None:
            found.append(
                f"Its parent '{told}' is no longer there: put it back, or beside '{folder}', to verify the line."
            )
        elif not (place / WEIGHTS).is_file() or digest(place / WEIGHTS) != parent.get("weights"):
            found.append(f"Its parent '{place}' holds other weights than this run started from.")
        else:
            theirs = verify(place, None, seen) if (place / FILE).is_file() and place.resolve() not in seen else []
            found += [*theirs, *_changed(place, parent, " ".join(theirs))]
    return found


def _changed(place: Path, parent: Mapping[str, Any], said: str) -> list[str]:
    """In which ways a parent is not as it was when the child started, whatever seal it bears now; but what is said already."""
    told = parent.get("files")
    files = told if isinstance(told, dict) else {}
    changed = [n for n in TOLD if n in files and not ((place / n).is_file() and digest(place / n) == files[n])]
    named = [f"'{place / name}'" for name in changed]
    found = [f"{name} was changed after this run started from it." for name in named if name not in said]
    if parent.get("seal") and not (place / FILE).is_file():
        found.append(f"Its parent '{place}' had a seal when this run started from it, and has none now.")
    return found
