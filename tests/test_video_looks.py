"""What a person sees of films: at looks in training, on the report, and as files that a run writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import SIDE, Films, Mean, Moving, Smoother, probed, saved
from test_report import Page
from torch import Tensor

import genloom
from genloom import cli, generate, measure
from genloom.again import again
from genloom.data import draw
from genloom.data.film import Reader, Screen
from genloom.data.film_files import reels
from genloom.data.video import Writer
from genloom.errors import UserError
from genloom.objectives.films import beside
from genloom.report import seen as seen_module
from genloom.report import write_model_card, write_report
from genloom.run import Run
from genloom.watch import Watch


# ── looks in training ────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = Moving(other=Moving(first=200, count=20))
    return genloom.fit(Mean, data, tmp_path_factory.mktemp("run") / "run", recipe="tiny", quiet=True)


def test_a_clip_is_a_row_of_the_grid_and_plays_on_the_wall(trained: Run) -> None:
    samples = trained.folder / "samples"
    with Image.open(samples / "grid.png") as grid:
        assert grid.size == (6 * 66 + 2, 6 * 66 + 2)  # six frames of 64, two pixels apart; a row for each of six clips
    with Image.open(samples / "clips.webp") as wall:
        assert wall.n_frames == 6 and wall.size == (4 * 66 + 2, 2 * 66 + 2)
        wall.load()
        assert wall.info["duration"] == 100  # ten frames a second
    with Image.open(samples / "progress.webp") as film:
        film.load()
    (still,) = (samples / "fixed").glob("*.png")
    with Image.open(still) as middle:
        assert middle.size == (6 * 66 + 2, 66 + 2)  # the middle frame of each


def test_the_log_of_clips_has_variety_and_unseen_losses(trained: Run) -> None:
    last = json.loads((trained.folder / "log.jsonl").read_text().splitlines()[-2])
    assert {"variety", "twins", "held-out squares"} <= set(last["watch"])


def test_clips_are_watched_by_their_middle_frames() -> None:
    clips = torch.rand(16, 1, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    same = clips.clone()
    same[:, :, 2] = clips[:1, :, 2]  # collapsed there, whatever is before and after
    for samples, variety in ((clips, 1.0), (same, 0.0)):
        seen, _ = Watch(clips).look(samples, None, None, None, {})
        assert seen["variety"] == pytest.approx(variety, abs=1e-6)


@pytest.mark.parametrize(("frames", "shown"), [(1, [0]), (3, [0, 1, 2]), (15, [0, 2, 4, 6, 8, 10, 12, 14])])
def test_a_strip_shows_frames_evenly_spaced(frames: int, shown: list[int]) -> None:
    clip = torch.linspace(-1, 1, 15)[:frames].view(1, 1, frames, 1, 1).expand(1, 1, frames, 4, 4)
    strip = draw.strips(clip)
    assert strip.shape == (1, 1, 4, 6 * len(shown) - 2)
    torch.testing.assert_close(strip[0, 0, 0, ::6], torch.linspace(-1, 1, 15)[shown])


@pytest.mark.parametrize("planes", [1, 3, 8])
def test_a_source_is_shown_before_what_is_made_of_it(planes: int) -> None:
    source, made = torch.full((2, planes, 4, 16, 16), -1.0), torch.zeros(2, 3, 4, 16, 16)
    source[0, 0], source[1, -1] = 1, 1  # of labels: all of the first, all of the last
    sheet = beside(source, made)
    assert sheet.shape == (4, 3, 4, 16, 16) and not sheet[1::2].any()
    assert (sheet[0] == sheet[0, :, :1, :1, :1]).all() and sheet.abs().max() <= 1
    assert planes == 1 or float((sheet[0] - sheet[2]).abs().mean()) > 0.3  # two colours


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_page_of_clips_plays_them(trained: Run) -> None:
    page = Page(write_report(trained.folder).read_text(encoding="utf-8"))
    assert page.tags.count("img") == 3 and all(x.startswith("data:image/") for x in page.loads)
    for words in ("64 × 64 grey, 6 frames at 10 a second", "Frame by frame.", "middle frames of the same clips"):
        assert words in page.words, words
    assert "Watch it" not in page.words and "-n 64" in page.words
    assert "samples/grid.png" in write_model_card(trained.folder).read_text(encoding="utf-8")


@pytest.fixture
def smoother(tmp_path: Path) -> Run:
    return saved(tmp_path / "run", "smoother_for_test", Films().spec, {"weight": torch.zeros(1)})


def test_films_stand_on_the_page_beside_figures_and_baselines(smoother: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Page(write_report(smoother.folder).read_text(encoding="utf-8"))
    assert "to watch beside the real ones" in before.words and "--source FILM.mp4" in before.words
    measure.evaluate_run(smoother, Films(), metrics=["psnr", "warping"])
    text = write_report(smoother.folder).read_text(encoding="utf-8")
    page = Page(text)
    films = [x for x in page.loads if x.startswith("data:video/mp4;base64,")]
    assert len(films) == 2 and page.tags.count("video") == 2 and "script" not in page.tags
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy and "media-src data:" in policy[1]  # else no browser plays them, nor sounds
    for words in ("sourcemadereal", "part_0", "per frame", "input", "warping-dis", "Films that were kept out"):
        assert words in page.words, words
    monkeypatch.setattr(seen_module, "LARGEST", 10)
    small = Page(write_report(smoother.folder).read_text(encoding="utf-8"))
    assert "video" not in small.tags and "is too large for this page" in small.words and "0-part_0.mp4" in small.words


# ── films made of films ──────────────────────────────────────────────────────────────────────────────────────────
def film(path: Path, count: int, seed: int = 0) -> np.ndarray:
    """A film of noise on grey, written and given back."""
    frames = np.random.default_rng(seed).normal(120, 20, (count, 3, SIDE, SIDE)).clip(0, 255).astype(np.uint8)
    with Writer(path, 10.0) as file:
        for frame in frames:
            file.add(frame)
    return frames


def frames_of(path: Path, width: int = SIDE) -> np.ndarray:
    return np.stack(list(Reader(reels(path)[1][0], Screen(SIDE, width, 3), 10.0))).astype(np.float32)


def test_a_film_is_made_of_a_film_frame_by_frame(
    smoother: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film(tmp_path / "in.mp4", 30)
    cli.main(["sample", str(smoother.folder), "--source", str(tmp_path / "in.mp4"), "--out", str(tmp_path / "out.mp4")])
    assert "1 samples in" in capsys.readouterr().out
    source, made = frames_of(tmp_path / "in.mp4"), frames_of(tmp_path / "out.mp4")
    assert made.shape == source.shape
    assert np.abs(made[-1] - source.mean(0)).mean() < 2  # what the model says: the mean so far
    assert made[-1].std() < 0.4 * source[-1].std()
    (whole,) = genloom.sample(smoother, source=str(tmp_path / "in.mp4"))
    assert whole.shape == (3, 30, SIDE, SIDE)
    assert np.abs((whole[:, -1].numpy() + 1) * 127.5 - source.mean(0)).mean() < 1


def test_memory_does_not_grow_with_the_film(smoother: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are written as they are made: when the last source frame is read, all those before it are there."""
    film(tmp_path / "in.mp4", 12)
    ahead = list[int]()
    stream, add = Smoother.stream, Writer.add

    def watched(self: Smoother, frames: object, **given: object) -> object:
        def counted() -> object:
            for number, frame in enumerate(frames):  # type: ignore[arg-type]
                ahead.append(number - written[0])
                yield frame

        return stream(self, counted(), **given)  # type: ignore[arg-type]

    written = [0]

    def counting(self: Writer, frame: np.ndarray) -> None:
        add(self, frame)
        written[0] += 1

    monkeypatch.setattr(Smoother, "stream", watched)
    monkeypatch.setattr(Writer, "add", counting)
    generate.films_to(smoother, tmp_path / "out.mp4", tmp_path / "in.mp4")
    assert written[0] == 12 and max(ahead) == 0


@pytest.mark.parametrize(("form", "ending"), [("gif", ".gif"), ("webp", ".webp"), ("frames", ""), (None, ".mp4")])
def test_several_films_go_into_a_folder_in_the_form_asked_for(
    smoother: Run, tmp_path: Path, form: str | None, ending: str
) -> None:
    for i, name in enumerate(("a", "b")):
        film(tmp_path / "in" / f"{name}.mp4", 8, i)
    paths, notes = generate.films_to(smoother, tmp_path / "out", tmp_path / "in", form=form, beside=True)
    assert [p.name for p in paths] == [f"a{ending}", f"b{ending}"] and not notes
    header = probed(paths[0])
    assert (header.width, header.height, header.count) == (2 * SIDE, SIDE, 8)


def test_one_name_does_not_hold_two_films(smoother: Run, tmp_path: Path) -> None:
    for i, name in enumerate(("a", "b")):
        film(tmp_path / "in" / f"{name}.mp4", 8, i)
    with pytest.raises(UserError, match="2 samples are asked for"):
        generate.films_to(smoother, tmp_path / "out.mp4", tmp_path / "in")
    with pytest.raises(UserError, match=r"does not end in \.gif"):
        generate.films_to(smoother, tmp_path / "out.mp4", tmp_path / "in" / "a.mp4", form="gif")
    with pytest.raises(UserError, match="There is nothing at"):
        generate.films_to(smoother, tmp_path / "out.mp4", tmp_path / "absent.mp4")


@pytest.mark.parametrize("provenance", [True, False])
def test_frames_appear_all_at_once_in_place_of_an_older_film(
    smoother: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provenance: bool
) -> None:
    film(tmp_path / "a.mp4", 4)
    older = tmp_path / "out" / "a"
    older.mkdir(parents=True)
    for name in ("00000.png", "00009.png", "mine.png"):
        (older / name).write_bytes(b"older")
    asked = {"form": "frames", "provenance": provenance}
    add = Writer.add

    def stopped(self: Writer, frame: np.ndarray) -> None:
        add(self, frame)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Writer, "add", stopped)
        generate.films_to(smoother, tmp_path / "out", tmp_path / "a.mp4", **asked)  # type: ignore[arg-type]
    assert {p.read_bytes() for p in older.iterdir()} == {b"older"} and list(older.parent.iterdir()) == [older]
    generate.films_to(smoother, tmp_path / "out", tmp_path / "a.mp4", **asked)  # type: ignore[arg-type]
    assert sorted(p.name for p in older.iterdir()) == [*(f"{i:05d}.png" for i in range(4)), "mine.png"]
    assert (older / "00000.png").read_bytes() != b"older"


# ── clips from nothing ───────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def maker(tmp_path: Path) -> Run:
    shade = torch.linspace(-0.9, 0.9, 40).view(40, 1, 1, 1, 1) + torch.linspace(0, 0.1, 6).view(6, 1, 1)
    clips = shade.expand(40, 1, 6, SIDE, SIDE).contiguous()
    spec = Moving().spec
    spec = type(spec)("video", (1, 6, SIDE, SIDE), spec.classes, spec.extra)
    return saved(tmp_path / "run", "clips_for_test", spec, {"clips": clips})


def test_the_ending_of_a_name_says_what_a_clip_becomes(maker: Run, tmp_path: Path) -> None:
    for ending in ("mp4", "gif", "webp"):
        path = tmp_path / f"nine.{ending}"
        cli.main(["sample", str(maker.folder), "--label", "9", "--frames", "4", "--out", str(path)])
        assert len(frames_of(path)) == 4
        assert frames_of(path)[0].mean() / 127.5 - 1 == pytest.approx(-0.9 + 1.8 * 9 / 39, abs=0.03)
        if ending != "mp4":
            assert again(path, maker.folder, tmp_path / "again")[1] == ""
            with Image.open(path) as shown:
                assert shown.info["loop"] == 0  # for ever
    paths = generate.to_files(maker, 3, tmp_path / "v1.2", form="frames")  # a folder, whatever follows its dot
    assert [len(list(p.iterdir())) for p in paths] == [6, 6, 6]
    with pytest.raises(UserError, match="3 samples are asked for"):
        generate.to_files(maker, 3, tmp_path / "out.mp4")


def test_what_a_run_cannot_do_with_films_is_said(
    maker: Run, trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["sample", str(maker.folder), "--beside"], "--beside shows the source"),
        (["sample", str(maker.folder), "--form", "avi"], "--form"),
        (["sample", str(trained.folder), "--frames", "9"], "no condition 'frames'"),
        (["sample", str(trained.folder), "-n", "2", "--out", "a.gif"], "2 samples are asked for"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2 and said in capsys.readouterr().err


def test_a_prompt_is_read_as_the_model_s_own_frames(maker: Run, tmp_path: Path) -> None:
    frames = film(tmp_path / "in.mp4", 5)
    model = generate.load(maker)
    model.conditions = (*model.conditions, "prompt")  # type: ignore[misc]
    read = generate.checked(model, {"prompt": str(tmp_path / "in.mp4")})["prompt"]
    assert isinstance(read, Tensor) and read.shape == (1, 5, SIDE, SIDE)
    assert float(read.mean()) == pytest.approx(frames.mean() / 127.5 - 1, abs=0.02)
