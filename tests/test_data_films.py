"""Films that become films: pairs, and sources made from targets."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from films import moving, numbers, save, save_frames
from PIL import Image
from test_data_video import shown

from genloom.data import motion, open_data
from genloom.data.derive import DERIVED, channels_of, derive, edges, palette_of
from genloom.data.detect import FILES
from genloom.data.film_source import read_sources
from genloom.data.films import FilmSet
from genloom.data.streets import Street
from genloom.errors import UserError
from genloom.nn.warp import warp


def opened(path: Path | str, **options) -> FilmSet:
    data = open_data(path, modality="video", needs="films", **options)
    assert isinstance(data, FilmSet)
    return data


def pairs(path: Path, counts: dict[str, tuple[int, int]]) -> Path:
    """Of each name a target of so many frames, and as its source the negative of so many."""
    for name, (target, source) in counts.items():
        save(path / "target" / f"{name}.mp4", moving(target))
        save(path / "source" / f"{name}.avi", 255 - moving(source), codec="mjpeg", pixels="yuvj420p")
    return path


def test_sources_and_targets_of_one_name_go_together_frame_by_frame(tmp_path: Path) -> None:
    data = opened(pairs(tmp_path, {"a": (12, 12), "b": (9, 9)}), frames=4, held_out=0)
    assert data.spec.shape == (3, 4, 48, 64) and len(data) == 5
    assert data.spec.extra == {
        "rate": 25.0,
        "fit": "keep",
        "background": "black",
        "source_channels": 3,
        "source": "",
        "serves": ["films"],
    }
    batch = data.batch(np.arange(5), seed=3)
    assert batch.keys() == {"video", "source"} and batch["source"].shape == (5, 3, 4, 48, 64)
    assert float((batch["video"] + batch["source"]).abs().mean()) < 0.1  # negatives of one another
    assert shown(batch["video"]) == shown(-batch["source"])
    films = list(data.films())
    assert [(f.name, f.count) for f in films] == [("a", 12), ("b", 9)]
    assert numbers(films[0].read(3, 5)) == [3, 4] == numbers(255 - films[0].source(3, 5))


def test_pairs_of_unequal_length_end_with_the_shorter_and_broken_ones_with_what_decodes(tmp_path: Path) -> None:
    pairs(tmp_path, {"a": (12, 8), "b": (8, 12), "c": (8, 9)})
    data = opened(tmp_path, frames=4, held_out=0)
    assert [f.count for f in data.films()] == [8, 8, 8]
    assert "2 pairs are of unequal length and end with the shorter, such as a.mp4." in data.summary["notes"]
    assert numbers(list(data.films())[1].read(0, 8)) == list(range(8))


@pytest.mark.parametrize(
    ("made", "options", "said"),
    [
        ({}, {}, r"holds no film: give"),
        ({"target/a.mp4": 5}, {}, r"has no films in source/ and target/: give pairs of films"),
        (
            {"target/a.mp4": 5, "target/b.mp4": 5, "source/a.mp4": 5},
            {},
            r"'target/b.mp4' has no partner .* in 'source/'",
        ),
        ({"target/a.mp4": 5, "source/a.mp4": 5}, {"source": "edgse"}, "Did you mean 'edges'"),
        ({"target/a.mp4": 5, "source/a.mp4": 5}, {"flow": "diss"}, "Did you mean 'dis'"),
        ({"target/a.mp4": 5, "source/a.mp4": 5}, {"palette": "none.txt"}, "palette 'none.txt' is no file"),
        ({"target/a.mp4": 5, "source/a.mp4": 5}, {"palette": "1"}, "2 to 64 labels, not 1"),
        ({"target/a.mp4": 5}, {"source": "edges", "palette": "3"}, "leave --data.source or --data.palette out"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, made: dict, options: dict, said: str) -> None:
    for name, count in made.items():
        save(tmp_path / name, moving(count))
    with pytest.raises(UserError, match=said):
        opened(tmp_path, frames=4, **options)


def test_one_pair_of_folders_of_frames_is_enough(tmp_path: Path) -> None:
    save_frames(tmp_path / "target", moving(12))
    save_frames(tmp_path / "source", 255 - moving(12))
    data = opened(tmp_path, frames=4)
    assert [(f.name, f.count) for f in data.films()] == [("film", 8)] and len(data.held_out()) == 1
    assert numbers(next(data.films()).read(0, 9)) == list(range(8))


def test_folders_of_splits(tmp_path: Path) -> None:
    pairs(tmp_path / "train", {"a": (8, 8), "b": (8, 8)})
    pairs(tmp_path / "test", {"c": (8, 8)})
    data = opened(tmp_path, frames=4)
    assert len(data) == 4 and [f.name for f in data.held_out().films()] == ["c"]
    assert data.held_out().spec == data.spec
    assert [f.name for f in opened(tmp_path, frames=4, source="grey").held_out().films()] == ["test/target/c"]


@pytest.mark.parametrize("source", [name for name in DERIVED if name not in FILES])
def test_sources_are_made_of_the_targets(tmp_path: Path, source: str) -> None:
    save(tmp_path / "a.mp4", moving(10))
    data = opened(tmp_path, frames=4, source=source, held_out=0)
    batch = data.batch(np.arange(2))
    planes = channels_of(source, 3)
    assert data.spec.extra["source"] == source and data.spec.extra["source_channels"] == planes
    assert batch["source"].shape == (2, planes, 4, 48, 64)
    film = next(data.films())
    frame = film.read(2, 3)[0]
    assert np.array_equal(film.source(2, 3)[0], derive(source, frame))
    (again,), names = read_sources(tmp_path / "a.mp4", data.spec)  # the same of a film given later
    assert names == ["a.mp4"] and np.array_equal(np.stack(list(again.frames())), film.source(0, 10))


def test_what_sources_are() -> None:
    frame = moving(1)[0]
    grey = np.asarray(Image.fromarray(frame.transpose(1, 2, 0)).convert("L"))
    assert np.array_equal(derive("grey", frame)[0], grey)
    rough = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    for name in ("blurred", "small"):
        assert derive(name, rough).std() < rough.std() / 2
    assert 5 < np.abs(derive("compressed", rough).astype(int) - rough).mean() < 100
    for name in ("blurred", "small", "compressed"):
        assert derive(name, frame[:1]).shape == (1, 48, 64)
    square = np.zeros((3, 64, 64), np.uint8)
    square[:, 16:48, 16:48] = 200
    found = edges(square)[0]
    assert set(np.unique(found)) == {0, 255} and not found[20:44, 20:44].any() and not found[:12].any()
    assert found[15:18, 20:44].any(0).all() and found[20:44, 46:50].any(1).all()  # each side is one closed line
    assert edges(square[:1]).sum() == edges(square).sum()
    noise = np.random.default_rng(0).normal(128, 5, (3, 64, 64)).astype(np.uint8)
    assert not edges(noise).any()


def test_maps_of_labels_become_planes(tmp_path: Path) -> None:
    labels = np.zeros((6, 48, 64), np.uint8)
    labels[:, 10:30, 20:40], labels[:, 40:] = 1, 2
    colours = np.array([[0, 0, 0], [128, 64, 128], [220, 20, 60]], np.uint8)
    save_frames(tmp_path / "target" / "a", moving(6))
    save_frames(tmp_path / "source" / "a", colours[labels].transpose(0, 3, 1, 2))
    data = opened(tmp_path, frames=4, palette="#000000,#804080,#dc143c", held_out=0)
    assert data.spec.extra["source_channels"] == 3
    assert data.spec.extra["palette"] == ["#000000", "#804080", "#dc143c"]
    source = data.batch(np.array([0]))["source"]
    assert source.shape == (1, 3, 4, 48, 64) and set(source.unique().tolist()) == {-1, 1}
    assert np.array_equal(source[0].argmax(0).numpy(), labels[:4])
    assert next(data.films()).source(0, 6).shape == (6, 3, 48, 64)
    (again,), _ = read_sources(tmp_path / "source" / "a", data.spec)
    assert np.array_equal(np.stack(list(again.frames())), next(data.films()).source(0, 6))
    (tmp_path / "palette.txt").write_text("#000000\n#804080\n#dc143c\n")
    assert opened(tmp_path, frames=4, palette=str(tmp_path / "palette.txt")).spec.extra == data.spec.extra
    # pictures that hold the numbers themselves, as indices into colours of their own
    for i, frame in enumerate(labels):
        image = Image.fromarray(frame).convert("P")
        image.putpalette(colours.ravel().tolist() + [9] * 12)
        image.save(tmp_path / "source" / "a" / f"frame{i + 1}.png")
    numbered = opened(tmp_path, frames=4, palette="3", held_out=0)
    assert torch.equal(numbered.batch(np.array([0]))["source"], source) and numbered.spec.extra["palette"] == 3
    small = opened(tmp_path, frames=4, palette="3", size=16, held_out=0).batch(np.array([0]))["source"]
    assert (small.sum(1) == -1).all()  # each pixel has one label, at any size


def test_a_label_beyond_the_palette_is_none() -> None:
    palette = palette_of("2")
    planes = palette.planes(palette.numbers(np.array([[[0, 1, 2, 255]]], np.uint8)))
    assert planes[:, 0].tolist() == [[255, 0, 0, 0], [0, 255, 0, 0]]


# ── motion ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A teacher of flow that says in each pixel how bright the frame after it is, and counts how often it is asked."""
    seen: list[int] = []

    def flows(frames: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
        seen.append(len(frames))
        flow = np.zeros((len(frames) - 1, 2, *frames.shape[2:]), np.float16)
        flow[:] = frames[1:, :1, 3:4, 3:4]
        return flow, np.full((len(frames) - 1, *frames.shape[2:]), 51, np.uint8)

    monkeypatch.setattr(motion, "flows", flows)
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "home"))
    return seen


def test_the_motion_of_a_film_is_given_along_and_computed_once(tmp_path: Path, calls: list[int]) -> None:
    save(tmp_path / "f" / "a.mp4", moving(70))
    save(tmp_path / "f" / "b.mp4", moving(20))
    data = opened(tmp_path / "f", frames=4, source="grey", flow="dis", held_out=0)
    assert calls == [65, 6, 20]  # in pieces that share a frame
    batch = data.batch(np.arange(len(data)), seed=1)
    assert batch["flow"].shape == (22, 2, 3, 48, 64) and batch["flow"].dtype == torch.float32
    assert batch["confidence"].shape == (22, 1, 3, 48, 64) and float(batch["confidence"].max()) == pytest.approx(0.2)
    bright = batch["video"][:, 0, 1:, 3, 3].add(1).mul(127.5)  # of each frame from the second on
    assert (batch["flow"][:, 0, :, 20, 20] - bright).abs().max() < 0.51
    again = opened(tmp_path / "f", frames=4, source="grey", flow="dis", held_out=0)
    assert calls == [65, 6, 20]
    assert torch.equal(again.batch(np.arange(22), seed=1)["flow"], batch["flow"])
    opened(tmp_path / "f", frames=4, source="grey", flow="pyramid", held_out=0)
    assert len(calls) == 6  # another method is another motion


def test_where_nothing_can_be_kept_motion_is_computed_again(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "file"))
    save(tmp_path / "f" / "a.mp4", moving(20))
    for _ in range(2):
        opened(tmp_path / "f", frames=4, source="grey", flow="dis")
    assert calls == [20, 20]
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "home"))
    opened(tmp_path / "f", frames=4, source="grey", flow="dis")
    (kept,) = (tmp_path / "home" / "flow").iterdir()
    kept.write_bytes(b"half a fi")
    opened(tmp_path / "f", frames=4, source="grey", flow="dis")
    assert len(calls) == 4


def test_what_is_mirrored_moves_the_other_way(tmp_path: Path) -> None:
    """A real film with a real teacher: the flow takes a frame to the next one, mirrored or not."""
    ground = np.asarray(Image.effect_noise((200, 64), 90).resize((400, 128)))[None, :, :].repeat(3, 0)
    film = np.stack([ground[:, 20:84, 30 + 2 * t : 126 + 2 * t] for t in range(12)])
    for i in range(6):
        save(tmp_path / "f" / f"{i}.mkv", film, codec="ffv1", pixels="bgr0")
    plain, mirrored = (
        opened(tmp_path / "f", frames=4, source="grey", flow="pyramid", held_out=0, mirror=m, cuts=False).batch(
            np.arange(18)
        )
        for m in (False, True)
    )
    flips = [not torch.equal(a, b) for a, b in zip(plain["video"], mirrored["video"], strict=True)]
    assert 3 < sum(flips) < 15
    for i, flipped in enumerate(flips):
        middle = mirrored["flow"][i, :, :, 16:48, 24:72]
        assert middle[0].median().item() == pytest.approx(-2 if flipped else 2, abs=0.2)
        assert middle[1].abs().median() < 0.2
    video, flow = mirrored["video"], mirrored["flow"]
    error = (warp(video[:, :, 0], flow[:, :, 0]) - video[:, :, 1])[:, :, 8:-8, 8:-8].abs().mean()
    still = (video[:, :, 0] - video[:, :, 1])[:, :, 8:-8, 8:-8].abs().mean()
    assert error < still / 4


def test_a_film_that_breaks_off_does_not_shift_the_motion_of_the_next(tmp_path: Path, calls: list[int]) -> None:
    save_frames(tmp_path / "f" / "a", moving(9))
    save(tmp_path / "f" / "b.mp4", moving(3))
    save(tmp_path / "f" / "c.mp4", moving(9))
    data = opened(tmp_path / "f", frames=4, source="grey", flow="dis", held_out=0)
    batch = data.batch(np.arange(len(data)))
    bright = batch["video"][:, 0, 1:, 3, 3].add(1).mul(127.5)
    assert (batch["flow"][:, 0, :, 20, 20] - bright).abs().max() < 0.51


def test_other_films_are_made_like_those_of_a_run(tmp_path: Path) -> None:
    save(tmp_path / "a" / "a.mp4", moving(20))
    save(tmp_path / "b" / "b.mp4", moving(20, 96, 128), 50)
    spec = opened(tmp_path / "a", frames=4, source="edges").spec
    assert opened(tmp_path / "b", like=spec).spec == spec


# ── what comes with genloom ──────────────────────────────────────────────────────────────────────────────────────
def test_carphone_is_a_pair_whose_end_is_held_out() -> None:
    data = opened("carphone", frames=10)
    assert data.spec.shape == (3, 10, 144, 176) and data.name == "carphone" and len(data) == 9
    (film,), (held,) = data.films(), data.held_out().films()
    assert (film.count, held.count) == (90, 30)
    real, bad = film.read(0, 3), film.source(0, 3)
    assert real.shape == bad.shape == (3, 3, 144, 176)
    error = np.abs(real.astype(float) - bad).mean()
    assert 5 < error < 40  # the same face, badly sent
    assert np.corrcoef(real.ravel(), bad.ravel())[0, 1] > 0.9
    assert opened("carphone", frames=10, split="test").fingerprint == data.fingerprint
    drawn = opened("carphone", frames=10, source="edges", size=64)
    assert drawn.spec.shape == (3, 10, 64, 80) and drawn.spec.extra["source_channels"] == 1
    plain = open_data("carphone", modality="video", frames=10)
    assert plain.spec.shape == data.spec.shape and "source" not in plain.batch(np.arange(1))
    assert opened("carphone", like=drawn.spec).spec == drawn.spec
    with pytest.raises(UserError, match="has a scene of 200 frames"):
        opened("carphone", frames=200)


def test_streets_move_exactly_as_they_say() -> None:
    data = opened("streets", frames=4, limit=2)
    assert data.spec.shape == (3, 4, 64, 96) and data.spec.extra["source_channels"] == 8 and len(data) == 16
    assert (
        len(opened("streets").held_out()) == 4 * 2
        and opened("streets", frames=4, limit=2).fingerprint == data.fingerprint
    )
    batch = data.batch(np.arange(4), seed=1)
    assert batch["source"].shape == (4, 8, 4, 64, 96) and (batch["source"].eq(1).sum(1) == 1).all()
    assert batch["flow"].shape == (4, 2, 3, 64, 96) and set(batch["confidence"].unique().tolist()) == {0, 1}
    assert 0.7 < float(batch["confidence"].mean()) < 0.95
    video, sure = batch["video"], batch["confidence"][:, 0].bool()
    errors, still = [], []
    for t in range(3):
        went = warp(video[:, :, t], batch["flow"][:, :, t])
        errors.append((went - video[:, :, t + 1]).abs().mean(1)[sure[:, t]])
        still.append((video[:, :, t] - video[:, :, t + 1]).abs().mean(1)[sure[:, t]])
    assert torch.cat(errors).mean() < 0.5 * torch.cat(still).mean() and torch.cat(errors).median() < 0.01
    labels = batch["source"].argmax(1)
    assert len(labels.unique()) == 8
    road = labels[:, :, 60] == 1  # the last rows are road, and no sky is below the horizon
    assert road.float().mean() > 0.5 and not (labels[:, :, 40:] == 0).any()


def test_a_streets_flow_ends_at_the_very_point_that_is_seen_there() -> None:
    street = Street(3, 64, 96, 12)
    before, after = (street.meet(t, np.arange(96.0), np.arange(64.0)) for t in (4, 5))
    flow, sure = street.motion(4, before, after)
    speeds = np.array([0.0] * 4 + [thing.speed for thing in street.things])
    rows, columns = np.nonzero((sure > 0) & (after.what > 0))
    for y, x in zip(rows[::97], columns[::97], strict=True):
        at = x + float(flow[0, y, x]), y + float(flow[1, y, x])
        there = street.meet(4, np.array(at[:1]), np.array(at[1:]))
        assert there.what[0, 0] == after.what[y, x]
        assert there.x[0, 0] == pytest.approx(after.x[y, x], abs=0.02)
        assert there.z[0, 0] == pytest.approx(after.z[y, x] - speeds[after.what[y, x]], rel=0.01)
    hidden = (sure == 0).mean()
    assert 0.03 < hidden < 0.3


def test_digits_fly_and_bounce() -> None:
    two, one = open_data("moving-mnist"), open_data("moving-digits", modality="video", size=32, frames=8, limit=50)
    assert two.spec.shape == (1, 20, 64, 64) and len(two) == 10_000 and len(two.held_out()) == 1_000
    assert not two.spec.classes and one.spec.shape == (1, 8, 32, 32) and one.spec.classes == tuple("0123456789")
    clips = two.batch(np.array([3, 9_999]))["video"]
    assert torch.equal(clips, two.batch(np.array([3, 9_999]), seed=5)["video"])  # whole films: nothing to vary
    lit = (clips[:, 0] > 0).sum((2, 3)).float()
    assert (lit > 60).all()  # no digit leaves the picture
    assert not torch.equal(clips[0, :, 0], clips[0, :, 1])
    batch = one.batch(np.arange(len(one)))
    assert batch["label"].tolist() == one.labels().tolist() and len(batch["label"].unique()) == 10
    away = (batch["video"][:, 0] > 0).float()
    middle = (away.sum(2) * torch.arange(32)).sum(2) / away.sum((2, 3))
    steps = middle.diff(dim=1)
    assert (steps.abs() < 3.5).all() and ((steps[:, 1:] * steps[:, :-1]) < -0.5).any()  # smooth, until one bounces
    for options, said in (({"rate": 5}, "leave rate out"), ({"mirror": True}, "leave mirror out")):
        with pytest.raises(UserError, match=said):
            open_data("moving-mnist", **options)
    with pytest.raises(UserError, match="plain video: give pairs of films"):
        opened("moving-mnist")


# ── what finds faces ─────────────────────────────────────────────────────────────────────────────────────────────
def test_landmarks_without_what_finds_them_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "f" / "a.mp4", moving(5))
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(UserError, match=r"pip install mediapipe, or choose --data\.source edges"):
        opened(tmp_path / "f", frames=4, source="landmarks")
    monkeypatch.setitem(sys.modules, "mediapipe", stand_in())
    with pytest.raises(UserError, match=r"comes without any: give --data\.detector face_landmarker\.task"):
        opened(tmp_path / "f", frames=4, source="landmarks")
    with pytest.raises(UserError, match=r"there is no file .x\.task.: give --data\.detector pose_landmarker\.task"):
        opened(tmp_path / "f", frames=4, source="pose", detector="x.task")
    (tmp_path / "x.task").write_bytes(b"")
    with pytest.raises(UserError, match=r"is not MediaPipe's face_landmarker\.task \(empty\)"):
        opened(tmp_path / "f", frames=4, source="landmarks", detector=str(tmp_path / "x.task"))


def stand_in() -> SimpleNamespace:
    """MediaPipe as far as it is used: it finds one face, a line across the middle, where a frame's corner is bright enough."""

    def create(options: SimpleNamespace) -> SimpleNamespace:
        if not Path(options.base.path).read_bytes():
            raise ValueError("empty")

        def detect(image: SimpleNamespace) -> SimpleNamespace:
            found = [[SimpleNamespace(x=0.25, y=0.5), SimpleNamespace(x=0.75, y=0.5)]]
            return SimpleNamespace(face_landmarks=found if image.data[3, 3, 0] > 30 else [])

        return SimpleNamespace(detect=detect, close=lambda: None)

    line = SimpleNamespace(start=0, end=1)
    vision = SimpleNamespace(
        FaceLandmarker=SimpleNamespace(create_from_options=create),
        FaceLandmarkerOptions=lambda base_options: SimpleNamespace(base=base_options),
        FaceLandmarksConnections=SimpleNamespace(FACE_LANDMARKS_CONTOURS=[line], FACE_LANDMARKS_NOSE=[]),
    )
    tasks = SimpleNamespace(vision=vision, BaseOptions=lambda model_asset_path: SimpleNamespace(path=model_asset_path))
    return SimpleNamespace(
        tasks=tasks,
        Image=lambda image_format, data: SimpleNamespace(data=data),
        ImageFormat=SimpleNamespace(SRGB=1),
    )


def test_landmarks_are_drawn_as_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "f" / "a.mp4", moving(12))
    (tmp_path / "face.task").write_bytes(b"weights")
    monkeypatch.setitem(sys.modules, "mediapipe", stand_in())
    data = opened(tmp_path / "f", frames=4, source="landmarks", detector=str(tmp_path / "face.task"), held_out=0)
    film = next(data.films())
    lines = film.source(6, 7)[0, 0]
    assert lines[24, 20:44].min() > 100 and lines[:20].max() == 0 and lines[24, :14].max() == 0
    assert "In 4 of 12 frames nobody was found: their sources are black." in data.summary["notes"]
    (again,), _ = read_sources(tmp_path / "f" / "a.mp4", data.spec)
    assert np.array_equal(np.stack(list(again.frames())), film.source(0, 12))
