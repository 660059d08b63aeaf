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
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from genloom.errors import UserError
from genloom.run import atomic, cannot_write

if TYPE_CHECKING:
    from PIL import Image
    from rich.live import Live

DRAW_SECONDS = 0.5  # between two drawings of the progress line
FRAMES = 48  # of the film, at most
FRAME_SIDE = 1024  # of the pictures kept at each tick, at most
FILM_BYTES = 900_000  # about
FILM_SIDE = 448  # small pictures are enlarged to about this for the film


class Monitor:
    """Shows and keeps what happens. A context manager: closing it writes the final grid and the film.

    `resume_at` is the step that the run goes on from: later lines and pictures, of work that was lost, are dropped.
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
    ):
        self.folder, self.total, self.minutes, self.quiet = Path(folder), total_steps, minutes, quiet
        self.fixed = self.folder / "samples" / "fixed"
        try:
            self.fixed.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.fixed, error) from None
        if resume_at is not None:
            truncate_log(self.folder, resume_at)
        self.log = Log(self.folder / "log.jsonl")
        self.live: Live | None = None
        self.board = Board.open(self.folder / "tensorboard", resume_at or 0, self._print) if tensorboard else None
        self.grid: Image.Image | None = None
        self.step = resume_at or 0
        self.record = _last_tick(self.folder)
        self.seconds: float = self.record.get("seconds", 0.0)  # of training, at the last tick
        self.since = self.next_draw = time.monotonic()
        self.live = self._live()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UserError:
            if error is None:  # else what went wrong first is what to say
                raise

    # being told
    def advance(self, step: int, losses: Mapping[str, Any]) -> None:
        """Called every step: returns at once unless half a second has passed and there is a terminal."""
        self.step = step
        if self.live is None or (now := time.monotonic()) < self.next_draw:
            return
        self.next_draw = now + DRAW_SECONDS
        if losses:
            self.record["losses"] = {k: float(v) for k, v in losses.items()}
        self._draw()

    def tick(self, record: Mapping[str, Any], grid: Tensor | None) -> None:
        """One look: a line of the log, the screen, TensorBoard; pictures [N, C, H, W] in [-1, 1] as a PNG."""
        self.record = dict(record)
        self.step, self.seconds, self.since = record["step"], record["seconds"], time.monotonic()
        self.log.write(record)
        if grid is not None and grid.ndim == 4:
            self._keep(grid)
        if self.board:
            self.board.tick(record, self.grid)
        if self.live is None:
            self._print(self.line())
        else:
            self._draw()

    def say(self, event: str, message: str, step: int) -> None:
        """An event: one line in the log and one on the screen."""
        self.log.write({"event": event, "step": step, "message": message})
        self._print(message)

    def close(self) -> None:
        """Write samples/grid.png and samples/progress.webp, and let go of the files and the screen."""
        if self.live:
            self.live.stop()
        self.log.close()
        if self.board:
            self.board.close()
        if self.grid is not None:
            _save(self.grid, self.folder / "samples" / "grid.png", format="PNG")
            write_film(self.fixed, self.folder / "samples" / "progress.webp", self.total)

    # showing
    def line(self) -> str:
        """`step 1,200 of 10,000 · 12 % · 0:21, 2:39 left · 4,211 items/s · generator 0.812 · critic 0.433`."""
        share, seconds = self._share()
        parts = [f"step {self.step:,}" + (f" of {self.total:,}" if self.total else ""), f"{100 * share:.0f} %"]
        left = f", {clock(seconds * (1 - share) / share)} left" if 0.005 < share < 1 else ""
        parts.append(clock(seconds) + left)
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

    def _live(self) -> Live | None:
        if self.quiet or not sys.stdout.isatty():
            return None
        from rich.live import Live

        live = Live("", auto_refresh=False, transient=True)
        live.start()
        return live

    def _draw(self) -> None:
        from rich.text import Text

        assert self.live is not None
        line = self.line()
        width = max(8, min(24, self.live.console.width - len(line) - 3))  # a narrow terminal: numbers before ornament
        done = int(width * self._share()[0])
        text = Text("━" * done, style="cyan", no_wrap=True, overflow="ellipsis")
        text.append("━" * (width - done), style="bright_black")
        text.append(f"  {line}", style="default")
        self.live.update(text, refresh=True)

    def _print(self, text: str) -> None:
        if self.quiet:
            return
        if self.live:
            self.live.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def _keep(self, grid: Tensor) -> None:
        from PIL import Image

        from genloom.data.image import preview

        self.grid = preview(grid.detach().float().cpu().nan_to_num(0.0).clamp(-1, 1), columns=8)
        small = self.grid.copy()
        small.thumbnail((FRAME_SIDE, FRAME_SIDE), Image.Resampling.LANCZOS)
        _save(small, self.fixed / f"{self.step:08d}.png", format="PNG")


def clock(seconds: float) -> str:
    """`0:21`, `12:05`, `3:07:00`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{whole % 60:02d}"


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────
class Log:
    """log.jsonl, one object a line, on disk as soon as it is written."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (held as long as the run)
        except OSError as error:
            raise cannot_write(path, error) from None

    def write(self, record: Mapping[str, Any]) -> None:
        try:
            self.file.write(json.dumps(_finite(record), ensure_ascii=False) + "\n")
            self.file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def close(self) -> None:
        try:
            self.file.close()
        except OSError as error:
            raise cannot_write(self.path, error) from None


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a line cut short by a kill or a full disk is passed over."""
    path = Path(folder) / "log.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def truncate_log(folder: Path, step: int) -> None:
    """Drop the log's lines, and the pictures, of steps after `step`: a resumed run makes them again."""
    folder = Path(folder)
    kept = [r for r in read_log(folder) if r["step"] <= step]
    if (folder / "log.jsonl").is_file():
        with atomic(folder / "log.jsonl") as path:
            path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept), encoding="utf-8")
    for picture in (folder / "samples" / "fixed").glob("*.png"):
        if not picture.stem.isdigit() or int(picture.stem) > step:
            picture.unlink(missing_ok=True)


def _last_tick(folder: Path) -> dict[str, Any]:
    ticks = [r for r in read_log(folder) if r.get("event") == "tick"]
    return ticks[-1] if ticks else {}


# ── TensorBoard ──────────────────────────────────────────────────────────────────────────────────────────────────
class Board:
    """TensorBoard's event file, by its own record writer: no TensorFlow, no thread that would hide a full disk."""

    def __init__(self, folder: Path, step: int):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.events, self.summaries = event_pb2, summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{step}"
        self.file = open(self.path, "wb")  # noqa: SIM115 (held as long as the run)
        self.writer = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        self._write(step=step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))  # hides later steps

    @classmethod
    def open(cls, folder: Path, step: int, note: Callable[[str], None]) -> Board | None:
        """None, with one note, when tensorboard is not installed."""
        try:
            return cls(folder, step)
        except ImportError:
            note("No TensorBoard events: pip install tensorboard to have them.")
            return None
        except OSError as error:
            raise cannot_write(folder, error) from None

    def _write(self, **fields: Any) -> None:
        try:
            self.writer.write(self.events.Event(wall_time=time.time(), **fields).SerializeToString())
            self.writer.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def tick(self, record: Mapping[str, Any], grid: Image.Image | None) -> None:
        numbers = {"rate": record.get("rate"), "lr": record.get("lr"), "memory_mb": record.get("memory_mb")}
        numbers |= {f"loss/{k}": v for k, v in (record.get("losses") or {}).items()}
        numbers |= {f"watch/{k}": v for k, v in (record.get("watch") or {}).items()}
        value = self.summaries.Summary.Value
        values = [value(tag=k, simple_value=v) for k, v in numbers.items() if v is not None]
        if grid is not None:
            picture = self.summaries.Summary.Image(
                width=grid.width, height=grid.height, colorspace=3, encoded_image_string=_png(grid)
            )
            values.append(value(tag="samples", image=picture))
        self._write(step=record["step"], summary=self.summaries.Summary(value=values))

    def close(self) -> None:
        try:
            self.file.close()
        except OSError as error:
            raise cannot_write(self.path, error) from None


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────
def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def _save(picture: Image.Image, path: Path, **options: Any) -> None:
    with atomic(path) as temporary:
        picture.save(temporary, **options)


def write_film(fixed: Path, path: Path, total: int | None = None) -> None:
    """An animated WebP of the pictures in `fixed`, named by step: at most 48 frames, each with its step, the last held.

    Nothing is written where there are no pictures.
    """
    from PIL import Image

    files = sorted(f for f in fixed.glob("*.png") if f.stem.isdigit())
    if len(files) > FRAMES:
        files = [files[round(i * (len(files) - 1) / (FRAMES - 1))] for i in range(FRAMES)]
    if not files:
        return
    last = max(int(files[-1].stem), total or 0, 1)
    frames, size = [], None
    for file in files:
        with Image.open(file) as picture:
            frame = _frame(picture, int(file.stem), int(file.stem) / last)
        size = size or frame.size
        frames.append(frame if frame.size == size else frame.resize(size))
    pause = [110] * (len(frames) - 1) + [2000]
    more = {"save_all": True, "append_images": frames[1:], "duration": pause, "loop": 0} if len(frames) > 1 else {}
    for quality in (60, 35):  # early noise hardly compresses: a page must still open fast
        buffer = io.BytesIO()
        frames[0].save(buffer, format="WEBP", quality=quality, method=3, **more)
        if buffer.tell() <= FILM_BYTES:
            break
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _frame(picture: Image.Image, step: int, share: float) -> Image.Image:
    """The picture, enlarged when small, above a strip with its step and how far along that is."""
    from PIL import Image, ImageDraw, ImageFont

    picture = picture.convert("RGB")
    if picture.width > FILM_SIDE:
        picture.thumbnail((FILM_SIDE, 4 * FILM_SIDE), Image.Resampling.LANCZOS)
    elif (times := round(FILM_SIDE / picture.width)) > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    frame = Image.new("RGB", (picture.width, picture.height + 30), (17, 17, 17))
    frame.paste(picture)
    pen, bottom = ImageDraw.Draw(frame), picture.height
    pen.rectangle((0, bottom, picture.width, bottom + 1), fill=(51, 51, 51))
    pen.rectangle((0, bottom, round(share * picture.width), bottom + 1), fill=(94, 196, 220))
    pen.text((8, bottom + 8), f"step {step:,}", fill=(221, 221, 221), font=ImageFont.load_default(15))
    return frame
