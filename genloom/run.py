"""The run folder: the only thing that passes between verbs.

run.json · log.jsonl · weights.safetensors · state/ · samples/ · metrics.json · audit.json · report.html · README.md

Every file is replaced atomically, so a kill at any instant loses at most the work since the last checkpoint. Nothing
in it is a pickle; what is read back is JSON or safetensors, and anything else is refused.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genloom.core import Spec
from genloom.errors import UserError
from genloom.recorded import amiss

Place = str | os.PathLike[str]  # where a file or folder is; a Run is one too
FORMAT = 1  # of the run folder: raised when an older genloom could not read it
STATE = "state/latest.safetensors"
HEARD_IN = Path("samples") / "heard"  # clips for the report to play
SEEN_IN = Path("samples") / "seen"  # films for it to show
WEIGHTS = "weights.safetensors"


class Run:
    """A run folder. `info` is run.json: the whole resolved request."""

    def __init__(self, folder: Path, info: dict[str, Any]):
        self.folder = Path(folder)
        self.info = info

    def __repr__(self) -> str:
        return f"Run('{self.folder}')"

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def spec(self) -> Spec:
        return Spec.from_json(self.info["spec"])

    @classmethod
    def open(cls, folder: Place) -> Run:
        """Read a run folder. Raises UserError when it is none, half-written, or of a newer genloom."""
        folder = Path(folder)
        if not folder.exists():
            raise UserError(f"There is no run folder '{folder}': make one with `genloom fit`.")
        if not (folder / "run.json").is_file():
            raise UserError(f"'{folder}' is not a run folder: it has no run.json.")
        info = read_json(folder / "run.json")
        if (form := info.get("format", FORMAT)) != FORMAT:
            raise UserError(
                f"'{folder}' was written by genloom {info.get('genloom')} in run format {form}, and this genloom reads "
                f"format {FORMAT}: use that version, or fit again into another folder."
            )
        if wrong := amiss(info):
            raise UserError(f"'{folder}/run.json' {wrong}: restore it from a copy, or fit into another folder.")
        return cls(folder, info)

    @classmethod
    def create(cls, folder: Place, info: Mapping[str, Any]) -> Run:
        folder = Path(folder)
        with writing(folder):
            (folder / "state").mkdir(parents=True, exist_ok=True)
            (folder / "samples").mkdir(exist_ok=True)
        run = cls(folder, {"format": FORMAT, **info})
        run.write_json("run.json", run.info)
        return run

    def has_state(self) -> bool:
        return (self.folder / STATE).is_file()

    def write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
        with atomic(self.folder / name) as path:
            path.write_text(text + "\n", encoding="utf-8")

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """One safetensors file; `numbers` (JSON-able) ride in its header, so both change in one rename."""
        whole = {k: v.detach().contiguous() for k, v in tensors.items()}
        with atomic(self.folder / name) as path:
            save_file(whole, path, metadata={"genloom": json.dumps(numbers)})

    def load_tensors(self, name: str, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Raises UserError when the file is absent, cut short, or not safetensors (a pickle, say)."""
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"'{self.folder}' has no {name} yet: run the same `genloom fit` command again to go on.")
        try:
            with safe_open(path, framework="pt", device=device) as file:
                numbers = json.loads((file.metadata() or {}).get("genloom", "{}"))
                return {k: file.get_tensor(k) for k in file.keys()}, numbers  # noqa: SIM118 - it is no dict
        except (SafetensorError, ValueError) as error:
            raise UserError(
                f"'{path}' is not a whole safetensors file ({error}); nothing in it was run. "
                "Restore it from a copy, or fit again into another folder."
            ) from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against a second fit; the system lets go when the process ends, however it ends."""
        with writing(self.folder):
            handle = open(self.folder / ".lock", "w")  # noqa: SIM115 - held until the fit ends
        with handle:
            try:
                _lock(handle.fileno())
            except OSError:
                busy = f"Another fit is writing to '{self.folder}': wait for it, or give another --out."
                raise UserError(busy) from None
            yield


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as JSON ({error}): restore it, or use another folder.") from None
    if not isinstance(value, dict):
        raise UserError(f"'{path}' holds no JSON object: restore it, or use another folder.")
    return value


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write beside `path`, then put it in place in one step: readers see the old file or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def put(path: Path, data: bytes) -> None:
    """The same for one of many files that can be made again: the disk is not waited for. Its folder is made."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses inside is a UserError that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from None


def make_folder(place: Place) -> Path:
    """The folder at that place, made where it was not there."""
    path = Path(place)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def cannot_write(path: Path, error: Exception) -> UserError:
    if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):  # Python's words, and Rust's
        return UserError(
            f"The disk is full: '{path}' could not be written. What was saved before is whole; "
            "free some space and run the same command again to go on."
        )
    return UserError(f"'{path}' cannot be written ({getattr(error, 'strerror', None) or error}): give another --out.")


def as_json(value: Any) -> Any:
    """The value as it comes back from a file: tuples as lists, paths as text."""
    return json.loads(json.dumps(value, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not fit into JSON")


def _lock(handle: int) -> None:
    """Raises OSError when another process holds it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
