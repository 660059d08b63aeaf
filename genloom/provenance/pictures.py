"""An XMP packet into and out of PNG, JPEG, WebP and GIF, by moving bytes: no pixel is decoded.

Each `read` takes the whole file and gives its packet or None; each `write` takes the file and a packet and gives the
pieces of the new file. Both raise ValueError, IndexError or struct.error for a file that is not whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

Data = bytes | memoryview
Pieces = list[Data]


# ── PNG ──────────────────────────────────────────────────────────────────────────────────────────────────────────
PNG = b"\x89PNG\r\n\x1a\n"
_XMP_TEXT = b"XML:com.adobe.xmp\0"


def _png_chunks(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """Kind, where the chunk begins, where the next does; the pixels' own chunks too."""
    at = len(PNG)
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            raise ValueError("it is cut short")
        yield kind, at, at + 12 + size
        at += 12 + size


def read_png(data: Data) -> bytes | None:
    for kind, start, stop in _png_chunks(data):
        if kind == b"iTXt" and bytes(data[start + 8 : start + 8 + len(_XMP_TEXT)]) == _XMP_TEXT:
            compressed = data[start + 8 + len(_XMP_TEXT)]
            _, _, packet = bytes(data[start + 10 + len(_XMP_TEXT) : stop - 4]).split(b"\0", 2)
            return _inflated(packet) if compressed else packet
    return None


def _inflated(packed: bytes) -> bytes:
    unpack = zlib.decompressobj()
    try:
        packet = unpack.decompress(packed, 1 << 20)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if unpack.unconsumed_tail:
        raise ValueError("its XMP unpacks to more than a megabyte")
    return packet


def write_png(data: Data, packet: bytes) -> Pieces:
    body = b"iTXt" + _XMP_TEXT + bytes(4) + packet  # not compressed, no language
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    pieces: Pieces = [PNG]
    for kind, start, stop in _png_chunks(data):
        if kind != b"iTXt" or bytes(data[start + 8 : start + 8 + len(_XMP_TEXT)]) != _XMP_TEXT:
            pieces.append(data[start:stop])
        if kind == b"IHDR":
            pieces.append(chunk)
    return pieces


# ── JPEG ─────────────────────────────────────────────────────────────────────────────────────────────────────────
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
_LARGEST_SEGMENT = 65_533


def _jpeg_segments(data: Data) -> Iterator[tuple[int, int, int]]:
    """Marker, where it begins, where the next does, up to the picture itself (SOS)."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ValueError("it is no whole JPEG")
        marker, (size,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        if marker == 0xDA:
            yield marker, at, len(data)
            return
        yield marker, at, at + 2 + size
        at += 2 + size


def _is_xmp(data: Data, marker: int, start: int) -> bool:
    return marker == 0xE1 and bytes(data[start + 4 : start + 4 + len(_XMP_SEGMENT)]) == _XMP_SEGMENT


def read_jpeg(data: Data) -> bytes | None:
    for marker, start, stop in _jpeg_segments(data):
        if _is_xmp(data, marker, start):
            return bytes(data[start + 4 + len(_XMP_SEGMENT) : stop])
    return None


def write_jpeg(data: Data, packet: bytes) -> Pieces:
    body = _XMP_SEGMENT + packet
    if len(body) > _LARGEST_SEGMENT:
        raise ValueError("a JPEG's XMP holds 64 KB at most")
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    pieces: Pieces = [data[:2]]
    placed = False
    for marker, start, stop in _jpeg_segments(data):
        if not placed and marker != 0xE0:  # after JFIF's own segment, which comes first
            pieces.append(segment)
            placed = True
        if not _is_xmp(data, marker, start):
            pieces.append(data[start:stop])
    return pieces


# ── WebP ─────────────────────────────────────────────────────────────────────────────────────────────────────────
_XMP_FLAG, _ALPHA_FLAG = 0x04, 0x10


def riff_chunks(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """Kind, where the chunk's header begins, where the next does (an odd size is padded), within what RIFF says it holds."""
    at, end = 12, min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, at)
        if at + 8 + size > len(data):
            raise ValueError("it is cut short")
        yield kind, at, min(at + 8 + size + size % 2, len(data))
        at += 8 + size + size % 2


def riff_body(data: Data, start: int) -> bytes:
    (size,) = struct.unpack_from("<I", data, start + 4)
    return bytes(data[start + 8 : start + 8 + size])


def riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def riff_file(form: bytes, pieces: Pieces) -> Pieces:
    size = 4 + sum(map(len, pieces))
    if size >= 1 << 32:
        raise ValueError("a RIFF file holds 4 GB at most")
    return [b"RIFF" + struct.pack("<I", size) + form, *pieces]


def read_webp(data: Data) -> bytes | None:
    return next((riff_body(data, start) for kind, start, _ in riff_chunks(data) if kind == b"XMP "), None)


def write_webp(data: Data, packet: bytes) -> Pieces:
    chunks = [(kind, start, stop) for kind, start, stop in riff_chunks(data) if kind != b"XMP "]
    kind, start, _ = chunks[0]
    if kind == b"VP8X":
        head = bytearray(riff_body(data, start))
        chunks = chunks[1:]
    else:
        head = _extended(kind, riff_body(data, start))
    head[0] |= _XMP_FLAG
    body: Pieces = [data[start:stop] for _, start, stop in chunks]
    return riff_file(b"WEBP", [riff_chunk(b"VP8X", bytes(head)), *body, riff_chunk(b"XMP ", packet)])


def _extended(kind: bytes, stream: bytes) -> bytearray:
    """The header VP8X of a plain WebP (RFC 9649, section 2.7): metadata has no place without one."""
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", stream, 1)
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    elif kind == b"VP8 " and stream[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", stream, 6))
        width, height, alpha = width - 1, height - 1, 0
    else:
        raise ValueError("it is no whole WebP")
    flags = _ALPHA_FLAG if alpha else 0
    return bytearray(struct.pack("<I", flags) + width.to_bytes(3, "little") + height.to_bytes(3, "little"))


# ── GIF ──────────────────────────────────────────────────────────────────────────────────────────────────────────
_XMP_EXTENSION = b"\x21\xff\x0bXMP DataXMP"
_TRAILER = bytes([1, *range(255, -1, -1), 0])  # read as blocks of a GIF, the packet ends here wherever one comes in


def _gif_table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif_blocks(data: Data) -> Iterator[tuple[int, int]]:
    """Where each block begins, and the next does."""
    at = 13 + _gif_table(data[10])
    while data[at] != 0x3B:
        start = at
        if data[at] == 0x2C:
            at += 11 + _gif_table(data[at + 9])
        elif data[at] == 0x21:
            at += 2
        else:
            raise ValueError("it is no whole GIF")
        while data[at]:
            at += 1 + data[at]
        at += 1
        yield start, at


def _is_xmp_block(data: Data, start: int) -> bool:
    return bytes(data[start : start + len(_XMP_EXTENSION)]) == _XMP_EXTENSION


def read_gif(data: Data) -> bytes | None:
    for start, stop in _gif_blocks(data):
        if _is_xmp_block(data, start):
            return bytes(data[start + len(_XMP_EXTENSION) : stop - len(_TRAILER)])
    return None


def write_gif(data: Data, packet: bytes) -> Pieces:
    first = 13 + _gif_table(data[10])
    blocks = list(_gif_blocks(data))
    kept: Pieces = [data[start:stop] for start, stop in blocks if not _is_xmp_block(data, start)]
    end = blocks[-1][1] if blocks else first
    return [b"GIF89a", data[6:first], _XMP_EXTENSION + packet + _TRAILER, *kept, data[end:]]


Reader = Callable[[Data], bytes | None]
Writer = Callable[[Data, bytes], Pieces]
