"""Sound on the report: each clip to play, as it was recorded and as it was made, its spectrogram real above made."""

from __future__ import annotations

import io
import wave
from html import escape
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genloom.data.draw import preview
from genloom.nn.mel import Mel, pictured
from genloom.report.story import data_url
from genloom.run import Run

WIDE = 900  # pixels of a spectrogram, at most
# pictured, one below the other; other sides are played alone
SIDES = {"recordings": "recorded", "made": "made", "nearest": "nearest in training"}


def heard(run: Run, folder: Path) -> str:
    """A figure each of the clips in this folder, whose files are NUMBER-NAME.SIDE.wav; empty where there are none."""
    clips: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.*.wav")):
        stem, side = path.stem.rsplit(".", 1)
        clips.setdefault(stem, {})[side] = path
    return "".join(_figure(run, stem, sides) for stem, sides in clips.items())


def _figure(run: Run, stem: str, sides: dict[str, Path]) -> str:
    shown, name = [side for side in SIDES if side in sides], escape(stem.partition("-")[2])
    players = ""
    for side in [*shown, *(s for s in sides if s not in SIDES)]:
        sound = data_url("audio/wav", sides[side].read_bytes())
        players += f"<span>{escape(SIDES.get(side, side))} <audio controls preload=none src='{sound}'></audio></span>"
    picture = spectrograms(run, [samples_of(sides[side]) for side in shown])
    alt = f"Mel spectrograms of {name}: {' above '.join(SIDES[side] for side in shown)}"
    image = f'<img src="{picture}" alt="{alt}">' if picture else ""
    return f'<figure class="heard">{image}<figcaption><b>{name}</b> {players}</figcaption></figure>'


def spectrograms(run: Run, waves: list[Tensor]) -> str:
    """The waves' [1, N] mel spectrograms one above the other, as the URL of a PNG; empty for a run that knows no mel."""
    if "mel" not in run.spec.extra or not waves:
        return ""
    mel = Mel.of(run.spec.extra["mel"])
    length = min(w.shape[1] for w in waves)
    if length <= mel.pad:
        return ""
    rows = [pictured(mel, w[None, :, :length]) for w in waves]
    sheet = preview(torch.cat([r for row in rows for r in (row, row.new_ones(1, 3, 2, row.shape[3]))][:-1], 2))
    sheet.thumbnail((WIDE, 10_000))
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    return data_url("image/png", file.getvalue())


def samples_of(path: Path) -> Tensor:
    """[1, N] in [-1, 1] of a 16-bit WAV file of ours."""
    with wave.open(str(path)) as file:
        values = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return torch.from_numpy(values.astype(np.float32) / 32767)[None]
