"""Fields into and out of Ogg, Opus, Matroska and WebM through FFmpeg: the packets are copied as they are, into a new container.

TC260-PG-202510A and 20257A put the label of GB 45438-2025 there as a comment, or a simple tag, `AIGC`. All raise UserError
without PyAV, ValueError for a file that is not whole, and OSError where the system refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genloom.errors import needs_extra

OURS = ("AIGC", "GENLOOM")


@contextmanager
def _library() -> Iterator[Any]:
    """PyAV. What FFmpeg refuses inside is told in its words, without its numbers."""
    try:
        import av
    except ImportError:
        raise needs_extra("av", "audio", "The label of Ogg, Matroska and WebM") from None
    try:
        yield av
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"FFmpeg says '{error.strerror}'") from None


def read(path: Path) -> dict[str, str]:
    with _library() as av, av.open(str(path)) as file:
        texts = [file.metadata, *(stream.metadata for stream in file.streams)]
    return {name: said[name] for said in texts for name in OURS if name in said}


def packets(path: Path) -> bytes:
    """What is coded in a file: its container has numbers by chance in it."""
    with _library() as av, av.open(str(path)) as file:
        return b"".join(bytes(packet) for packet in file.demux() if packet.size)


def write(path: Path, fields: Mapping[str, str], out: Path, form: str) -> None:
    with _library() as av, av.open(str(path)) as source, av.open(str(out), "w", format=form) as made:
        tracks = {s.index: made.add_stream_from_template(s) for s in source.streams if s.type in ("audio", "video")}
        for holder in tracks.values() if form == "ogg" else [made]:  # Ogg's comments are of a stream
            holder.metadata.update({**source.metadata, **fields})
        for packet in source.demux(*(source.streams[i] for i in tracks)):
            if packet.size:  # the last one is empty
                packet.stream = tracks[packet.stream_index]
                made.mux(packet)
