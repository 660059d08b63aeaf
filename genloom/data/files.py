"""What a folder, zip or tar holds: the names of its files and the bytes of each. Nothing is unpacked to a path."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from genloom.errors import UserError

MAX_FILE = 256 * 2**20  # bytes of one file once unpacked: more is a mistake or an attack
MAX_TAR = 16 * 2**30  # bytes of a compressed tar once unpacked
_UNPACK: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open, b"BZ": bz2.open}
_BROKEN = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, NotImplementedError)

Row = tuple[str, int, int]  # name, size, time changed; a folder's name ends in "/"
Source = tuple[Iterator[Row], Callable[[str], BinaryIO]]  # what is there, and how a file of it is opened


class UnreadableError(Exception):
    """Why a file is left out, in a few words."""


# what reading a file may raise
READING = (UnreadableError, OSError, EOFError)


@contextmanager
def noting(bad: dict[str, str], name: str) -> Iterator[None]:
    """Leave a file that cannot be read, and note under its name why."""
    try:
        yield
    except READING as error:
        bad[shown(name)] = str(error)


@dataclass
class Files:
    """An index of files: their names alone are held, so a million of them weigh some 100 MB.

    `names` are the wanted files, sorted, with "/" between parts. `folders` hold something or are there, empty,
    `others` are the files of other kinds (the first few named). `fingerprint` hashes names, sizes and times, in
    whatever order they were listed.
    """

    kind: str
    open: Callable[[str], BinaryIO]
    names: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    others: int = 0
    other_names: list[str] = field(default_factory=list)
    fingerprint: str = ""

    def fill(self, rows: Iterator[Row], suffixes: frozenset[str]) -> Files:
        """Index the rows: files with one of these suffixes are wanted."""
        total = 0
        for name, size, changed in rows:
            self.folders.add(name.rpartition("/")[0])
            if suffix(name) in suffixes:
                self.names.append(name)
                row = f"{name}\0{size}\0{changed}".encode("utf-8", "surrogateescape")
                total += int.from_bytes(hashlib.blake2b(row, digest_size=16).digest(), "big")
            elif not name.endswith("/"):
                self.others += 1
                if len(self.other_names) < 5:
                    self.other_names.append(shown(name))
        self.names.sort()
        self.fingerprint = f"{total % 2**128:032x}"
        return self


def index(path: Path, suffixes: frozenset[str], first: int | None = None) -> Files:
    """The files of a folder, zip or tar (gz, xz, bz2), or `first` of them.

    Raises UserError when it is none of these or cannot be read.
    """
    try:
        if path.is_dir():
            kind, source = "folder", _folder
        elif zipfile.is_zipfile(path):
            kind, source = "zip", _zip
        elif tarfile.is_tarfile(path):
            kind, source = "tar", _tar
        else:
            raise UserError(f"'{path}' is neither a folder nor a whole zip or tar file: give one of these.")
        rows, read = source(path)
        return Files(kind, read).fill(islice(rows, first), suffixes)
    except _BROKEN as error:
        raise UserError(f"'{path}' cannot be read: {error}.") from error


def streams(path: Path, suffixes: frozenset[str], first: int | None = None) -> Files:
    """The files of a folder, zip or tar (or `first` of them), or a file that is one itself: of any size, for they are read in blocks."""
    if path.is_file() and suffix(path.name) in suffixes:
        status = path.stat()
        rows = iter([(path.name, status.st_size, status.st_mtime_ns)])
        return Files("file", lambda name: path.open("rb")).fill(rows, suffixes)
    files = index(path, suffixes, first)
    if files.kind == "folder":
        files.open = lambda name: (path / name).open("rb")
    return files


def suffix(name: str) -> str:
    """The lower-case ending of a name with its dot, or the empty string."""
    return os.path.splitext(name)[1].lower()


def shown(name: str) -> str:
    """A file name that can be printed and kept in JSON, whatever bytes it was made of."""
    return name.encode("utf-8", "replace").decode()


def hashed(data: bytes) -> str:
    """A hash of bytes, 128 bits in hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest(*parts: object) -> str:
    """A hash of what data is made from and how: its fingerprint."""
    return hashed(repr(parts).encode())


def hidden(name: str) -> bool:
    """Whether any part of a name is what systems leave about, not what people put there."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/") if part)


def _check_size(size: int) -> None:
    if size > MAX_FILE:
        raise OSError(f"larger than {MAX_FILE >> 20} MB")


# ── folders ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _folder(path: Path) -> Source:
    def read(name: str) -> BinaryIO:
        _check_size(os.stat(path / name).st_size)
        return open(path / name, "rb")

    return _walk(str(path)), read


def _walk(root: str) -> Iterator[Row]:
    """Every file and folder below root. Links are followed, but no folder is entered twice."""
    waiting, seen = [""], {_identity(os.stat(root))}
    while waiting:
        folder = waiting.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = folder + entry.name
                if hidden(entry.name):
                    continue
                if entry.is_dir():
                    if (key := _identity(entry.stat())) not in seen:
                        seen.add(key)
                        waiting.append(name + "/")
                        yield name + "/", 0, 0
                elif entry.is_file():
                    status = entry.stat()
                    yield name, status.st_size, status.st_mtime_ns
                elif entry.is_symlink():  # to nowhere: named as unreadable when it is opened
                    yield name, 0, 0


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def safe_name(name: str) -> str:
    """A class name as the name of one folder."""
    return "".join("_" if c in '/\\:*?"<>|' or ord(c) < 32 else c for c in name).strip(". ") or "_"


def names_for(names: Sequence[str], ending: str) -> list[str]:
    """What is made of each file, under its name with another ending, or after its own where two differ by it alone."""
    made = [outward(os.path.splitext(n)[0]) + ending for n in names]
    return made if len(set(made)) == len(made) else [outward(n) + ending for n in names]


def outward(name: str) -> str:
    """The name of a file to write, in the same sub-folder: never outside, whatever an archive calls its files."""
    return "/".join(safe_name(shown(part)) for part in name.split("/") if part)


# ── archives ─────────────────────────────────────────────────────────────────────────────────────────────────────
def _member(name: str) -> str:
    """The name of a file in an archive with "/" between its parts; empty when it is hidden."""
    name = name.replace("\\", "/").removeprefix("./")
    return "" if hidden(name) else name


def _zip(path: Path) -> Source:
    archive = zipfile.ZipFile(path)
    members = {name: info for info in archive.infolist() if (name := _member(info.filename))}

    def read(name: str) -> BinaryIO:
        _check_size(members[name].file_size)
        return io.BytesIO(archive.read(members[name]))

    return ((name, info.file_size, info.CRC) for name, info in members.items()), read


def _tar(path: Path) -> Source:
    stream, lock = _plain_tar(path), threading.Lock()
    spans: dict[str, tuple[int, int]] = {}

    def rows() -> Iterator[Row]:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps them all: a kilobyte each
                name = _member(info.name)
                if name and info.isdir():
                    yield name + "/", 0, 0
                elif name and info.isfile() and not info.issparse():
                    spans[name] = (info.offset_data, info.size)
                    yield name, info.size, int(info.mtime)

    def read(name: str) -> BinaryIO:
        offset, size = spans[name]
        _check_size(size)
        with lock:
            stream.seek(offset)
            return io.BytesIO(stream.read(size))

    return rows(), read


def _plain_tar(path: Path) -> BinaryIO:
    """The tar itself, or an unnamed temporary file that a compressed one is unpacked to, to be read in any order."""
    with open(path, "rb") as stream:
        unpack = _UNPACK.get(stream.read(2))
    if unpack is None:
        return open(path, "rb")
    plain = tempfile.TemporaryFile(prefix="genloom-")  # noqa: SIM115, it lives as long as the index
    limit = min(MAX_TAR, shutil.disk_usage(tempfile.gettempdir()).free // 2)
    with unpack(path) as packed:
        while chunk := packed.read(1 << 20):
            plain.write(chunk)
            if plain.tell() > limit:
                raise OSError("it unpacks to more than fits here; unpack it yourself and give the folder")
    plain.seek(0)
    return plain
