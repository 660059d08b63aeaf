"""What a run tells while it trains: a line a look on the screen, log.jsonl, TensorBoard events, pictures and a film.

Only the main rank has a Monitor. rich draws on a terminal; into a file or a pipe go plain lines.
"""

from __future__ import annotations

import io
import json
import math
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from genloom.data import draw
from genloom.errors import UserError
from genloom.run import atomic, make_folder, writing

if TYPE_CHECKING:
    from rich.live import Live

DRAW_SECONDS = 0.5  # between two drawings of the progress line
STEP = "[0-9]" * 8  # what is kept at each tick is named by its step
PICTURES, TEXTS = f"{STEP}.png", f"{STEP}.txt"
FRAMES = 48  # of the film, at most
FRAME_SIDE = 448  # of those, at most
CLIPS, ROWS = 16, 8  # on the wall on which they play, and as rows of frames of the grid


class Monitor(AbstractContextManager["Monitor"]):
    """Shows and keeps what happens. A context manager: closing it writes the final grid and the film.

    `resume_at` is the step that the run goes on from: later lines and pictures, of work that was lost, are dropped.
    `rate`: frames a second of samples that move.
    Every write that fails, on a full disk say, raises UserError: the last checkpoint is whole.
    """

    def __init__(
        self,
        folder: Path,
        total_steps: int | None,
        minutes: float | None,
        quiet: bool,
        tensorboard: bool = True,
        resume_at: int | None = None,
        rate: float = 1.0,
    ):
        self.folder, self.total, self.minutes, self.quiet = folder, total_steps, minutes, quiet
        self.fixed = make_folder(folder / "samples" / "fixed")
        if resume_at is not None:
            truncate_log(self.folder, resume_at)
        self.step = resume_at or 0
        self.board = Board(self.folder / "tensorboard", self.step) if tensorboard else None
        self.grid: Image.Image | None = None
        self.clips: Tensor | None = None
        self.rate = rate
        self.record: dict[str, Any] = next((r for r in reversed(read_log(self.folder)) if r.get("event") == "tick"), {})
        self.seconds: float = self.record.get("seconds", 0.0)  # of training, at the last tick
        self.since = self.next_draw = time.monotonic()
        self.live: Live | None = None
        if not quiet and sys.stdout.isatty():
            from rich.live import Live

            self.live = Live("", auto_refresh=False, transient=True)  # what is printed goes above its line
            self.live.start()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with suppress(UserError) if error else nullcontext():  # what went wrong first is what to say
            self.close()

    # being told
    def advance(self, step: int) -> None:
        """Called every step: returns at once unless half a second has passed and there is a terminal."""
        self.step = step
        if self.live and (now := time.monotonic()) >= self.next_draw:
            self.next_draw = now + DRAW_SECONDS
            self._draw()

    def tick(self, record: Mapping[str, Any], grid: Tensor | list[str] | None) -> None:
        """One look: a line of the log, the screen, TensorBoard; pictures [N, C, H, W] in [-1, 1], or clips [N, C, T, H, W],
        as a PNG, or a text."""
        self.record = dict(record)
        self.step, self.seconds, self.since = record["step"], record["seconds"], time.monotonic()
        self._log(record)
        if grid is not None:
            self._keep(grid)
        if self.board:
            self.board.tick(record, self.grid)
        if self.live is None:
            self._print(self.line())
        else:
            self._draw()

    def say(self, event: str, message: str, step: int) -> None:
        """An event: one line in the log and one on the screen."""
        self._log({"event": event, "step": step, "message": message})
        self._print(message)

    def close(self) -> None:
        """Write samples/grid.png, progress.webp and, of clips, clips.webp, and let go of the screen."""
        if self.live:
            self.live.stop()
        if self.grid is not None:
            draw.save(self.grid, self.folder / "samples" / "grid.png", format="PNG")
            write_film(self.fixed, self.folder / "samples" / "progress.webp", self.total)
        if self.clips is not None:
            draw.save_wall(self.clips, self.folder / "samples" / "clips.webp", self.rate)

    # showing
    def line(self) -> str:
        """`step 1,200 of 10,000 · 12 % · 0:21, 2:39 left · 4,211 items/s · generator 0.812 · critic 0.433`."""
        share, seconds = self._share()
        of = f" of {self.total:,}" if self.total else ""
        left = f", {clock(seconds * (1 - share) / share)} left" if 0.005 < share < 1 else ""
        parts = [f"step {self.step:,}{of}", f"{100 * share:.0f} %", clock(seconds) + left]
        if rate := self.record.get("rate"):
            parts.append(f"{rate:,.0f} items/s")
        parts += [f"{k} {v:.4g}" for k, v in (self.record.get("losses") or {}).items() if v is not None]
        return " · ".join(parts)

    def _share(self) -> tuple[float, float]:
        """Progress in [0, 1] and seconds of training, by the clock since the last tick."""
        fresh = self.record.get("step") == self.step
        seconds = self.seconds + (0.0 if fresh else time.monotonic() - self.since)
        spent = seconds / (60 * self.minutes) if self.minutes else self.step / self.total if self.total else 0.0
        return min(1.0, spent), seconds

    def _draw(self) -> None:
        from rich.text import Text

        assert self.live is not None
        line = self.line()
        width = max(8, min(24, self.live.console.width - len(line) - 3))  # a narrow terminal: numbers before ornament
        done = int(width * self._share()[0])
        bar = ("━" * done, "cyan"), ("━" * (width - done), "bright_black")
        self.live.update(Text.assemble(*bar, f"  {line}", no_wrap=True, overflow="ellipsis"), refresh=True)

    def _print(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    # keeping
    def _log(self, record: Mapping[str, Any]) -> None:
        """One object a line, on disk as soon as it is written."""
        path = self.folder / "log.jsonl"
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(record), ensure_ascii=False) + "\n")

    def _keep(self, samples: Tensor | list[str]) -> None:
        """One text; or a picture, for the grid and for the film over training: of clips a row of frames each, and the middle frames."""
        path = self.fixed / f"{self.step:08d}"
        if isinstance(samples, list):
            with writing(path := path.with_suffix(".txt")):
                path.write_text(samples[0], encoding="utf-8")
        elif samples.ndim == 4:
            self.grid = draw.preview(samples)
            draw.save(self.grid, path.with_suffix(".png"), format="PNG")
        elif samples.ndim == 5:
            self.clips, self.grid = samples[:CLIPS], draw.preview(draw.strips(samples[:ROWS]), columns=1)
            draw.save(draw.preview(samples[:, :, samples.shape[2] // 2]), path.with_suffix(".png"), format="PNG")


def clock(seconds: float) -> str:
    """`0:21`, `12:05`, `3:07:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a line cut short by a kill or a full disk is passed over."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    records = []
    for line in lines:
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    return records


def truncate_log(folder: Path, step: int) -> None:
    """Drop the log's lines, and the samples, of steps after `step`: a resumed run makes them again."""
    kept = [r for r in read_log(folder) if r["step"] <= step]
    if (folder / "log.jsonl").is_file():
        with atomic(folder / "log.jsonl") as path:
            path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept), encoding="utf-8")
    for sample in (folder / "samples" / "fixed").glob(f"{STEP}.*"):
        if int(sample.stem) > step:
            sample.unlink(missing_ok=True)


# ── TensorBoard ──────────────────────────────────────────────────────────────────────────────────────────────────
class Board:
    """TensorBoard's event file, by its own record writer: no TensorFlow, no thread that would hide a full disk."""

    def __init__(self, folder: Path, step: int):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{step}"
        self.path = make_folder(folder) / name
        self._write(file_version="brain.Event:2")
        self._write(step=step, session_log={"status": "START"})  # hides later steps

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        with writing(self.path), open(self.path, "ab") as file:
            RecordWriter(file).write(Event(wall_time=time.time(), **fields).SerializeToString())

    def tick(self, record: Mapping[str, Any], grid: Image.Image | None) -> None:
        numbers = {k: record.get(k) for k in ("rate", "lr", "memory_mb")}
        numbers |= {f"loss/{k}": v for k, v in (record.get("losses") or {}).items()}
        numbers |= {f"watch/{k}": v for k, v in (record.get("watch") or {}).items()}
        values: list[dict[str, Any]] = [{"tag": k, "simple_value": v} for k, v in numbers.items() if v is not None]
        if grid is not None:
            png = io.BytesIO()
            grid.convert("RGB").save(png, format="PNG")
            picture = {"width": grid.width, "height": grid.height, "encoded_image_string": png.getvalue()}
            values.append({"tag": "samples", "image": {"colorspace": 3, **picture}})
        self._write(step=record["step"], summary={"value": values})


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────
def write_film(fixed: Path, path: Path, total: int | None = None) -> None:
    """An animated WebP of the pictures in `fixed`, named by step: at most 48 frames, each with its step, the last held."""
    files = sorted(fixed.glob(PICTURES))
    files = [files[i] for i in np.linspace(0, len(files) - 1, min(len(files), FRAMES)).round().astype(int)]
    last = max(int(files[-1].stem), total or 0, 1)
    first, *rest = [_frame(file, last) for file in files]
    rest = [frame.resize(first.size) for frame in rest]
    times = [110] * len(rest) + [2000]
    # early noise hardly compresses: a page must still open fast
    draw.save(
        first, path, format="WEBP", quality=40, method=3, save_all=True, append_images=rest, duration=times, loop=0
    )


def _frame(file: Path, last: int) -> Image.Image:
    """The picture above a strip with its step and how far along to the `last` that is."""
    step = int(file.stem)
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((FRAME_SIDE, 4 * FRAME_SIDE), Image.Resampling.LANCZOS)
    width, bottom = picture.size
    frame = ImageOps.expand(picture, (0, 0, 0, 30), fill=(17, 17, 17))
    pen = ImageDraw.Draw(frame)
    pen.rectangle((0, bottom, width, bottom + 1), fill=(51, 51, 51))
    pen.rectangle((0, bottom, round(step / last * width), bottom + 1), fill=(94, 196, 220))
    pen.text((8, bottom + 8), f"step {step:,}", fill=(221, 221, 221), font_size=15)
    return frame
