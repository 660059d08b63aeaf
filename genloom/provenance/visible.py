"""A label that people see: AI生成, "made by AI", in a corner of a picture.

GB 45438-2025 (5.2) asks for both words, at an edge, no lower than 5 % of the shorter side. The signs are drawn as lines, so
that no font is needed.
"""

from __future__ import annotations

import io
from typing import Any

from genloom.errors import UserError
from genloom.provenance.pictures import Data

SMALLEST = 64  # pixels of the shorter side: below that the words cannot be read
SHARE, LEAST = 0.06, 12  # of the shorter side, that the words are high; pixels
FINE = 4  # as large is it drawn, then made smaller: smooth edges
_SIGNS: tuple[tuple[float, tuple[tuple[tuple[float, float], ...], ...]], ...] = (  # width, lines; both of the height
    (0.72, (((0.04, 1), (0.36, 0.04), (0.68, 1)), ((0.15, 0.66), (0.57, 0.66)))),
    (0.3, (((0.15, 0.04), (0.15, 1)),)),
    (
        1.0,
        (
            ((0.28, 0.06), (0.1, 0.44)),
            ((0.21, 0.3), (0.88, 0.3)),
            ((0.2, 0.62), (0.85, 0.62)),
            ((0.53, 0.02), (0.53, 0.96)),
            ((0.05, 0.96), (0.96, 0.96)),
        ),
    ),
    (
        1.0,
        (
            ((0.92, 0.26), (0.18, 0.26), (0.17, 0.62), (0.05, 0.97)),
            ((0.18, 0.5), (0.46, 0.5), (0.44, 0.8), (0.33, 0.8)),
            ((0.55, 0.03), (0.58, 0.42), (0.7, 0.76), (0.87, 0.97), (0.94, 0.78)),
            ((0.85, 0.42), (0.72, 0.66), (0.49, 0.95)),
            ((0.69, 0.04), (0.82, 0.15)),
        ),
    ),
)


def drawn(data: Data) -> bytes:
    """A still picture with the words at its lower right, as a file of the same kind. Raises UserError when it is too small."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        side = min(picture.size)
        if side < SMALLEST:
            raise UserError(f"A visible label needs pictures of {SMALLEST} pixels or more, and these have {side}.")
        sign = _sign(max(LEAST, round(SHARE * side)))
        canvas = picture.convert("LA" if picture.mode == "L" else "RGBA")
        canvas.alpha_composite(sign.convert(canvas.mode), (canvas.width - sign.width, canvas.height - sign.height))
        made = io.BytesIO()
        canvas.convert(picture.mode).save(
            made, picture.format, **({"compress_level": 4} if picture.format == "PNG" else {})
        )
    return made.getvalue()


def _sign(height: int) -> Any:
    """White words on black that lets half of the picture through, RGBA."""
    from PIL import Image, ImageDraw

    unit, gap = height * FINE, height * FINE // 4
    width = sum(round(w * unit) for w, _ in _SIGNS) + gap * (len(_SIGNS) + 1)
    sheet = Image.new("RGBA", (width, unit + 2 * gap), (0, 0, 0, 128))
    pen, at = ImageDraw.Draw(sheet), gap
    for wide, lines in _SIGNS:
        for line in lines:
            points = [(at + x * unit, gap + y * unit) for x, y in line]
            pen.line(points, "white", max(FINE, unit // 11), joint="curve")
        at += round(wide * unit) + gap
    return sheet.resize((sheet.width // FINE, sheet.height // FINE), Image.Resampling.BOX)
