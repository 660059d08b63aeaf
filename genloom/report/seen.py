"""Films on the report, side by side as they were kept: the source, what was made of it, what is real."""

from __future__ import annotations

from html import escape
from pathlib import Path

from genloom.report.story import data_url

LARGEST = 12_000_000  # bytes of films that a page holds; what is beyond is named with its path
SIDES = ("source", "made", "real")


def seen(folder: Path) -> str:
    """A figure each of the films NUMBER-NAME.mp4 in this folder; empty where there are none."""
    figures, room = list[str](), LARGEST
    for path in sorted(folder.glob("*.mp4")):
        name, size = escape(path.stem.partition("-")[2]), path.stat().st_size
        if size > room:
            figures.append(f'<p class="note"><b>{name}</b> is too large for this page: {escape(str(path))}</p>')
            continue
        room -= size
        film = data_url("video/mp4", path.read_bytes())
        player = f"<video controls autoplay muted loop playsinline src='{film}'></video>"
        sides = "".join(f"<span>{side}</span>" for side in SIDES)
        figures.append(f'<figure class="seen">{player}<figcaption>{sides}<b>{name}</b></figcaption></figure>')
    return "".join(figures)
