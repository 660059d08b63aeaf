"""The preflight of texts: what is there, what cannot be read, and what is there twice or nearly."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genloom.data import resolve
from genloom.data.catalog import Entry
from genloom.data.documents import Document, Found, documents, nothing_usable
from genloom.data.files import hashed, streams
from genloom.data.preflight import copies, listed, report, same, unreadable
from genloom.data.text import SUFFIXES, TextOptions, text_pieces

GRAM = 8  # characters: the pieces that texts are compared by
HASHES, BANDS = 64, 16  # of MinHash (Broder 1997): texts that share about half of their pieces meet
NEAR = 0.7  # share of hashes alike from which two texts are nearly the same
LONGEST = 2**20  # characters of a document that are compared


def inspect(source: str | Path, **given: Any) -> dict[str, Any]:
    """Keys: source, kind, documents, characters, examples, distinct (characters), duplicates and near (groups of names),
    unreadable (name: why), notes. Raises UserError when nothing can be read."""
    TextOptions.of(given)
    found, seen = resolve(source), Found()
    read: Iterator[Document]
    if isinstance(found, Entry):
        texts, _ = found.load("train")
        read, kind, notes = (Document(n, iter([t])) for n, t in texts), "built in", found.notes()
    else:
        files = streams(found, SUFFIXES)
        read, kind, notes = documents(files, seen), files.kind, []
    names, sizes, examples = list[str](), list[int](), 0
    letters: set[str] = set()
    digests: list[str] = []
    sketches: list[np.ndarray] = []
    for document in read:
        text = "".join(_first(document))
        names.append(document.name)
        sizes.append(len(text))
        examples += bool(document.turns)
        letters.update(text)
        digests.append(hashed(" ".join(text.split()).encode("utf-8", "replace")))
        sketches.append(sketch(text))
    if not names:
        raise nothing_usable(str(found), seen)
    duplicates = same(zip(names, digests, strict=True))
    return {
        "source": found.name if isinstance(found, Entry) else str(found),
        "kind": kind,
        "documents": len(names),
        "examples": examples,
        "characters": sum(sizes),
        "smallest": min(sizes),
        "largest": max(sizes),
        "distinct": len(letters),
        "duplicates": duplicates,
        "near": near(names, sketches, {name for group in duplicates for name in group[1:]}),
        "unreadable": seen.bad,
        "notes": [*notes, *seen.notes],
    }


def _first(document: Document) -> list[str]:
    """The document's pieces, up to what is compared."""
    pieces, size = [], 0
    for piece in text_pieces(document):
        pieces.append(piece)
        size += len(piece)
        if size > LONGEST:
            break
    return pieces


def sketch(text: str) -> np.ndarray:
    """MinHash [HASHES] u32 of the text's pieces of 8 characters, spaces made alike and letters small."""
    plain = np.frombuffer(" ".join(text.lower().split()).encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    if len(plain) < GRAM:
        return np.arange(HASHES, dtype=np.uint32) + np.uint32(zlib.crc32(text.encode("utf-8", "replace")) & 0xFFFF)
    rows = np.zeros(len(plain) - GRAM + 1, np.uint64)
    for i in range(GRAM):
        rows = rows * np.uint64(0x100000001B3) + plain[i : len(plain) - GRAM + 1 + i]
    rows = np.unique(rows)
    multipliers = np.random.Generator(np.random.PCG64(0)).integers(1, 2**63, HASHES, dtype=np.uint64) | np.uint64(1)
    return np.stack([((rows * m) >> np.uint64(32)).min() for m in multipliers]).astype(np.uint32)


def near(names: list[str], sketches: list[np.ndarray], skipped: set[str]) -> list[list[str]]:
    """Pairs of names whose texts are nearly the same: they meet in a band of hashes, and most hashes agree."""
    met: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for i, own in enumerate(sketches):
        if names[i] not in skipped:
            for band, piece in enumerate(np.split(own, BANDS)):
                met[band, piece.tobytes()].append(i)
    pairs: dict[tuple[int, int], None] = {}
    for group in met.values():
        for j in group[1:50]:
            pairs.setdefault((group[0], j), None)
    alike = [(i, j) for i, j in pairs if (sketches[i] == sketches[j]).mean() >= NEAR]
    return [[names[i], names[j]] for i, j in alike]


def format_report(facts: dict[str, Any]) -> str:
    """What `inspect` found, as lines to read."""
    kinds = f"{facts['documents']:,}" + (
        f", {facts['examples']:,} of them questions with answers" if facts["examples"] else ""
    )
    pairs = [" = ".join(pair) for pair in facts["near"]]
    rows = [
        ("documents", kinds),
        ("characters", f"{facts['characters']:,}, {facts['distinct']:,} different ones"),
        ("sizes", f"{facts['smallest']:,} to {facts['largest']:,} characters"),
        ("copies", copies(facts)),
        ("", listed(f"{len(pairs):,} pairs nearly the same", pairs)),
        ("unreadable", unreadable(facts)),
    ]
    return report(facts, rows)
