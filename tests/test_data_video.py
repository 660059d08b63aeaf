"""Folders of films to clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from films import moving, numbers, save, save_animation, save_frames
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import genloom
from genloom.cli import main
from genloom.data import find_modality, open_data
from genloom.data.film_source import read_sources
from genloom.data.inspect_video import format_report
from genloom.data.shots import Changes
from genloom.data.video import VideoSet
from genloom.errors import UserError


def opened(path: Path, **options) -> VideoSet:
    data = open_data(path, modality="video", **options)
    assert isinstance(data, VideoSet)
    return data


def shown(clips: torch.Tensor) -> list[list[int]]:
    """The codes of the frames of clips [B, C, T, H, W] at their own size."""
    return [numbers(np.array(clip.transpose(0, 1).add(1).mul(127.5))) for clip in clips]


def test_a_film_becomes_clips_that_cover_it_and_move_by_seed_and_number(tmp_path: Path) -> None:
    save(tmp_path / "a.mp4", moving(30))
    data = opened(tmp_path, frames=8, held_out=0)
    assert data.spec.shape == (3, 8, 48, 64) and len(data) == 3 and data.held_out() is None
    assert data.spec.extra == {"rate": 25.0, "fit": "keep", "background": "black"}
    clips = data.batch(np.arange(3), seed=1)["video"]
    assert clips.shape == (3, 3, 8, 48, 64) and clips.dtype == torch.float32
    assert float(clips.min()) >= -1 and float(clips.max()) <= 1 and clips.is_contiguous()
    assert torch.equal(clips[1], data.batch(np.array([1]), seed=1)["video"][0])
    assert not torch.equal(clips, data.batch(np.arange(3), seed=2)["video"])
    starts = set()
    for seed in range(40):
        for i, codes in enumerate(shown(data.batch(np.arange(3), seed=seed)["video"])):
            assert codes == list(range(codes[0], codes[0] + 8)) and codes[-1] < 30
            assert 8 * i <= codes[0] < 8 * i + 8
            starts.add(codes[0])
    assert starts == set(range(23))  # every stretch of the film comes up


def test_whole_films_are_held_out_and_sub_folders_are_classes(tmp_path: Path) -> None:
    for kind in ("high", "low"):
        for i in range(5):
            save(tmp_path / kind / f"{i}.avi", moving(9, seed=i), codec="mjpeg", pixels="yuvj420p")
    data = opened(tmp_path, frames=4, held_out=0.2)
    held = data.held_out()
    assert isinstance(held, VideoSet) and data.spec.classes == ("high", "low") == held.spec.classes
    assert [f.name for f in held.films()] == ["high/4", "low/4"] and len(held) == 4 and len(data) == 16
    batch = data.batch(np.arange(16))
    assert torch.equal(batch["label"], data.labels()) and data.labels().tolist() == [0] * 8 + [1] * 8
    assert torch.equal(held.batch(np.arange(4), seed=1)["video"], held.batch(np.arange(4), seed=2)["video"])
    assert data.summary["items"] == 10 and data.summary["frames"] == 90
    again = opened(tmp_path, frames=4, held_out=0.2, split="test")
    assert again.fingerprint == data.fingerprint and len(again) == 4


def test_of_a_few_long_films_the_end_is_held_out(tmp_path: Path) -> None:
    save(tmp_path / "a.mp4", moving(31))
    save(tmp_path / "b.mp4", moving(10, seed=2))
    data = opened(tmp_path, frames=4, held_out=0.2)
    held = data.held_out()
    assert [(f.name, f.count) for f in data.films()] == [("a", 25), ("b", 10)]
    assert [(f.name, f.count) for f in held.films()] == [("a", 6)]
    assert numbers(next(held.films()).read(0, 6)) == list(range(25, 31))
    assert max(max(codes) for s in range(9) for codes in shown(data.batch(np.arange(6), seed=s)["video"])) == 24
    assert "Too few films to keep whole ones out of training: the end of each long one is." in data.summary["notes"]


def test_folders_train_and_test_are_the_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for kind in ("x", "y"):
            for i in range(count):
                save(tmp_path / split / kind / f"{i}.mp4", moving(6))
    save(tmp_path / "test" / "x" / "wide.mp4", moving(6, 48, 96))
    data = opened(tmp_path, frames=4, size=32, mirror=True, limit=6)
    assert len(data) == 6 and len(data.held_out()) == 5 and data.held_out().spec == data.spec
    assert not data.held_out().mirror
    (tmp_path / "test" / "x").rename(tmp_path / "test" / "z")
    with pytest.raises(UserError, match="other classes"):
        data.held_out()


def test_no_clip_goes_over_a_cut(tmp_path: Path) -> None:
    scenes = [moving(20, seed=1), 255 - moving(13, seed=2), moving(5, seed=3)]
    save(tmp_path / "a.mp4", np.concatenate(scenes))
    data = opened(tmp_path, frames=6, held_out=0)
    assert data.summary["scenes"] == 2 and len(data) == 3 + 2  # the last scene is too short for a clip
    bright = [
        clip[:, :, 10:, :].mean((0, 2, 3)) for s in range(20) for clip in data.batch(np.arange(5), seed=s)["video"]
    ]
    assert all(float(b.max() - b.min()) < 0.2 for b in bright)
    whole = opened(tmp_path, frames=6, held_out=0, cuts=False)
    assert len(whole) == 6 and whole.summary["scenes"] == 1


def test_what_moves_fast_or_flashes_is_no_cut() -> None:
    def cuts(frames: np.ndarray) -> list[int]:
        changes = Changes()
        for frame in frames:
            changes.add(frame)
        return changes.cuts()

    ground = np.random.default_rng(0).integers(0, 256, (3, 48, 400), np.uint8)
    fast = np.stack([ground[:, :, 7 * t : 7 * t + 64] for t in range(40)])
    assert cuts(fast) == []  # every frame is another
    film = moving(40)
    assert cuts(film) == []
    film[20] = 255  # a flash
    assert cuts(film) == []
    film[30:] = 255 - film[30:]
    assert cuts(film) == [30]
    fade = np.stack([(film[0] * (1 - t / 20)).astype(np.uint8) for t in range(20)])
    assert cuts(fade) == []


def test_4k_becomes_small_unasked_and_sizes_are_multiples_of_16(tmp_path: Path) -> None:
    save(tmp_path / "big.mp4", np.zeros((2, 3, 2160, 3840), np.uint8))
    data = opened(tmp_path, frames=2)
    assert data.spec.shape == (3, 2, 128, 224)
    assert "Frames become 224x128 (size and fit set others)." in data.summary["notes"]
    assert opened(tmp_path, frames=2, size=32, fit="crop").spec.shape == (3, 2, 32, 32)


@given(
    height=st.integers(17, 90),
    width=st.integers(24, 90),
    count=st.integers(1, 12),
    rate=st.sampled_from([5.0, 24.0, 29.97, 50.0]),
    fit=st.sampled_from(["keep", "crop", "pad", "stretch"]),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_films_of_any_length_size_and_rate(
    tmp_path: Path, height: int, width: int, count: int, rate: float, fit: str
) -> None:
    (tmp_path / "a.mkv").unlink(missing_ok=True)
    save(tmp_path / "a.mkv", moving(count, height, width), rate, codec="ffv1", pixels="bgr0")
    kept = count if rate <= 30 else -(-count // 2)
    try:
        data = opened(tmp_path, frames=4, fit=fit, held_out=0)
    except UserError as error:
        assert kept <= 4 and "has a scene of 4 frames" in str(error)
        return
    assert abs(len(next(data.films()).read(0, 99)) - kept) <= (rate > 30)
    _, frames, h, w = data.spec.shape
    assert frames == 4 and h % 16 == w % 16 == 0 and min(h, w) >= 16
    assert data.spec.extra["rate"] == (25 if rate == 50 else rate)
    assert data.batch(np.arange(len(data)))["video"].shape == (len(data), 3, 4, h, w)


def test_other_rates_are_brought_to_the_commonest(tmp_path: Path) -> None:
    for name, rate in (("a", 25), ("b", 25), ("c", 50)):
        save(tmp_path / f"{name}.mp4", moving(20), rate)
    data = opened(tmp_path, frames=4, held_out=0)
    assert data.spec.extra["rate"] == 25 and [f.count for f in data.films()] == [20, 20, 10]
    assert numbers(list(data.films())[2].read(0, 10)) == list(range(0, 20, 2))
    assert data.summary["notes"][0] == "1 of 3 films have another rate: at 25 frames a second, the nearest."
    assert [f.count for f in opened(tmp_path, frames=4, rate=12.5, held_out=0).films()] == [10, 10, 5]


def test_frames_in_folders_and_animations_are_films_where_the_model_asks_for_them(tmp_path: Path) -> None:
    save_frames(tmp_path / "x", moving(12))
    save_frames(tmp_path / "y", moving(9))
    assert find_modality(tmp_path) == "image"
    data = opened(tmp_path, frames=4, held_out=0)
    assert [(f.name, f.count) for f in data.films()] == [("x", 12), ("y", 9)] and data.spec.classes == ()
    assert numbers(next(data.films()).read(0, 12)) == list(range(12))
    assert "25 are taken (rate)" in data.summary["notes"][0]
    alone = opened(tmp_path / "x", frames=4, rate=10)
    assert alone.spec.extra["rate"] == 10 and [f.name for f in alone.films()] == ["x"]
    save_animation(tmp_path / "z" / "a.gif", moving(8))
    save(tmp_path / "z" / "b.mp4", moving(8))
    assert find_modality(tmp_path / "z" / "b.mp4") == "video"
    assert [f.name for f in opened(tmp_path, frames=4, held_out=0).films()] == ["x", "y", "z/b"]


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    save(tmp_path / "a.mp4", moving(12))
    save(tmp_path / "b.mp4", moving(12), turn=90)
    save(tmp_path / "c.mkv", moving(12), times=[0, 4, 8, 12, 30, 34, 38, 42, 46, 50, 54, 58])
    save(tmp_path / "one.mp4", moving(1))
    save(tmp_path / "small.mp4", moving(12, 24, 32))
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    broken = save(tmp_path / "d.mkv", moving(60))
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    data = opened(tmp_path, frames=4, held_out=0)
    assert data.summary["skipped"] == {"count": 1, "files": {"bad.mp4": "no film that can be read"}}
    said = "\n".join(data.summary["notes"])
    for what in (
        "1 of 6 films have a variable rate: the frame nearest in time is taken.",
        "1 of 6 films are of another shape: what is beyond is cut off.",
        "1 of 6 films are smaller and were enlarged.",
        "1 of 6 films were filmed turned, and are set upright.",
        "1 films are not whole, such as d.mkv: broken off: the first ",
        "1 films have no scene of 4 frames and are left out, such as one.mp4 (frames sets another length).",
    ):
        assert what in said, said
    assert data.summary["items"] == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 100}, "size must be a multiple of 16 from 16 to 4096, not 100"),
        ({"frames": 1}, "frames must be from 2"),
        ({"rate": 1000}, "rate must be from 0.1 to 240"),
        ({"fit": "squash"}, "fit must be keep, crop, pad or stretch"),
        ({"background": "blakc"}, "'blakc' is no colour"),
        ({"sise": 64}, "Did you mean 'size'"),
        ({"split": "tset"}, "Did you mean 'test'"),
        ({"frames": 200}, r"No film in '.*' has a scene of 200 frames at 25 a second, such as 'a.mp4'"),
        ({"split": "test", "frames": 12}, "holds too little to keep some out"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, options: dict, said: str) -> None:
    save(tmp_path / "a.mp4", moving(12))
    with pytest.raises(UserError, match=said):
        opened(tmp_path, **options)


def test_no_films(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no film: give"):
        opened(tmp_path)
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(UserError, match=r"holds no film, but other files, such as a\.txt"):
        opened(tmp_path)
    (tmp_path / "a.mp4").write_text("words")
    with pytest.raises(UserError, match=r"No film in '.*' can be used, such as 'a.mp4': no film that can be read"):
        opened(tmp_path)


def test_too_large_for_this_machine_is_said_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.mp4", np.zeros((20, 3, 720, 1280), np.uint8))
    monkeypatch.setattr("genloom.data.shelf.memory_free", lambda: 4e9)
    with pytest.raises(UserError, match=r"takes about 17.7 GB, and 4.0 GB of memory are free: give --data.size 304"):
        opened(tmp_path, size=720)
    assert opened(tmp_path, size=304, frames=8).spec.shape == (3, 8, 304, 544)
    monkeypatch.setattr("genloom.data.shelf.IN_MEMORY", 1e6)
    monkeypatch.setattr("genloom.data.shelf.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e6}))
    with pytest.raises(UserError, match=r"as frames, and .* has 1 MB free: give --data.size 80, a lower --data.rate"):
        opened(tmp_path, size=304, frames=8)
    monkeypatch.undo()


def test_many_frames_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.mp4", moving(30))
    whole = opened(tmp_path, frames=4)
    monkeypatch.setattr("genloom.data.growing.IN_MEMORY", 50_000)
    onto = opened(tmp_path, frames=4)
    assert onto.shelf.row.file is not None and len(onto.shelf.row.pieces) == 0
    assert torch.equal(onto.batch(np.arange(5))["video"], whole.batch(np.arange(5))["video"])
    assert numbers(next(onto.films()).read(24, 99)) == [24, 25]


def test_half_of_the_clips_are_mirrored_where_asked_for(tmp_path: Path) -> None:
    for i in range(8):
        save(tmp_path / f"{i}.mp4", moving(4))
    plain, mirrored = (
        opened(tmp_path, frames=4, held_out=0, mirror=m).batch(np.arange(8))["video"] for m in (False, True)
    )
    flips = [bool((m == p.flip(-1)).all()) for m, p in zip(mirrored, plain, strict=True)]
    assert 1 < sum(flips) < 7 and all(f or torch.equal(m, p) for f, m, p in zip(flips, mirrored, plain, strict=True))


def test_other_data_are_made_like_those_of_a_run(tmp_path: Path) -> None:
    save(tmp_path / "a" / "a.mp4", moving(20))
    save(tmp_path / "b" / "b.mp4", moving(20, 96, 80), 50)
    spec = opened(tmp_path / "a", frames=4).spec
    assert opened(tmp_path / "b", like=spec).spec == spec
    assert opened(tmp_path / "b", like=spec, size=32, frames=2).spec.shape == (3, 2, 32, 32)


def test_sources_are_read_frame_by_frame(tmp_path: Path) -> None:
    save(tmp_path / "f" / "a.mp4", moving(20), 50)
    save(tmp_path / "f" / "b.mp4", moving(8))
    spec = opened(tmp_path / "f", frames=4, rate=25).spec
    films, names = read_sources(tmp_path / "f", spec)
    assert names == ["a.mp4", "b.mp4"] and [(f.name, f.rate, f.count) for f in films] == [
        ("a.mp4", 25, 10),
        ("b.mp4", 25, 8),
    ]
    frames = list(films[0])
    assert len(frames) == 10 and frames[0].shape == (1, 3, 48, 64) and frames[0].dtype == torch.float32
    assert shown(torch.stack(frames, 2)) == [list(range(0, 20, 2))]
    with pytest.raises(UserError, match="nothing at"):
        read_sources(tmp_path / "g", spec)
    (tmp_path / "f" / "c.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"'c.mp4' in '.*' cannot be read"):
        read_sources(tmp_path / "f", spec)


# ── the preflight ────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_preflight(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.mp4", np.concatenate([moving(20), 255 - moving(30)]))
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    save(tmp_path / "c.mp4", moving(40), 50, turn=90)
    save(tmp_path / "d.mkv", moving(6), times=[0, 4, 8, 20, 24, 28])
    save(tmp_path / "one.mp4", moving(1))
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    (tmp_path / "notes.txt").write_text("words")
    broken = save(tmp_path / "e.mkv", moving(60))
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    facts = genloom.inspect(tmp_path, frames=8)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["films"] == 6 and facts["shortest"] == 0.04 and facts["longest"] == 2 and facts["cuts"] == 2
    assert facts["rates"] == {"25": 5, "50": 1} and facts["sizes"] == {"64x48": 5, "48x64": 1}
    assert (
        facts["turned"] == ["c.mp4"] and facts["variable"] == ["d.mkv"] and facts["duplicates"] == [["a.mp4", "b.mp4"]]
    )
    assert facts["short"] == ["one.mp4"] and facts["unreadable"] == {"bad.mp4": "no film that can be read"}
    assert list(facts["broken"]) == ["e.mkv"] and facts["problems"] == []
    data = opened(tmp_path, frames=8, held_out=0)
    assert facts["fit"]["items"] == len(data) and facts["fit"]["shape"] == list(data.spec.shape)
    assert facts["fit"]["rate"] == data.spec.extra["rate"]
    main(["data", "inspect", str(tmp_path), "--data.frames", "100"])
    text = capsys.readouterr().out
    for what in ("a.mp4 = b.mp4", "bad.mp4: no film", "64x48 in 5", "notes.txt", "PROBLEM", "--data.source edges"):
        assert what in text
    monkeypatch.setattr("genloom.data.shelf.memory_free", lambda: 1e6)
    assert "give --data.size 16" in genloom.inspect(tmp_path)["problems"][0]


def test_the_preflight_of_pairs_and_of_what_comes_along(tmp_path: Path) -> None:
    save(tmp_path / "source" / "a.mp4", moving(9))
    save(tmp_path / "target" / "a.mp4", moving(9))
    assert "1 targets in 'target/', in pairs" in genloom.inspect(tmp_path)["notes"][-1]
    save(tmp_path / "target" / "b.mp4", moving(9))
    assert "'target/b.mp4' has no partner" in genloom.inspect(tmp_path)["notes"][-1]
    facts = genloom.inspect("carphone")
    assert facts["films"] == 1 and facts["sizes"] == {"176x144": 1} and "BSD" in format_report(facts)
