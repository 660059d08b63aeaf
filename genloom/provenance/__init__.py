"""Where a file comes from, said in it: metadata, a signed manifest, and, for people, a visible label."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from genloom.errors import UserError
from genloom.provenance import label, visible
from genloom.provenance.label import Kind, Origin, read_label, write_label
from genloom.provenance.manifest import Check, Signer, check
from genloom.provenance.pictures import Data
from genloom.run import writing

__all__ = ["Check", "Origin", "Signer", "check", "mark", "read_label", "sealed", "write_label"]

MEMORY = 1 << 25  # bytes of a file that is signed in memory
LARGEST = 1 << 29  # bytes of one that is signed at all: the official library takes four times as many in memory


def mark(
    paths: Sequence[Path], origins: Iterable[Origin], signer: Signer | None, targets: Sequence[Path] | None = None
) -> None:
    """Write its origin into each file, and sign it where there is a signer: metadata first, for the signature covers it.

    Of a folder (a film as pictures) each file is marked. Each file is marked whole or stays as it was; with `targets` it
    goes there, and nothing that is not marked ever stands there. Raises UserError for the first that cannot be marked.
    """
    for path, origin, target in zip(paths, origins, targets or paths, strict=True):
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else None
        for one, to in [(path, target)] if files is None else [(f, target / f.name) for f in files]:
            with writing(to):
                to.parent.mkdir(parents=True, exist_ok=True)
                _put(one, origin, signer, to)


def _put(path: Path, origin: Origin, signer: Signer | None, target: Path) -> None:
    kind = label.kind_of(path)
    if kind is None:
        label.write_beside(target, origin, path)
        return os.replace(path, target)
    if origin.visible and kind not in label.PICTURES:
        raise UserError("A visible label is drawn on pictures alone: leave --visible-label out.")
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if kind.form:
            label.copied(path, part, origin, kind)
        else:
            with open(part, "wb") as out:
                _write(label.contents(path), path, out, origin, kind, signer)
        os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink()


def sealed(data: bytes, path: Path, origin: Origin, signer: Signer | None) -> bytes:
    """The same for the bytes of a PNG picture, that `path` is to be. Raises UserError when it cannot be signed."""
    out = io.BytesIO()
    _write(data, path, out, origin, label.PNG, signer)
    return out.getvalue()


def _write(data: Data, path: Path, out: BinaryIO, origin: Origin, kind: Kind, signer: Signer | None) -> None:
    pieces = label.labelled(path, visible.drawn(data) if origin.visible else data, origin, kind)
    size = sum(map(len, pieces))
    if signer is None or not kind.signed or size > LARGEST:
        return out.writelines(pieces)
    if size <= MEMORY:  # files of the system are slower to make than to sign
        return signer.sign(io.BytesIO(b"".join(pieces)), out, origin, kind, path.name)
    with TemporaryFile(dir=path.parent) as labelled, TemporaryFile(dir=path.parent) as signed:
        labelled.writelines(pieces)
        labelled.seek(0)
        signer.sign(labelled, signed, origin, kind, path.name)
        signed.seek(0)
        shutil.copyfileobj(signed, out, 1 << 20)
