"""Sound from nothing as it is measured: near as a whole, new, and surprised by what was kept out."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from test_data_sound import wav
from torch import nn

import genloom
from genloom import measure_sound
from genloom.data import open_data
from genloom.data.audio import AudioSet
from genloom.errors import UserError
from genloom.metrics import speakers
from genloom.metrics.windows import BANDS, Windows, loudness, noise_like, statistics
from genloom.run import HEARD_IN

RATE = 8000
OPTIONS = {"seconds": 1.6, "held_out": 0.25}


def melody(seed: int, seconds: float = 10.0) -> np.ndarray:
    """Notes of a tenth to a half of a second, each of its own pitch and loudness."""
    draw, notes = np.random.default_rng(seed), []
    while sum(map(len, notes)) < seconds * RATE:
        t = np.arange(int(draw.uniform(0.1, 0.5) * RATE)) / RATE
        notes.append(draw.uniform(0.05, 0.5) * np.sin(2 * np.pi * draw.uniform(100, 2500) * t))
    return np.concatenate(notes)[: int(seconds * RATE)].astype(np.float32)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for i in range(16):
        (folder / f"song{i:02}.wav").write_bytes(wav(melody(i), RATE).getvalue())
    return folder


@pytest.fixture(scope="module")
def run(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> genloom.Run:
    folder = tmp_path_factory.mktemp("run")
    return genloom.fit("sound", songs, folder / "run", recipe="tiny", steps=2, quiet=True, data_options=OPTIONS)


@pytest.fixture(autouse=True)
def listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ear of 4 dimensions in place of Resemblyzer's."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(160 * 40, 4, bias=False))
    found = speakers.Ear("stub", "0" * 64, 4, net.eval())
    for module in (speakers, measure_sound):
        monkeypatch.setattr(module, "ear", lambda: found)


def plays(monkeypatch: pytest.MonkeyPatch, clips: list[np.ndarray]) -> None:
    """What the model makes from now on."""
    waves = [torch.from_numpy(c)[None] for c in clips]
    monkeypatch.setattr(
        measure_sound.generate, "draw", lambda model, n, **given: [waves[i % len(waves)] for i in range(n)]
    )


def figures(result: dict) -> dict[str, float]:
    return {m["name"]: m["value"] for m in result["metrics"]}


def samples(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767


# ── evaluate ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_measure_stands_beside_real_sound_and_noise(run: genloom.Run) -> None:
    result = genloom.evaluate(run)
    found, beside = figures(result), result["beside"]
    assert list(found) == ["nats", "fad-stub@12", "spectra@12", "loudness", "nearest"] and result["n"] == 12
    assert found["nats"] == pytest.approx(math.log(17), abs=0.5) and beside["nats"]["uniform"] == math.log(16)
    for name in ("fad-stub@12", "spectra@12"):
        assert {*beside[name]} == {"recordings", "codec", "training", "noise"}
        assert 0 < beside[name]["recordings"] < min(found[name], beside[name]["noise"])
    assert result["metrics"][1]["sha256"] == "0" * 64
    assert beside["loudness"]["recordings"] == pytest.approx(beside["loudness"]["noise"], abs=3)
    assert "12 windows of 1.6 s are few" in result["warnings"][0]
    page = (run.folder / "report.html").read_text()
    assert page.count("<audio") == 8 and "nearest in training" in page and "fad-stub@12" in page
    assert result["metrics"] == genloom.evaluate(run)["metrics"]  # nothing is drawn anew


def test_copies_are_found_and_can_be_heard(run: genloom.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plays(monkeypatch, [melody(i)[start : start + 2 * 12_800] for i, start in ((0, 8000), (5, 24_000), (9, 40_000))])
    result = genloom.evaluate(run)
    assert figures(result)["nearest"] < 0.3 and result["beside"]["nearest"]["recordings"] == pytest.approx(1, abs=0.2)
    heard = {p.name for p in (run.folder / HEARD_IN).iterdir()}
    assert {"0-sample 0 beside song00.made.wav", "1-sample 1 beside song05.nearest.wav"} < heard and len(heard) == 8
    made, near = (
        samples(run.folder / HEARD_IN / f"0-sample 0 beside song00.{side}.wav") for side in ("made", "nearest")
    )
    lag = np.correlate(made[2000:6000], near, "full").argmax() - len(near) + 1 + 2000
    ours, theirs = made[max(0, lag) :], near[max(0, -lag) :]
    length = min(len(ours), len(theirs))
    assert abs(lag) <= 128 and np.abs(ours[:length] - theirs[:length]).max() < 1e-3  # the same, to half a frame or so


def test_new_sound_of_the_same_kind_is_new_and_near_as_a_whole(
    run: genloom.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays(monkeypatch, [melody(100 + i, 3.2) for i in range(6)])
    result = genloom.evaluate(run)
    found, beside = figures(result), result["beside"]
    assert found["nearest"] == pytest.approx(1, abs=0.25)
    assert found["spectra@12"] < 0.5 * beside["spectra@12"]["noise"]


def test_what_cannot_be_measured_is_left_out_with_its_reason(
    run: genloom.Run, songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays(monkeypatch, [melody(100, 3.2)])

    def absent() -> None:
        raise UserError("Speakers are compared by one library more: pip install --no-deps Resemblyzer==0.1.4.")

    monkeypatch.setattr(measure_sound, "ear", absent)
    result = genloom.evaluate(run)
    assert "spectra@12" in figures(result) and not any(n.startswith("fad") for n in figures(result))
    assert result["warnings"][0].startswith("'fad' is left out: Speakers are compared by one library more")
    with pytest.raises(UserError, match="pip install --no-deps Resemblyzer"):
        genloom.evaluate(run, metrics=["fad"])
    with pytest.raises(UserError, match="Did you mean 'spectra'"):
        genloom.evaluate(run, metrics=["spectre"])
    few = open_data(songs, **{**OPTIONS, "held_out": 1 / 16}, like=run.spec)
    result = genloom.evaluate(run, few)
    assert list(figures(result)) == ["nats", "loudness", "nearest"] and result["n"] == 3
    assert "it needs 20 windows of 1.6 s that were kept out of training, and there are 6" in result["warnings"][1]


def test_nothing_is_new_where_nothing_was_kept_out(
    run: genloom.Run, songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays(monkeypatch, [melody(100, 3.2)])
    same = open_data(songs, **{**OPTIONS, "held_out": 0}, like=run.spec)
    assert isinstance(same, AudioSet) and same.held_out() is None
    assert measure_sound.measured(run, same, same, ["loudness"], 100, 0)[1] == 48
    with pytest.raises(UserError, match="needs the training sound, and other sound that was kept out of it"):
        measure_sound.measured(run, same, same, ["nearest"], 100, 0)
    short = open_data(songs, seconds=1.6, held_out=0)
    short.spans = [(0, 8000, "short.wav")]
    with pytest.raises(UserError, match="is shorter than two windows of"):
        measure_sound.measured(run, None, short, None, 100, 0)


def test_classes_are_asked_for_as_often_as_they_are(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, path in enumerate(sorted(songs.glob("*.wav"))):
        kind = tmp_path / "data" / ("rare" if i % 8 == 7 else "common")
        kind.mkdir(parents=True, exist_ok=True)
        (kind / path.name).write_bytes(path.read_bytes())
    labelled = genloom.fit(
        "sound", tmp_path / "data", tmp_path / "run", recipe="tiny", steps=1, quiet=True, data_options=OPTIONS
    )
    asked: list[torch.Tensor] = []
    draw = measure_sound.generate.draw
    monkeypatch.setattr(
        measure_sound.generate,
        "draw",
        lambda model, n, **given: asked.append(given.get("label")) or draw(model, n, **given),
    )
    assert "nats" in figures(genloom.evaluate(labelled))
    assert len(asked[0]) == 12 and set(asked[0].tolist()) <= {0, 1} and (asked[0] == 0).double().mean() > 0.5
    other = open_data(songs, **OPTIONS, like=labelled.spec)
    with pytest.raises(UserError, match="it needs the classes common, rare"):
        genloom.evaluate(labelled, other, metrics=["nats"])


# ── windows ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100])
def test_windows_follow_one_another_and_their_pictures_are_those_at_every_step(rate: int) -> None:
    windows = Windows.at(rate, 10 * rate)
    clip = torch.from_numpy(np.random.default_rng(0).normal(size=4 * rate)).float() / 10
    assert windows.seconds == pytest.approx(1.6, rel=0.05)
    cut, pictures, every = windows.cut(clip), windows.pictures(windows.cut(clip)), windows.every(clip)
    assert torch.equal(cut.flatten(), clip[: 2 * windows.samples])
    assert pictures.shape == (2, BANDS, 20) and every.shape == (len(clip) // windows.step - 18, BANDS, 19)
    torch.testing.assert_close(pictures[..., 1:-1], every[[0, 20]][..., 1:])  # but for what the ends look at
    parts = windows.parts(cut)
    assert parts.shape == (2, 5, BANDS, 19) and torch.equal(parts[:, 0], pictures[..., :-1])
    later = windows.parts(windows.cut(clip[2 * windows.mel.hop :])[:1])[0, 3, :, 1:-1]  # of the clip's first step again
    torch.testing.assert_close(later, every[1, :, 1:-1])
    short = windows.cut(clip[:100])
    assert short.shape == (1, windows.samples) and torch.equal(short[0, :100], clip[:100]) and not short[0, 100:].any()
    assert Windows.at(rate, rate // 2).seconds == pytest.approx(0.48, rel=0.05)  # whole steps of half a second


def test_statistics_loudness_and_noise_have_known_values() -> None:
    flat = torch.arange(32.0).view(2, 16, 1).expand(2, 16, 20)
    assert torch.equal(statistics(flat)[:, :16], flat[..., 0].double()) and not statistics(flat)[:, 16:].any()
    waves = torch.stack([torch.ones(800), torch.full((800,), 0.1), torch.zeros(800)])
    assert loudness(waves).tolist() == pytest.approx([0, -20, -100])
    tone = torch.sin(torch.arange(8000) * 2 * math.pi / 8).expand(3, -1) / 2
    made = noise_like(tone, 50, 0)
    power = torch.fft.rfft(made).abs().square().mean(0)
    assert power.argmax() == 1000 and float(made.square().mean()) == pytest.approx(1 / 8, rel=0.3)
