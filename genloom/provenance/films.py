"""Fields into and out of MP4, MOV and M4A, by moving boxes (ISO 14496-12): no frame is decoded.

TC260-PG-20257A puts the label of GB 45438-2025 into moov.udta.meta: the key `AIGC` into its box keys, the text into ilst. Ours
stands beside it. `read` takes the whole file and gives its fields; `write` takes the file and fields and gives the pieces
of the new file. Both raise ValueError, IndexError or struct.error for a file that is not whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from genloom.provenance.pictures import Data, Pieces

OURS = (b"AIGC", b"GENLOOM")
_HANDLER = b"\0\0\0\0mdtaappl" + bytes(9)  # of metadata whose keys are names
_TABLES = {b"stco": ">I", b"co64": ">Q"}  # where each chunk of frames lies in the file
_HOLDERS = (b"trak", b"mdia", b"minf", b"stbl")


def _boxes(data: Data, at: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Kind, where the box begins, where its body does, where the next box does."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        elif size == 0:
            size = end - at
        if size < head or at + size > end:
            raise ValueError("it is cut short")
        yield kind, at, at + head, at + size
        at += size


def _inside(data: Data, kind: bytes, at: int, end: int) -> tuple[int, int] | None:
    """The body of the first box of that kind."""
    return next(((body, stop) for found, _, body, stop in _boxes(data, at, end) if found == kind), None)


def _meta_start(data: Data, body: int) -> int:
    """Where the boxes of `meta` begin: after a version in MP4, at once in QuickTime."""
    return body if bytes(data[body + 4 : body + 8]) == b"hdlr" else body + 4


def _metas(data: Data, moov: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Where the boxes keys and ilst lie, of each moov.udta.meta that has them."""
    for kind, _, body, stop in _boxes(data, *(_inside(data, b"udta", *moov) or (0, 0))):
        if kind != b"meta":
            continue
        span = _meta_start(data, body), stop
        if (keys := _inside(data, b"keys", *span)) and (listed := _inside(data, b"ilst", *span)):
            yield *keys, *listed


def _named(data: Data, moov: tuple[int, int]) -> dict[bytes, bytes]:
    """The texts of moov.udta.meta by their keys, as boxes `data` whole."""
    found = {}
    for keys, keys_end, listed, listed_end in _metas(data, moov):
        names = [bytes(data[body:stop]) for _, _, body, stop in _boxes(data, keys + 8, keys_end)]
        for number, _, body, stop in _boxes(data, listed, listed_end):
            if 0 < (index := int.from_bytes(number, "big")) <= len(names):
                found[names[index - 1]] = bytes(data[body:stop])
    return found


def read_mp4(data: Data) -> dict[str, str]:
    moov = _inside(data, b"moov", 0, len(data))
    texts = _named(data, moov) if moov else {}
    return {name.decode(): texts[name][16:].decode() for name in OURS if name in texts}


def mdat(data: Data) -> bytes:
    """The coded frames alone."""
    return b"".join(bytes(data[body:stop]) for kind, _, body, stop in _boxes(data, 0, len(data)) if kind == b"mdat")


def write_mp4(data: Data, fields: Mapping[str, str]) -> Pieces:
    top = list(_boxes(data, 0, len(data)))
    where = next(((start, body, stop) for kind, start, body, stop in top if kind == b"moov"), None)
    if where is None or any(kind == b"moof" for kind, *_ in top):
        raise ValueError("it is no whole film, or one in fragments")
    start, body, stop = where
    texts = _named(data, (body, stop)) | {name.encode(): _text(text) for name, text in fields.items()}
    others = b"".join(bytes(data[a:b]) for kind, a, _, b in _boxes(data, body, stop) if kind != b"udta")
    made = _box(b"moov", others + _box(b"udta", _other_udta(data, body, stop) + _meta(texts)))
    moved = len(made) - (stop - start)
    return [data[:start], _shifted(made, stop, moved), data[stop:]]


def _other_udta(data: Data, at: int, end: int) -> bytes:
    """What moov.udta holds beside `meta` with keys; a `meta` of Apple's kind stays, as it is."""
    udta = _inside(data, b"udta", at, end)
    if not udta:
        return b""
    return b"".join(
        bytes(data[a:stop])
        for kind, a, body, stop in _boxes(data, *udta)
        if kind != b"meta" or not _inside(data, b"keys", _meta_start(data, body), stop)
    )


def _meta(texts: Mapping[bytes, bytes]) -> bytes:
    keys = b"".join(struct.pack(">I4s", 8 + len(name), b"mdta") + name for name in texts)
    listed = b"".join(_box(struct.pack(">I", i), text) for i, text in enumerate(texts.values(), 1))
    head = _box(b"hdlr", b"\0\0\0\0" + _HANDLER)
    return _box(
        b"meta", bytes(4) + head + _box(b"keys", struct.pack(">II", 0, len(texts)) + keys) + _box(b"ilst", listed)
    )


def _text(text: str) -> bytes:
    return _box(b"data", struct.pack(">II", 1, 0) + text.encode())  # 1: UTF-8


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def _shifted(moov: bytes, end: int, by: int) -> bytes:
    """The box with each place in the file that lies after its old end moved on: what it names has moved."""
    made = bytearray(moov)
    for start, stop, form in _tables(moov, 8, len(moov)):
        width = struct.calcsize(form)
        for at in range(start, stop, width):
            (place,) = struct.unpack_from(form, made, at)
            if place >= end:
                struct.pack_into(form, made, at, place + by)
    return bytes(made)


def _tables(data: Data, at: int, end: int) -> Iterator[tuple[int, int, str]]:
    for kind, _, body, stop in _boxes(data, at, end):
        if kind in _HOLDERS:
            yield from _tables(data, body, stop)
        elif kind in _TABLES:
            (count,) = struct.unpack_from(">I", data, body + 4)
            form = _TABLES[kind]
            yield body + 8, min(body + 8 + count * struct.calcsize(form), stop), form
