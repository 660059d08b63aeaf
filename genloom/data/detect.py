"""Faces and bodies drawn as lines, where MediaPipe and one of its detectors are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from genloom.data.motion import opencv
from genloom.errors import UserError

FILES = {"landmarks": "face_landmarker.task", "pose": "pose_landmarker.task"}  # what finds them
SEEN = 0.5  # how sure a point of a body must be to be drawn


@contextmanager
def detecting(kind: str, file: str) -> Generator[Callable[[np.ndarray], np.ndarray]]:
    """What draws the lines of the face ("landmarks") or the body ("pose") in a frame [C, H, W], white on black: uint8
    [1, H, W], black where there is none. The detector is in `file`.

    Raises UserError where MediaPipe or that file is missing.
    """
    try:
        media: Any = importlib.import_module("mediapipe")
        vision = media.tasks.vision
    except (ImportError, AttributeError):
        raise UserError(
            f"--data.source {kind} finds its lines with MediaPipe: pip install mediapipe, or choose --data.source edges."
        ) from None
    if not file or not Path(file).expanduser().is_file():
        what = f"there is no file '{file}'" if file else "MediaPipe comes without any"
        raise UserError(
            f"--data.source {kind} needs a detector, and {what}: give --data.detector {FILES[kind]}, which its makers offer."
        )
    name = "FaceLandmarker" if kind == "landmarks" else "PoseLandmarker"
    base = media.tasks.BaseOptions(model_asset_path=str(Path(file).expanduser()))
    try:
        found = getattr(vision, name).create_from_options(getattr(vision, f"{name}Options")(base_options=base))
    except (RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:100]
        raise UserError(f"'{file}' is not MediaPipe's {FILES[kind]} ({why}): give that file.") from None
    if kind == "pose":
        lines = vision.PoseLandmarksConnections.POSE_LANDMARKS
    else:
        face = vision.FaceLandmarksConnections
        lines = [*face.FACE_LANDMARKS_CONTOURS, *face.FACE_LANDMARKS_NOSE]
    pairs = [(line.start, line.end) for line in lines]

    def draw(frame: np.ndarray) -> np.ndarray:
        colour = np.ascontiguousarray(np.broadcast_to(frame, (3, *frame.shape[1:])).transpose(1, 2, 0))
        result = found.detect(media.Image(image_format=media.ImageFormat.SRGB, data=colour))
        people = result.face_landmarks if kind == "landmarks" else result.pose_landmarks
        return lines_of(people, pairs, frame.shape[1], frame.shape[2])

    try:
        yield draw
    finally:
        found.close()


def lines_of(people: Sequence[Any], pairs: Sequence[tuple[int, int]], height: int, width: int) -> np.ndarray:
    """uint8 [1, H, W]: lines between pairs of each one's points, whose x and y are shares of the picture's sides."""
    cv2, canvas = opencv(), np.zeros((height, width), np.uint8)
    for points in people:
        for pair in pairs:
            ends = [points[i] for i in pair]
            if all(getattr(end, "visibility", None) is None or end.visibility >= SEEN for end in ends):
                places = [(int(16 * width * end.x), int(16 * height * end.y)) for end in ends]  # sixteenths of pixels
                cv2.line(canvas, *places, 255, 1, cv2.LINE_AA, 4)
    return canvas[None]
