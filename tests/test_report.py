"""What a person sees: the page, the model card, the comparison, and what the monitor keeps for them."""

import errno
import io
import json
import math
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from genloom.errors import UserError
from genloom.monitor import Monitor, clock, read_log, truncate_log
from genloom.report import compare_runs, format_comparison, write_model_card, write_report
from genloom.report.curves import chart, number, thin, ticks
from genloom.report.story import GLOSSARY, family

EVIL = '<script>alert("x")</script>'
INFO: dict[str, Any] = {
    "format": 1,
    "genloom": "0.1.0",
    "model": "gan",
    "config": {"latent": 100, "hidden": [256, 512]},
    "recipe": "cpu",
    "options": {"steps": 100, "minutes": None, "batch_size": 32, "lr": 1e-3, "seed": 0},
    "data": {
        "source": "digits",
        "name": "digits",
        "fingerprint": "ab" * 20,
        "summary": {"items": 1797, "skipped": ["a.png"]},
    },
    "spec": {"modality": "image", "shape": [1, 8, 8], "classes": ["0", "1"], "extra": {}},
    "versions": {"python": "3.11", "torch": "2.13"},
    "command": "genloom fit gan digits",
    "device": "cpu",
    "card": {
        "paper": "Generative Adversarial Networks",
        "authors": "Goodfellow et al.",
        "year": 2014,
        "url": "https://arxiv.org/abs/1406.2661",
        "summary": "Two nets play.",
        "licence": "Apache-2.0",
        "changes": "A penalty.",
        "results": [{"metric": "log-likelihood", "value": 225.0, "data": "MNIST", "where": "Table 1"}],
    },
}


SPOKEN = INFO | {"model": "gpt", "spec": {"modality": "text", "shape": [65], "classes": [], "extra": {}}}


def metric(name: str, value: float, low: float, high: float) -> dict[str, Any]:
    judge = {"extractor": "digits", "sha256": "ab12" * 16, "note": ""}
    return {"name": name, "value": value, "low": low, "high": high, "n": 1000, "n_real": 1000, **judge}


def tick(step: int, **more: Any) -> dict[str, Any]:
    losses = {"critic": 1 / step, "generator": math.nan if step == 30 else 2.0}
    return {
        "event": "tick",
        "step": step,
        "seconds": step / 10,
        "progress": step / 100,
        "rate": 320.0,
        "losses": losses,
        **more,
    }


def fabricate(
    folder: Path, *, metrics: list[dict[str, Any]] | None = None, steps: range = range(10, 101, 10), **info: Any
) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(INFO | info))
    with Monitor(folder, 100, None, quiet=True, tensorboard=False) as monitor:
        monitor.say("start", "Training on cpu.", 0)
        for step in steps:
            monitor.tick(tick(step), torch.rand(16, 1, 8, 8) * 2 - 1)
    if metrics is not None:
        measured = {"data": "digits test", "n": 1000, "metrics": metrics, "warnings": ["Few samples."]}
        measured["classes"] = {"counts": {"0": 600, "1": 400}, "entropy": 0.67, "confident": 0.9}
        (folder / "metrics.json").write_text(json.dumps(measured))
    return folder


class Page(HTMLParser):
    """Knows a page's tags and what it would load; fails on tags that do not close in order."""

    VOID = ("meta", "img", "br", "source")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        names = ("src", "srcset", "data", "poster") + (() if tag == "a" else ("href",))
        self.loads += [v or "" for k, v in attributes if k in names]
        assert not any(k.startswith("on") for k, _ in attributes)
        assert tag != "img" or dict(attributes).get("alt")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    figures = [metric("fd-digits@1k", 12.34, 11.5, 13.1), metric("recall-digits@1k", 0.41, 0.38, 0.44)]
    folder = fabricate(tmp_path_factory.mktemp("runs") / "gan-digits", metrics=figures)
    Image.new("L", (66, 18)).save(folder / "samples" / "nearest.png")
    return folder


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_page_tells_the_whole_run_and_loads_nothing(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("img") == 3 and page.tags.count("svg") == 3 and "script" not in page.tags
    assert page.loads and all(x.startswith("data:image/") for x in page.loads)
    assert "@import" not in text and "url(" not in text
    for words in (
        "gan",
        "12.3",
        "11.5 – 13.1",
        "1,000 / 1,000",
        "ab12ab12",
        "Few samples.",
        "60.0 %",
        "Goodfellow",
        "225",
    ):
        assert words in page.words, words
    for words in ("Training on cpu.", "genloom fit gan digits", "genloom.load(", "a.png", "Apache-2.0", "256, 512"):
        assert words in page.words, words


def test_what_is_missing_is_said_with_the_command_that_makes_it(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", steps=range(0), card=None)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert f"genloom evaluate {folder}" in page.words and f"genloom sample {folder}" in page.words
    assert "genloom evaluate ." in write_model_card(folder).read_text(encoding="utf-8")
    with pytest.raises(UserError, match="run folder"):
        write_report(tmp_path)


def test_words_from_the_run_have_no_power(tmp_path: Path) -> None:
    data = {"source": EVIL, "name": EVIL, "fingerprint": EVIL, "summary": {EVIL: EVIL, "classes": {EVIL: 3}}}
    card = INFO["card"] | {"url": "javascript:alert(1)", "paper": EVIL, "summary": EVIL}
    folder = fabricate(
        tmp_path / "run", metrics=[metric(EVIL, 1.0, 0.9, 1.1)], data=data, card=card, command=EVIL, model=EVIL
    )
    measured = json.loads((folder / "metrics.json").read_text())
    measured["classes"]["counts"] = {EVIL: 5}
    (folder / "metrics.json").write_text(json.dumps(measured))
    with Monitor(folder, 100, None, quiet=True, tensorboard=False) as monitor:
        monitor.say("rollback", EVIL, 100)
        monitor.tick(tick(110, losses={EVIL: 1.0}), None)
    page = Page(text := write_report(folder).read_text(encoding="utf-8"))
    assert "script" not in page.tags and EVIL in page.words and "javascript:" not in text
    readme = write_model_card(folder).read_text(encoding="utf-8")
    assert "<script>" not in readme.split("---", 2)[2].replace("\\<script\\>", "").split("```sh")[0]


def test_work_that_was_rolled_back_is_not_drawn(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run")
    with Monitor(folder, 100, None, quiet=True, tensorboard=False) as monitor:
        monitor.say("rollback", "Back to step 40 at half the rate.", 40)
        monitor.tick(tick(50), None)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "(50 steps)" in page.words and "rolled back" in page.words


# ── curves ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "values", [[3.0], [1.0, 1.0], [1.0, math.nan, 2.0, None, 5.0], [0.0, -1e-9], [1e12, 1.0], list(range(10_000))]
)
def test_a_curve_holds_for_any_values(values: list[float | None]) -> None:
    svg = chart("loss", list(enumerate(values)), marks=[(1.0, EVIL)], low=None)
    Page(svg)
    assert "nan" not in svg and "inf" not in svg and "<script" not in svg and len(svg) < 30_000
    heights = [float(y) for points in re.findall(r'points="([^"]+)"', svg) for y in re.findall(r",([-\d.]+)", points)]
    assert all(0 <= y <= 190 for y in heights)


def test_no_values_no_curve() -> None:
    assert chart("loss", []) == chart("loss", [(1, None), (2, math.nan)]) == ""


def test_thinning_keeps_the_spikes() -> None:
    points = [(float(i), 100.0 if i == 7777 else math.sin(i)) for i in range(50_000)]
    kept = thin(points)
    assert len(kept) < 500 and (7777.0, 100.0) in kept and kept == sorted(kept) and kept[-1] == points[-1]


def test_numbers_are_for_people() -> None:
    assert ticks(0, 14_204, 3) == [0, 5000, 10_000] and ticks(0.62, 1.27, 3) == pytest.approx([0.8, 1.0, 1.2])
    shown = [number(x) for x in (0, 0.00812, 12.34, 1234.5, 45_678, 2.5e6, 3e-5, -0.5, math.nan, None)]
    assert shown == ["0", "0.00812", "12.3", "1,234", "45.7k", "2.5M", "3e-5", "-0.5", "–", "–"]
    assert [clock(s) for s in (21, 725, 11_220)] == ["0:21", "12:05", "3:07:00"]


# ── the card and the comparison ──────────────────────────────────────────────────────────────────────────────────
def test_the_card_is_one_that_hubs_read(run: Path) -> None:
    text = write_model_card(run).read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    fields = {
        line.split(": ", 1)[0]: json.loads(line.split(": ", 1)[1]) for line in front.splitlines() if line[0] != "#"
    }
    assert fields["license"] == "apache-2.0" and fields["library_name"] == "genloom"
    assert fields["pipeline_tag"] == "unconditional-image-generation" and "gan" in fields["tags"]
    for words in (
        "genloom sample .",
        "genloom.load(",
        "limits",
        "| fd-digits@1k ↓ | 12.3 | 11.5 – 13.1 |",
        "Goodfellow",
        "1,797",
    ):
        assert words in body, words


def test_each_word_of_the_glossary_is_found() -> None:
    for name, said in GLOSSARY.items():
        assert family(name) == family(f"{name}@1k") == said
    assert family("fd-digits@10k") == GLOSSARY["fd"] and family("of another kind") == ("", "")


def test_runs_side_by_side_mark_what_is_really_best(tmp_path: Path) -> None:
    a = fabricate(
        tmp_path / "a", metrics=[metric("fd-digits@1k", 10, 9, 11), metric("recall-digits@1k", 0.4, 0.3, 0.5)]
    )
    b = fabricate(
        tmp_path / "b", metrics=[metric("fd-digits@1k", 20, 19, 21), metric("recall-digits@1k", 0.45, 0.4, 0.5)]
    )
    c = fabricate(tmp_path / "c")
    rows = compare_runs([a, b, c])
    assert rows[0]["steps"] == 100 and rows[0]["rate"] == 320 and rows[0]["metrics"]["fd-digits@1k"]["value"] == 10
    lines = format_comparison(rows).splitlines()
    assert (
        re.search(r"10\*\s+0\.4\*", lines[1]) and re.search(r"20\s+0\.45\*", lines[2]) and "Not measured" in lines[-1]
    )
    other = fabricate(tmp_path / "d", metrics=[metric("fd-digits@1k", 1, 1, 1)], data=INFO["data"] | {"name": "faces"})
    assert "*" not in format_comparison(compare_runs([b, other])).replace("*)", "")


# ── the monitor ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_film_has_a_frame_a_tick_and_the_grid_is_the_last(run: Path) -> None:
    with Image.open(run / "samples" / "progress.webp") as film:
        assert film.n_frames == 10 and min(film.size) > 60
    with (
        Image.open(run / "samples" / "grid.png") as grid,
        Image.open(run / "samples" / "fixed" / "00000100.png") as last,
    ):
        assert grid.tobytes() == last.tobytes()


def test_a_pipe_gets_plain_lines_and_quiet_gets_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        with Monitor(tmp_path, 100, None, quiet=quiet) as monitor:
            monitor.advance(1)
            monitor.tick(tick(10, watch={"variety": 0.5}), torch.zeros(4, 3, 8, 8))
            monitor.say("advice", "Do [bold]this[/bold].", 10)
        lines = capsys.readouterr().out.splitlines()
        assert lines == ([] if quiet else lines) and "\x1b" not in "".join(lines)
        if not quiet:
            assert lines[0].startswith("step 10 of 100 · 10 % · 0:01, 0:09 left · 320 items/s · critic 0.1")
            assert lines[1] == "Do [bold]this[/bold]."


def test_a_terminal_gets_a_progress_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen := Terminal())
    with Monitor(tmp_path, 100, None, quiet=False, tensorboard=False) as monitor:
        monitor.tick(tick(10), None)
        monitor.next_draw = 0.0
        monitor.advance(12)
        monitor.say("advice", "Rest a little.", 12)
    assert "step 12 of 100" in screen.getvalue() and "Rest a little." in screen.getvalue()


def test_the_log_holds_json_and_tensorboard_reads_its_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Monitor(tmp_path, 100, None, quiet=True) as monitor:
        monitor.tick(tick(10, watch={"variety": 0.5}), torch.zeros(4, 1, 8, 8))
        monitor.tick(tick(30), torch.zeros(4, 1, 8, 8))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert "NaN" not in lines[1] and json.loads(lines[1])["losses"]["generator"] is None
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss/critic")] == [10, 30]
    assert events.Scalars("watch/variety")[0].value == 0.5 and len(events.Images("samples")) == 2


def test_a_resumed_run_drops_what_it_will_do_again(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run")
    with open(folder / "log.jsonl", "a") as file:
        file.write('{"event": "tick", "st')  # a kill in the middle of a line
    truncate_log(folder, 55)
    assert [r["step"] for r in read_log(folder)] == [0, 10, 20, 30, 40, 50]
    assert sorted(p.stem for p in (folder / "samples" / "fixed").iterdir())[-1] == "00000050"
    with Monitor(folder, 100, None, quiet=True, tensorboard=False, resume_at=25) as monitor:
        assert monitor.seconds == 2.0
        monitor.tick(tick(35), torch.zeros(4, 1, 8, 8))
    assert [r["step"] for r in read_log(folder)] == [0, 10, 20, 35]


def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monitor = Monitor(tmp_path, 100, None, quiet=True, tensorboard=False)
    monkeypatch.setattr("genloom.monitor.open", full, raising=False)
    with pytest.raises(UserError, match="disk is full") as caught, monitor:
        monitor.tick(tick(10), None)
    assert "free some space" in str(caught.value)


def test_a_step_with_nothing_to_draw_costs_next_to_nothing(tmp_path: Path) -> None:
    def cost(monitor: Monitor) -> Iterator[float]:
        for _ in range(5):
            begun = time.perf_counter()
            for step in range(2000):
                monitor.advance(step)
            yield (time.perf_counter() - begun) / 2000

    with Monitor(tmp_path, 100, None, quiet=True, tensorboard=False) as monitor:
        assert min(cost(monitor)) < 2e-6


def test_the_page_shows_what_a_language_model_writes_and_how_it_came_to(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(SPOKEN))
    assert "genloom sample" in write_report(folder).read_text()
    with Monitor(folder, 100, None, quiet=True, tensorboard=False) as monitor:
        for step in range(10, 101, 10):
            monitor.tick(tick(step, watch={"held-out nats": 3 - step / 100}), [f"after {step} {EVIL}" + "x" * 5000])
    copied = [{"sample": 3, "length": 21, "text": "to be <or> not to be"}]
    (folder / "metrics.json").write_text(json.dumps({"metrics": [], "repeats": copied}))
    page = write_report(folder).read_text()
    assert "to be &lt;or&gt; not" in page and "repeats word for word" in page
    assert "after 100" in page and "after 10 " in page and "held-out nats" in page and EVIL not in page
    truncate_log(folder, 50)
    assert "after 100" not in write_report(folder).read_text()
