"""The seal of a run: which bytes it is made of, of what data and code, and from which runs; so that a later change is found.

seal.json holds the SHA-256 of each file that says what the run is, the seals of its parents, the seal that it had before,
and its own: the SHA-256 of all that. It finds changes; it is no signature: who may write the folder may seal it again, but
not to the same number. Note the number elsewhere (a child's seal holds it too) and `genloom verify --seal` tells.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import genloom
from genloom.errors import UserError
from genloom.run import WEIGHTS, Run, read_json

FILE = "seal.json"
SEALED = ("run.json", WEIGHTS, "log.jsonl", "metrics.json", "audit.json")
TRAINED = ("run.json", WEIGHTS, "log.jsonl")  # what `fit` and `import` write of them
BROKEN = "state/seal.json"
KEYS = ("genloom", "code", "data", "parents", "before", "files", "seal")


def write_seal(run: Run, wrote: Iterable[str]) -> str:
    """Seal a run as it is and return the seal. `wrote`: files that are new; a seal that stands answers for the others.

    So a verb that adds its figures to a run does not vouch for what somebody else changed in the meantime.
    """
    wrote, old = set(wrote), _old(run.folder)
    files = {k: v for k, v in (old.get("files") or {}).items() if k not in wrote}
    for name in SEALED:
        if (name in wrote or not old) and (run.folder / name).is_file():
            files[name] = digest(run.folder / name)
    sealed: dict[str, Any] = {
        "genloom": genloom.__version__,
        "code": run.info.get("versions", {}).get("code", ""),
        "data": run.info["data"].get("fingerprint", ""),
        "parents": run.info.get("parents", []),
        "before": old.get("seal"),
        "sealed": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "files": {name: files[name] for name in SEALED if name in files},
    }
    sealed["seal"] = own(sealed)
    run.write_json(FILE, sealed)
    (run.folder / BROKEN).unlink(missing_ok=True)
    return str(sealed["seal"])


def break_seal(run: Run) -> None:
    """Training goes on, and the files change: until the next seal the folder has none."""
    if (run.folder / FILE).is_file():
        os.replace(run.folder / FILE, run.folder / BROKEN)


def verify(folder: str | os.PathLike[str], noted: str | None = None) -> list[str]:
    """What is wrong with a run folder, a sentence each; nothing when it and its parents are as they were sealed.

    `noted`: the seal that it should bear, as somebody wrote it down. Raises UserError for a folder without a seal.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no run folder '{folder}' to verify.")
    if not (folder / FILE).is_file():
        raise UserError(
            f"'{folder}' has no seal: it is in training, was interrupted, or is of an older genloom; "
            "the same `genloom fit` command, run to its end, seals it."
        )
    sealed = read_json(folder / FILE)
    if any(key not in sealed for key in KEYS) or not isinstance(sealed["files"], dict):
        return [f"'{folder / FILE}' was changed after it was written: it is no whole seal."]
    found = [] if sealed["seal"] == own(sealed) else [f"'{folder / FILE}' was changed after it was written."]
    if noted and not sealed["seal"].startswith(noted):
        found.append(
            f"'{folder}' bears the seal {sealed['seal'][:16]}, not the one that was noted: it was sealed again."
        )
    return [*found, *_files(folder, sealed), *_lineage(folder, sealed)]


def parent_of(run: Run) -> dict[str, Any]:
    """What a run keeps of the run that it started from."""
    return {
        "run": str(run.folder.resolve()),
        "weights": digest(run.folder / WEIGHTS),
        "seal": _old(run.folder).get("seal"),
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
        if was and not path.is_file():
            found.append(f"'{path}' is gone: restore it from a copy, or fit again into another folder.")
        elif was and digest(path) != was:
            found.append(f"'{path}' was changed after the run was sealed.")
        elif not was and path.is_file():
            found.append(f"'{path}' was not there when the run was sealed: no verb of genloom put it there.")
    return found


def _lineage(folder: Path, sealed: Mapping[str, Any]) -> list[str]:
    """What is wrong with the runs that it comes from, theirs too. One that moved is looked for beside its child."""
    found = []
    for parent in sealed["parents"]:
        if "run" not in parent:
            continue  # a checkpoint, that nobody need keep: its hash stands in the seal
        told = Path(parent["run"])
        place = next((p for p in (told, folder.resolve().parent / told.name) if (p / "run.json").is_file()), None)
        if place is None:
            found.append(
                f"Its parent '{told}' is no longer there: put it back, or beside '{folder}', to verify the line."
            )
        elif not (place / WEIGHTS).is_file() or digest(place / WEIGHTS) != parent["weights"]:
            found.append(f"Its parent '{place}' holds other weights than this run started from.")
        elif (place / FILE).is_file():
            found += verify(place)
    return found
