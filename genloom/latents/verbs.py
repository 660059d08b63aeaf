"""The verbs on a run's latents: what each returns, and the files it writes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genloom import generate, naming
from genloom.data import draw
from genloom.data.image import open_picture
from genloom.errors import UserError
from genloom.latents import projection
from genloom.latents.directions import find, moved
from genloom.latents.space import MOST, Points, mixed, numbers, space_of, styles_of, walk
from genloom.origin import Marks
from genloom.run import Place, Run, make_folder

Numbers = str | Sequence[int]
COARSE = "0-3"  # the layers that say most of a picture's shape


def seeds(run: Run, wanted: Numbers, **conditions: Any) -> Tensor:
    """[N, C, H, W] in [-1, 1]: the first sample of each seed."""
    space = space_of(generate.load(run), **conditions)
    return space.paint(space.points(numbers("seeds", wanted)))


def seeds_to_files(
    run: Run,
    wanted: Numbers,
    out: Path,
    *,
    provenance: bool = True,
    watermark: bool = True,
    visible_label: bool = False,
    **conditions: Any,
) -> list[Path]:
    """Each seed's picture under its number, and grid.png of them all."""
    naming.is_file(out, ())
    named = numbers("seeds", wanted)
    told: dict[str, Any] = {"how": "seeds", "options": {"seeds": _told(wanted)}, "conditions": conditions}
    marks = generate.marks_of(run, provenance, visible_label, watermark=watermark, **told)
    images = marks.watermarked(seeds(run, named, **conditions))

    def write(folder: Path) -> list[Path]:
        paths = [
            p for seed, image in zip(named, images, strict=True) for p in draw.write(image[None], folder, start=seed)
        ]
        return [*paths, draw.save(draw.preview(images), folder / "grid.png", format="PNG")]

    each: list[dict[str, Any]] = [
        *({"seed": seed, "index": 0, "of": 1} for seed in named),
        {"how": "sheet", "index": 0, "of": 1},
    ]
    return marks.written(write, out, each=each)[:-1]


def marks_of(
    run: Run, how: str, provenance: bool, watermark: bool, conditions: Mapping[str, Any], **options: Any
) -> Marks:
    return Marks(run, how=how, options=options, conditions=conditions, provenance=provenance, watermark=watermark)


def _told(wanted: Numbers) -> str:
    return wanted if isinstance(wanted, str) else ",".join(map(str, wanted))


def interpolate(run: Place, seeds: Numbers, frames: int = 24, **conditions: Any) -> Tensor:
    """[N · frames, C, H, W] in [-1, 1]: a closed walk through N seeds' pictures; frame k · frames is the k-th's own.

    Through styles where the generator has them, else along arcs between latents (and classes, where a model blends them).
    """
    named = numbers("interpolate", seeds)
    if len(named) < 2:
        raise UserError("A walk needs two seeds or more: give --interpolate 8, or the seeds, 3,7,12.")
    if frames < 1:
        raise UserError(f"--frames is {frames}: take 1 or more from one picture to the next, 24 is usual.")
    if len(named) * frames > MOST:
        raise UserError(f"A walk of {len(named) * frames:,} pictures is too long: take fewer seeds, or fewer --frames.")
    space = space_of(generate.load(Run.open(run)), **conditions)
    return space.paint(walk(space, space.points(named), frames))


def interpolate_to_file(
    run: Run,
    wanted: Numbers,
    out: Path,
    frames: int = 24,
    *,
    provenance: bool = True,
    watermark: bool = True,
    **conditions: Any,
) -> int:
    """That walk as a film; says how many frames it has."""
    naming.only_file(out, tuple(draw.FILMS))
    asked = {"interpolate": _told(wanted), "frames": frames}
    marks = marks_of(run, "interpolate", provenance, watermark, conditions, **asked)
    images = marks.watermarked(interpolate(run, wanted, frames, **conditions))
    _save(lambda path: draw.save_film(images, path), out, marks)
    return len(images)


def _save(save: Callable[[Path], Path], path: Path, marks: Marks) -> Path:
    """Save one file, marked."""
    return marks.written(lambda folder: [save(folder / path.name)], path.parent)[0]


def mix(run: Run, rows: Numbers, columns: Numbers, layers: Numbers, **conditions: Any) -> tuple[Tensor, Tensor]:
    """[R, C, ...] of the rows' pictures with those layers' styles of the columns', and [R + C, ...] of both as they are."""
    space = styles_of(generate.load(run), "Style mixing", **conditions)
    r, c = numbers("rows", rows), numbers("columns", columns)
    points = space.points([*r, *c])
    both = Points(points.values[: len(r)]), Points(points.values[len(r) :])
    images = space.paint(mixed(*both, numbers("layers", layers, space.layers)))
    return images.unflatten(0, (len(r), len(c))), space.paint(points)


def mix_to_file(
    run: Run,
    rows: Numbers,
    columns: Numbers,
    layers: Numbers,
    out: Path,
    *,
    provenance: bool = True,
    watermark: bool = True,
    **conditions: Any,
) -> Path:
    """One sheet: the columns' pictures above, the rows' at the left, the mixtures where they meet."""
    naming.only_file(out, naming.SHEETS)
    asked = {"rows": _told(rows), "columns": _told(columns), "layers": _told(layers)}
    marks = marks_of(run, "mix", provenance, watermark, conditions, **asked)
    images, own = mix(run, rows, columns, layers, **conditions)
    count, own = len(images), marks.watermarked(own)
    images = marks.watermarked(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    cells = [torch.ones_like(own[:1]), own[count:]]
    for row, mixtures in zip(own[:count], images, strict=True):
        cells += [row[None], mixtures]
    sheet = draw.preview(torch.cat(cells), columns=images.shape[1] + 1)
    return _save(lambda path: draw.save(sheet, path, format="PNG"), out, marks)


def project(
    run: Place,
    picture: Place,
    out: Place | None = None,
    *,
    space: str = "w",
    steps: int = 500,
    seed: int = 0,
    label: int | str | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """The styles that paint a picture best, in `space` w (one for all layers) or w+ (one a layer).

    Writes target.png, projected.png, film.webp, w.safetensors and projection.json, by default into the run's samples/,
    and returns what the last holds. Raises UserError for a model without styles and for a picture that cannot be read.
    """
    run, picture = Run.open(run), Path(picture)
    styles = styles_of(generate.load(run), "A projection", label=label)
    target = open_picture(picture, run.spec, run.info["data"].get("options", {}))
    folder = make_folder(out or run.folder / "samples" / f"projection-{picture.stem}")
    track = iter if quiet or not sys.stderr.isatty() else _bar
    found = projection.project(styles, target, kind=space, steps=steps, seed=seed, track=track)
    report = {"picture": str(picture), "label": label, **found.report}
    for name, image in (("target", target), ("projected", found.picture)):
        draw.save(draw.picture(image), folder / f"{name}.png", format="PNG")
    draw.save_film(found.film, folder / "film.webp", milliseconds=80)
    tensors = {"w": found.styles} | {f"noise.{k}": v for k, v in found.maps.items()}
    kept = Run(folder, {})
    kept.save_tensors("w.safetensors", {k: v.cpu() for k, v in tensors.items()}, report)
    kept.write_json("projection.json", report)
    return {**report, "folder": str(folder)}


def edit(
    run: Place,
    out: Place | None = None,
    *,
    method: str = "sefa",
    directions: int = 6,
    strength: float = 3.0,
    columns: int = 7,
    seeds: Numbers = "0-3",
    layers: Numbers | None = None,
    start: Place | None = None,
    **conditions: Any,
) -> dict[str, Any]:
    """Directions that mean something, found without labels by `method` sefa or ganspace.

    Writes a sheet each (rows seeds, or the projected picture in `start`; columns from -strength to +strength
    deviations), directions.safetensors and sliders.json, by default into the run's samples/, and returns what the last
    holds. `layers`: of the generator's styles, all by default.
    """
    if not (math.isfinite(strength) and strength > 0):
        raise UserError(f"--strength is {strength:g}: take more than 0, 3 is usual.")
    if columns < 2:
        raise UserError(f"--columns is {columns}: take 2 or more, 7 is usual.")
    run = Run.open(run)
    model = generate.load(run)
    if start is None:
        space = space_of(model, **conditions)
        points = space.points(numbers("seeds", seeds))
    else:
        space = styles_of(model, "A projected picture", **conditions)
        w, space.maps = projection.load_styles(Path(start), space)
        points = Points(w)
    chosen = None if layers is None else numbers("layers", layers, getattr(space, "layers", None))
    found = find(space, method, directions, chosen)
    strengths = torch.linspace(-strength, strength, columns)
    folder = make_folder(out or run.folder / "samples" / f"edit-{method}")
    for i in range(directions):
        sheet = draw.preview(space.paint(moved(points, found, i, strengths)), columns=columns)
        draw.save(sheet, folder / f"direction{i:02d}.png", format="PNG")
    about = {
        "method": method,
        "rows": str(start) if start else numbers("seeds", seeds),
        "columns": [round(float(s), 6) for s in strengths],
        "sliders": found.sliders(strength),
    }
    kept, tensors = Run(folder, {}), {"directions": found.vectors, "deviations": found.deviations}
    kept.save_tensors("directions.safetensors", tensors, {"method": method, "layers": found.layers})
    kept.write_json("sliders.json", about)
    return {**about, "folder": str(folder)}


def _bar(steps: Iterable[int]) -> Iterable[int]:
    from rich.console import Console
    from rich.progress import track

    return track(list(steps), "projecting", console=Console(stderr=True), transient=True)
