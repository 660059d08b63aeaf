"""Measuring films: made again beside what is real, or made from nothing as sets of clips; and what is kept to be seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stand_ins import SIDE, Films, Moving, Smoother, probed, saved

from genloom import measure, measure_clips, measure_video
from genloom.core import Spec
from genloom.data.base import Dataset
from genloom.errors import UserError
from genloom.run import WEIGHTS, Run


@pytest.fixture(scope="module")
def smoother(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return saved(tmp_path_factory.mktemp("run") / "run", "smoother_for_test", Films().spec, {"weight": torch.zeros(1)})


def figures(result: dict[str, Any], name: str) -> tuple[float, dict[str, float]]:
    """A figure by its measure, and the same of other sides."""
    found = next(m for m in result["metrics"] if m["name"].split("-")[0].split("@")[0] == name)
    assert found["low"] <= found["value"] <= found["high"]
    return found["value"], result["beside"][found["name"]]


# ── films made again ─────────────────────────────────────────────────────────────────────────────────────────────
def test_films_are_measured_beside_the_input_and_the_model_without_memory(smoother: Run) -> None:
    result = measure.evaluate_run(smoother, Films())
    assert json.loads((smoother.folder / "metrics.json").read_text()) == result
    assert result["n"] == 41 and result["films"] == 2 and result["frames_a_second"] > 0
    better = {"psnr": 1, "ssim": 1, "perceptual": -1, "warping": -1, "motion": -1, "flicker": -1, "fvd": -1}
    for name, sign in better.items():
        made, beside = figures(result, name)
        assert sign * made > sign * beside["per frame"], name
        assert beside["per frame"] == pytest.approx(beside["input"], rel=1e-4), name  # alone it gives back its source
    assert figures(result, "warping")[1]["real"] < 1e-6  # still scenes
    assert figures(result, "flicker")[1]["input"] == pytest.approx(
        20 * 2**0.5, rel=0.05
    )  # of two frames' noise, a few values cut off
    names = [m["name"] for m in result["metrics"]]
    assert "fvd-lite0@11×16" in names and "warping-dis" in names and "perceptual-lite0" in names


def test_figures_do_not_depend_on_how_films_are_cut_into_pieces(smoother: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["psnr", "warping", "flicker", "motion"]
    whole = measure.evaluate_run(smoother, Films(), metrics=wanted)
    monkeypatch.setattr(measure_video, "PIECE", 7)
    pieces = measure.evaluate_run(smoother, Films(), metrics=wanted)
    for name in wanted:
        assert figures(pieces, name)[0] == pytest.approx(figures(whole, name)[0], rel=1e-5), name


def test_source_made_and_real_are_kept_side_by_side(smoother: Run) -> None:
    (smoother.folder / "samples" / "seen").mkdir(parents=True, exist_ok=True)
    (smoother.folder / "samples" / "seen" / "old.mp4").write_bytes(b"of other data")
    measure.evaluate_run(smoother, Films(), metrics=["psnr"])
    folder = smoother.folder / "samples" / "seen"
    assert sorted(p.name for p in folder.iterdir()) == ["0-part_0.mp4", "1-part_1.mp4"]
    header = probed(folder / "0-part_0.mp4")
    assert (header.width, header.height, header.count, header.rate) == (3 * SIDE, SIDE, 24, 10.0)


def test_fewer_frames_are_made_where_fewer_are_asked_for(smoother: Run) -> None:
    result = measure.evaluate_run(smoother, Films(), metrics=["psnr"], n=30)
    assert result["n"] == 30 and any("first 30 frames" in w for w in result["warnings"])


def test_few_frames_have_no_distance_between_sets_but_say_so(smoother: Run) -> None:
    result = measure.evaluate_run(smoother, Films((18,)), extractor="digits", metrics=["psnr", "fvd"])
    assert [m["name"] for m in result["metrics"]] == ["psnr"]
    assert any("too few" in w for w in result["warnings"])


def test_intervals_are_over_films_or_over_stretches_of_few() -> None:
    films = [torch.full((16,), float(i)) for i in range(12)]
    many = measure_video.estimate(films, "")
    assert many.value == 5.5 and "12 films" in many.note and many.interval()[0] < 4
    few = measure_video.estimate([torch.tensor([1.0, 2.0, float("nan"), 3.0] * 4)], "")
    assert few.value == 2.0 and f"2 stretches of {measure_video.STRETCH}" in few.note


@pytest.mark.parametrize(
    ("channels", "given", "palette"), [(3, 1, None), (1, 3, None), (3, 3, None), (3, 3, "#000 #fff")]
)
def test_a_source_is_a_baseline_where_it_is_a_picture(channels: int, given: int, palette: str | None) -> None:
    model = Smoother(Spec("video", (channels, 8, 16, 16), extra={"palette": palette}))
    source = np.full((2, given, 16, 16), 100, np.uint8)
    found = measure_video.as_target(source, model)
    assert (found is None) == bool(palette)
    assert found is None or (found.shape == (2, channels, 16, 16) and (found == 100).all())


def test_films_of_another_size_or_without_sources_are_refused(smoother: Run) -> None:
    other = Films()
    other.spec = Spec("video", (3, 8, SIDE, 2 * SIDE), extra=other.spec.extra)
    with pytest.raises(UserError, match="32 × 32 pixels, 3 planes to 3, and those of 'scenes' are of 64 × 32"):
        measure.evaluate_run(smoother, other)
    with pytest.raises(UserError, match="give pairs of films"):
        measure.evaluate_run(smoother, Moving())


def test_an_unknown_measure_of_films_is_named(smoother: Run) -> None:
    with pytest.raises(UserError, match="Did you mean 'psnr'"):
        measure.evaluate_run(smoother, Films(), metrics=["psmr"])


# ── clips from nothing ───────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Shows training clips again, ten classes in four versions."""
    data = Moving()
    labels = data.labels()
    rows = [int((labels == y).nonzero()[k % int((labels == y).sum())]) for k in range(4) for y in range(10)]
    clips = data.batch(np.array(rows))["video"]
    return saved(tmp_path_factory.mktemp("run") / "run", "clips_for_test", data.spec, {"clips": clips})


def test_clips_are_measured_as_sets_and_copies_are_found(maker: Run) -> None:
    data = Moving(other=Moving(first=200))
    own = Looker(maker, data)
    result = own.evaluate(n=60)
    names = [m["name"] for m in result["metrics"]]
    assert names[0] == "kvd-digits@60×6" and "fvd-digits@60×6" in names and result["counted"] == "clips"
    copies = next(m["value"] for m in result["metrics"] if m["name"] == "nearest")
    assert copies < 0.3
    assert figures(result, "labels")[0] > 0.9 and figures(result, "labels")[1]["real"] > 0.9
    assert figures(result, "steady")[0] > 0.9
    assert set(figures(result, "fvd")[1]) == {"training clips"}
    assert sum(result["classes"]["counts"].values()) == 60
    assert (maker.folder / "samples" / "nearest.png").stat().st_size > 0


class Looker:
    """Evaluates a run as if `data` were what it was trained on."""

    def __init__(self, run: Run, data: Dataset):
        self.run, self.data = run, data

    def evaluate(self, n: int, metrics: list[str] | None = None) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measure, "own_data", lambda run: (self.data, ""))
            return measure.evaluate_run(self.run, n=n, metrics=metrics)


def test_clips_that_flicker_or_change_are_farther_than_real_ones(maker: Run, tmp_path: Path) -> None:
    good = maker.load_tensors(WEIGHTS)[0]["clips"]
    changing = torch.cat([good[:, :, :3], good.roll(1, 0)[:, :, 3:]], 2)  # becomes another digit half way
    data = Moving(other=Moving(first=200))
    poor = saved(tmp_path / "run", "clips_for_test", data.spec, {"clips": changing})
    found = [Looker(run, data).evaluate(60, ["fvd", "steady"]) for run in (maker, poor)]
    assert figures(found[0], "fvd")[0] < 0.7 * figures(found[1], "fvd")[0]
    assert figures(found[1], "steady")[0] < 0.2


def test_clips_of_another_shape_are_refused(maker: Run) -> None:
    other = Moving()
    other.spec = Spec("video", (1, 7, 64, 64), other.spec.classes, {"rate": 10.0})
    with pytest.raises(UserError, match="1 × 6 × 64 × 64 and 'moving-digits' holds 1 × 7"):
        measure.evaluate_run(maker, other)
    with pytest.raises(UserError, match="Did you mean 'steady'"):
        measure.evaluate_run(maker, Moving(), metrics=["steadi"])
    assert measure_clips.CLIPS >= measure.FEWEST
