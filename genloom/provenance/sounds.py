"""Fields into and out of WAV, FLAC and MP3, by moving bytes: no sample is decoded.

Where the label of GB 45438-2025 goes is said by TC260-PG-202510A: a chunk `AIGC` of a WAV, a comment `AIGC` of a FLAC, a frame
TXXX described as `AIGC` of an MP3. What else is ours stands beside it. Each `read` takes the whole file and gives its fields;
each `write` takes the file and fields and gives the pieces of the new file. Both raise ValueError, IndexError or
struct.error for a file that is not whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from genloom import __version__
from genloom.provenance.pictures import Data, Pieces, riff_body, riff_chunk, riff_chunks, riff_file

OURS = ("AIGC", "GENLOOM")
_LARGEST = 1 << 24  # bytes of a tag that is looked into


# ── WAV ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def read_wav(data: Data) -> dict[str, str]:
    found = {}
    for kind, start, _ in riff_chunks(data):
        if kind == b"AIGC":
            found["AIGC"] = riff_body(data, start).rstrip(b"\0").decode()
        elif kind == b"LIST" and (comment := _info(data, start).get(b"ICMT")):
            found["GENLOOM"] = comment.decode()
    return found


def write_wav(data: Data, fields: Mapping[str, str]) -> Pieces:
    """Its comment (ICMT) is what players show and PyAV and exiftool read."""
    kept: Pieces = []
    info: dict[bytes, bytes] = {}
    for kind, start, stop in riff_chunks(data):
        if kind == b"LIST" and bytes(data[start + 8 : start + 12]) == b"INFO":
            info |= _info(data, start)
        elif kind != b"AIGC":
            kept.append(data[start:stop])
    info |= {b"ISFT": f"genloom {__version__}".encode(), b"ICMT": fields["GENLOOM"].encode()}
    listed = b"INFO" + b"".join(riff_chunk(kind, text + b"\0") for kind, text in info.items())
    return riff_file(b"WAVE", [*kept, riff_chunk(b"LIST", listed), riff_chunk(b"AIGC", fields["AIGC"].encode())])


def _info(data: Data, start: int) -> dict[bytes, bytes]:
    """What a chunk LIST of the type INFO says, by the kind of each text."""
    (size,) = struct.unpack_from("<I", data, start + 4)
    if bytes(data[start + 8 : start + 12]) != b"INFO" or size > _LARGEST:
        return {}
    inner = b"RIFF" + bytes(data[start + 4 : start + 8 + size])
    return {kind: riff_body(inner, at).rstrip(b"\0") for kind, at, _ in riff_chunks(inner)}


# ── ID3: of MP3, and what C2PA puts before FLAC ──────────────────────────────────────────────────────────────────
def _syncsafe(number: bytes) -> int:
    return number[0] << 21 | number[1] << 14 | number[2] << 7 | number[3]


def _spread(number: int) -> bytes:
    if number >= 1 << 28:
        raise ValueError("an ID3 tag holds 256 MB at most")
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def id3_size(data: Data) -> int:
    """Bytes of the tag that a file begins with, its header counted; 0 where there is none."""
    return 10 + _syncsafe(bytes(data[6:10])) if bytes(data[:3]) == b"ID3" and len(data) >= 10 else 0


def _id3_frames(data: Data) -> Iterator[tuple[bytes, bytes]]:
    """Each frame's kind and its bytes, header and all, of a tag of version 3 or 4."""
    if data[3] not in (3, 4) or data[5] & 0xC0:  # unsynchronised, or with an extended header
        raise ValueError("its ID3 tag is of a kind that is not read")
    at, end = 10, min(id3_size(data), len(data))
    while at + 10 <= end and data[at]:
        head = bytes(data[at : at + 10])
        size = _syncsafe(head[4:8]) if data[3] == 4 else struct.unpack(">I", head[4:8])[0]
        if at + 10 + size > end:
            raise ValueError("its ID3 tag is cut short")
        yield head[:4], bytes(data[at : at + 10 + size])
        at += 10 + size


def _described(frame: bytes) -> tuple[str, str]:
    """The description and the text of a frame TXXX."""
    text = frame[11:].decode(("latin-1", "utf-16", "utf-16-be", "utf-8")[frame[10]])
    name, _, value = text.partition("\0")
    return name, value.lstrip("\ufeff").rstrip("\0")


def read_mp3(data: Data) -> dict[str, str]:
    if not id3_size(data):
        return {}
    texts = dict(_described(frame) for kind, frame in _id3_frames(data) if kind == b"TXXX")
    return {name: texts[name] for name in OURS if name in texts}


def write_mp3(data: Data, fields: Mapping[str, str]) -> Pieces:
    size = id3_size(data)
    version = data[3] if size else 4
    frames = [f for kind, f in _id3_frames(data) if kind != b"TXXX" or _described(f)[0] not in OURS] if size else []
    frames += [_text_frame(name, text, version) for name, text in fields.items()]
    body = b"".join(frames) + bytes(10)  # room, without which exiftool doubts the size of the last frame
    return [b"ID3" + bytes([version, 0, 0]) + _spread(len(body)), body, data[size:]]


def _text_frame(name: str, text: str, version: int) -> bytes:
    if version == 4:
        body = b"\x03" + f"{name}\0{text}".encode()
        return b"TXXX" + _spread(len(body)) + bytes(2) + body
    body = b"\x01" + f"{name}\0".encode("utf-16") + text.encode("utf-16")
    return b"TXXX" + struct.pack(">I", len(body)) + bytes(2) + body


# ── FLAC ─────────────────────────────────────────────────────────────────────────────────────────────────────────
_COMMENTS, _LAST = 4, 0x80


def _flac_blocks(data: Data) -> Iterator[tuple[int, int, int]]:
    """Kind of each block of metadata, where its body begins, where it ends."""
    at, last = id3_size(data) + 4, False
    while not last:
        last = bool(data[at] & _LAST)
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        if at + 4 + size > len(data):
            raise ValueError("it is cut short")
        yield data[at] & ~_LAST, at + 4, at + 4 + size
        at += 4 + size


def _comments(body: bytes) -> tuple[bytes, list[bytes]]:
    """The maker's name, and the comments NAME=text, of a block of Vorbis comments."""
    (size,) = struct.unpack_from("<I", body)
    maker, at = body[4 : 4 + size], 4 + size
    (count,) = struct.unpack_from("<I", body, at)
    at, found = at + 4, []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", body, at)
        if at + 4 + size > len(body):
            raise ValueError("its comments are cut short")
        found.append(body[at + 4 : at + 4 + size])
        at += 4 + size
    return maker, found


def _name(comment: bytes) -> str:
    return comment.partition(b"=")[0].decode("ascii", "replace").upper()


def read_flac(data: Data) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind, start, stop in _flac_blocks(data):
        if kind == _COMMENTS:
            comments = _comments(bytes(data[start:stop]))[1]
            found |= {_name(c): c.partition(b"=")[2].decode() for c in comments if _name(c) in OURS}
    return found


def write_flac(data: Data, fields: Mapping[str, str]) -> Pieces:
    maker, kept = b"genloom", list[bytes]()
    blocks: list[tuple[int, Data]] = []
    end = 0  # where the last one ends, the sound begins
    for kind, start, end in _flac_blocks(data):
        if kind == _COMMENTS:
            maker, kept = _comments(bytes(data[start:end]))
        else:
            blocks.append((kind, data[start:end]))
    comments = [c for c in kept if _name(c) not in OURS] + [f"{k}={v}".encode() for k, v in fields.items()]
    body = b"".join(struct.pack("<I", len(c)) + c for c in comments)
    body = struct.pack("<I", len(maker)) + maker + struct.pack("<I", len(comments)) + body
    if len(body) >= 1 << 24:
        raise ValueError("a FLAC's comments hold 16 MB at most")
    blocks.insert(1, (_COMMENTS, body))  # after what says the stream's kind, which comes first
    pieces: Pieces = [data[: id3_size(data) + 4]]
    for number, (kind, block) in enumerate(blocks, 1):
        last = _LAST if number == len(blocks) else 0
        pieces += [bytes([kind | last]) + len(block).to_bytes(3, "big"), block]
    return [*pieces, data[end:]]
