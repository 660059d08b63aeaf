"""Fields into and out of Ogg, Opus, Matroska and WebM through FFmpeg: the packets are copied as they are, into a new container.

TC260-PG-202510A and 20257A put the label of GB 45438-2025 there as a comment, or a simple tag, `AIGC`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genloom.errors import needs_extra

OURS = ("AIGC", "GENLOOM")


def _library() -> Any:
    try:
        import av
    except ImportError:
        raise needs_extra("av", "audio", "Labelling such a file") from None
    return av


def read(path: Path) -> dict[str, str]:
    """Raises OSError or ValueError for a file that is not whole."""
    av = _library()
    try:
        with av.open(str(path)) as file:
            texts = [file.metadata, *(stream.metadata for stream in file.streams)]
    except av.FFmpegError as error:  # few of these are either
        raise ValueError(str(error)) from None
    return {name: said[name] for said in texts for name in OURS if name in said}


def write(path: Path, fields: Mapping[str, str], out: Path, form: str) -> None:
    av = _library()
    with av.open(str(path)) as source, av.open(str(out), "w", format=form) as made:
        tracks = {s.index: made.add_stream_from_template(s) for s in source.streams if s.type in ("audio", "video")}
        for holder in tracks.values() if form == "ogg" else [made]:  # Ogg's comments are of a stream
            holder.metadata.update({**source.metadata, **fields})
        for packet in source.demux(*(source.streams[i] for i in tracks)):
            if packet.size:  # the last one is empty
                packet.stream = tracks[packet.stream_index]
                made.mux(packet)
