"""Data sets: from disk, or by name, to batches. As a verb, `genloom.data()` lists the built-in ones by name."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from genloom.core import MODALITIES, NEEDS, Spec, Verb
from genloom.data.base import Dataset
from genloom.data.catalog import Entry, catalog
from genloom.data.files import streams, suffix
from genloom.errors import UserError, nearest, unknown

__all__ = [
    "Dataset",
    "Entry",
    "catalog",
    "find_modality",
    "inspector",
    "open_data",
    "options_of",
    "resolve",
    "suffixes_of",
]

verb = catalog
sys.modules[__name__].__class__ = Verb

# what NEEDS is read by which module
MADE_BY = {"pairs": "translation", "domains": "translation", "films": "films", "speech": "speech"}
_LOOKED_AT = 1000  # files whose endings vote on what a folder holds


def open_data(
    source: str | Path,
    /,  # films have an option of that name
    *,
    modality: str | None = None,
    needs: str = "",
    split: str = "train",
    like: Spec | None = None,
    **options: Any,
) -> Dataset:
    """A data set of that name (see `catalog`), or the files of that folder or archive.

    `needs` is the kind of data that a model takes beyond its modality (core.NEEDS): with it a path is read as sources
    and targets, or as clips and their texts. `like`: read it as data of that Spec was (with its tokenizer, its size), where the options say nothing else.
    `options` are those of the modality: for pictures the fields of `ImageOptions`. Raises UserError when there is no
    such data, when it cannot be told what it is, or for an unknown option.
    """
    found = resolve(source)
    if needs:
        if isinstance(found, Path):
            return _kind(needs).from_path(found, needs=needs, split=split, like=like, **options)
        if needs not in found.serves:
            raise UserError(f"'{found.name}' is plain {found.modality}: give {NEEDS[needs]}.")
        return _kind(needs).from_catalog(found, needs=needs, split=split, like=like, **options)
    if isinstance(found, Path):
        kinds = [m for m in MODALITIES if found.is_file() and suffix(found.name) in _module(m).SUFFIXES]
        if modality and kinds and modality not in kinds:
            raise UserError(f"'{found}' is {kinds[0]}, not {modality}: choose other data or another model.")
        return _module(modality or find_modality(found)).from_path(found, split=split, like=like, **options)
    if modality not in (None, found.modality):
        raise UserError(f"'{found.name}' is {found.modality}, not {modality}: choose other data or another model.")
    if split not in found.splits:
        raise unknown(f"split of '{found.name}'", split, found.splits)
    return _module(found.modality).from_catalog(found, split=split, like=like, **options)


def resolve(source: str | Path) -> Entry | Path:
    """The built-in data set of that name, or the path. Raises UserError when it is neither.

    A name with a separator (`./mnist`) and a Path always mean what is on disk.
    """
    text = os.fspath(source)
    bare = isinstance(source, str) and "/" not in source and os.sep not in source
    if bare and text in catalog():
        return catalog()[text]
    path = Path(text).expanduser()
    if path.exists():
        return path
    if not bare:
        raise UserError(f"There is nothing at '{text}': check the path.")
    offer = nearest(text, catalog()) or f" Built in: {', '.join(sorted(catalog()))}."
    raise UserError(f"'{text}' is neither a path nor a built-in data set.{offer}")


def options_of(modality: str, needs: str = "") -> type:
    """The dataclass of options that data of this modality takes, and of the kind that a model needs beyond it."""
    return (_kind(needs) if needs else _module(modality)).OPTIONS


def suffixes_of(modality: str) -> frozenset[str]:
    """The endings of files that data of this modality is read from."""
    return _module(modality).SUFFIXES


def inspector(source: str | Path) -> tuple[str, ModuleType]:
    """The modality of a data set, and the module whose `inspect` and `format_report` look at such.

    Raises UserError when there is no such data.
    """
    found = resolve(source)
    modality = find_modality(found) if isinstance(found, Path) else found.modality
    return modality, importlib.import_module(f"genloom.data.inspect_{modality}")


def find_modality(path: Path) -> str:
    """What most files of a folder or archive are, by their endings; texts that say what is said in sounds do not count.

    Raises UserError when nothing is recognised.
    """
    from genloom.data.transcripts import DESCRIBING

    known = {m: _module(m).SUFFIXES for m in MODALITIES}
    every = frozenset().union(*known.values())
    names = streams(path, every, first=_LOOKED_AT).names
    if not names:
        kinds = "; ".join(f"{m}: {', '.join(sorted(endings))}" for m, endings in known.items())
        raise UserError(f"'{path}' holds no file of a kind that can be learnt ({kinds}).")
    sounds = {name for name in names if suffix(name) in known["audio"]}
    spoken = {os.path.splitext(name)[0] for name in sounds}
    spoken |= {clip[1] for stem in spoken if (clip := DESCRIBING.fullmatch(stem))}
    voters = [name for name in names if name in sounds or os.path.splitext(name)[0] not in spoken]
    return max(known, key=lambda m: sum(suffix(name) in known[m] for name in voters))


def _kind(needs: str) -> ModuleType:
    return importlib.import_module(f"genloom.data.{MADE_BY[needs]}")


def _module(modality: str) -> ModuleType:
    if modality not in MODALITIES:
        raise unknown("modality", modality, MODALITIES)
    return importlib.import_module(f"genloom.data.{modality}")
