"""One film: files of all kinds to frames, and frames to files."""

from __future__ import annotations

import gc
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from films import moving, numbers, save, save_animation, save_frames
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from genloom.core import Spec
from genloom.data import film_write
from genloom.data.files import UnreadableError
from genloom.data.film import Reader, Screen, fitted, steady
from genloom.data.film_files import natural, probe, reels
from genloom.data.film_write import Writer, as_picture, side_by_side, write
from genloom.errors import UserError

SCREEN = Screen(48, 64, 3)


def one(path: Path):
    (reel,) = reels(path)[1]
    return reel


def read(path: Path, rate: float = 25, screen: Screen = SCREEN) -> np.ndarray:
    return np.stack(list(Reader(one(path), screen, rate)))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mov", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx264")],
)
def test_files_of_each_kind_become_their_frames(tmp_path: Path, name: str, codec: str) -> None:
    film = moving(10)
    path = save(tmp_path / name, film, codec=codec)
    header, frames = probe(one(path)), read(path)
    assert (header.width, header.height, header.count) == (64, 48, 10) and header.rate == pytest.approx(25, abs=0.2)
    assert not header.turned and not header.variable
    assert frames.shape == film.shape and frames.dtype == np.uint8
    assert np.abs(frames.astype(int) - film).mean() < 8 and numbers(frames) == list(range(10))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.apng"])
def test_animated_pictures_are_films_and_each_frame_lasts_as_long_as_it_says(tmp_path: Path, name: str) -> None:
    path = save_animation(
        tmp_path / name, moving(6), [40, 40, 120, 40, 40, 40], **({"lossless": True} if "webp" in name else {})
    )
    header = probe(one(path))
    assert (header.width, header.height, header.count, header.variable) == (64, 48, 6, True)
    assert header.seconds == pytest.approx(0.32)
    assert numbers(read(path)) == [0, 1, 2, 2, 3, 3, 4, 5]


def test_frames_in_a_folder_come_in_the_order_that_people_number_them(tmp_path: Path) -> None:
    film = moving(12)
    path = save_frames(tmp_path / "film", film)
    assert np.array_equal(read(path), film) and probe(one(path)).rate is None
    assert sorted(["b2", "b10", "a", "B1"], key=natural) == ["B1", "a", "b2", "b10"]
    (path / "frame5.png").write_bytes(b"nothing")
    reader = Reader(one(path), SCREEN, 25)
    assert numbers(np.stack(list(reader))) == [0, 1, 2, 3, *range(5, 12)]
    assert reader.broken == "1 of 12 frames cannot be read, such as frame5.png: not a picture"


def test_what_lies_where(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "b.mp4", moving(3))
    save_frames(tmp_path / "dog" / "x", moving(3))
    save_animation(tmp_path / "dog" / "y" / "a.gif", moving(3))
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "poster.png")
    found = [(reel.name, len(reel.pictures)) for reel in reels(tmp_path)[1]]
    assert found == [("cat/b.mp4", 0), ("dog/x", 3), ("dog/y/a.gif", 0)]


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_what_was_filmed_turned_is_upright(tmp_path: Path, turn: int) -> None:
    film = moving(4)
    path = save(tmp_path / "a.mp4", film, turn=turn)
    header = probe(one(path))
    upright = np.rot90(film, turn // 90, (2, 3))
    assert header.turned and (header.height, header.width) == upright.shape[2:]
    frames = read(path, screen=Screen(*upright.shape[2:], 3))
    assert np.abs(frames.astype(int) - upright).mean() < 8


def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", moving(3), wide=Fraction(4, 3))
    assert probe(one(path)).width == 85
    whole = read(path, screen=Screen(48, 85, 3))[0]  # the square of 8 becomes 11 wide
    assert 10 <= int((whole[0, 28] > 180).sum()) <= 12
    assert int((read(path)[0, 0, 28] > 180).sum()) > 9  # its edges are cut off, it is not pressed


def test_a_variable_rate_is_made_constant_by_the_frame_nearest_in_time(tmp_path: Path) -> None:
    times = [0, 4, 8, 20, 24, 28]  # hundredths of a second
    path = save(tmp_path / "a.mkv", moving(6), times=times)
    assert probe(one(path)).variable
    assert numbers(read(path)) == [0, 1, 2, 2, 3, 3, 4, 5]
    assert numbers(read(path, 12.5)) == [0, 2, 3, 4]


@given(
    gaps=st.lists(st.floats(0.005, 0.5), min_size=1, max_size=30), rate=st.sampled_from([1.0, 12.5, 25.0, 29.97, 60.0])
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_at_every_moment_the_nearest_frame_is_shown(gaps: list[float], rate: float) -> None:
    times = np.cumsum([0.0, *gaps])[:-1]
    shown = list(steady(((float(t), g, i) for i, (t, g) in enumerate(zip(times, gaps, strict=True))), rate))
    assert abs(len(shown) - sum(gaps) * rate) <= 1
    for number, index in enumerate(shown):
        away = np.abs(times - number / rate)
        assert away[index] <= away.min() + 1e-9


@given(
    count=st.integers(1, 9),
    height=st.integers(3, 41),
    width=st.integers(3, 41),
    fit=st.sampled_from(["keep", "crop", "pad", "stretch"]),
    channels=st.sampled_from([1, 3]),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_size_odd_ones_too_fits_any_screen(
    tmp_path: Path, count: int, height: int, width: int, fit: str, channels: int
) -> None:
    film = np.random.default_rng(count).integers(0, 256, (count, 3, height, width), np.uint8)
    path = save(tmp_path / "odd.mkv", film, codec="ffv1", pixels="bgr0")
    frames = read(path, screen=Screen(16, 32, channels, fit, (255, 0, 0)))
    assert frames.shape == (count, channels, 16, 32)
    if fit == "pad" and channels == 3 and width / height > 2.5:
        assert (frames[:, 0, 0] == 255).all() and (frames[:, 1:, 0] == 0).all()
    assert np.array_equal(read(path, screen=Screen(height, width, 3)), film)


def test_a_smooth_picture_is_made_small_without_jagged_edges() -> None:
    """Lines thinner than a pixel of the result become their mean, and none disappears or beats."""
    lines = np.zeros((480, 640), np.uint8)
    lines[:, ::2] = 255
    small = fitted(Image.fromarray(lines), Screen(48, 64, 1))
    assert np.abs(small[:, 2:-2, 2:-2].astype(int) - 127).max() <= 3


# ── what is broken ───────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi"])
def test_of_a_broken_tail_what_decodes_is_used_and_how_much_is_said(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, moving(75), movflags="+faststart", codec="mpeg4" if "avi" in name else "libx264")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * 0.6)])
    reader = Reader(one(path), SCREEN, 25)
    frames = np.stack(list(reader))
    assert 20 < len(frames) < 70 and numbers(frames[:20]) == list(range(20))
    assert reader.broken.startswith("broken off: the first ") and "of 3.0 seconds" in reader.broken
    assert abs(float(reader.broken.split()[4]) - len(frames) / 25) < 0.1


def test_damage_in_the_middle_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mkv", moving(60))
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 400] = bytes(400)
    path.write_bytes(raw)
    reader = Reader(one(path), SCREEN, 25)
    frames = np.stack(list(reader))
    assert numbers(frames[:24]) == list(range(24)) and len(frames) == 60
    assert reader.broken == "damaged: 1 frames cannot be read, and those before and after stand in"


def test_a_broken_gif_gives_what_is_whole(tmp_path: Path) -> None:
    path = save_animation(tmp_path / "a.gif", np.random.default_rng(0).integers(0, 256, (8, 3, 48, 64), np.uint8))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    assert 2 <= len(read(path)) <= 5


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.mp4", b"", "no film that can be read"),
        ("a.mp4", b"words, not a film" * 9, "no film that can be read"),
        ("a.gif", b"GIF89a", "not a picture"),
        (
            "a.mp4",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://example.com/a.ts\n",
            "no film that can be read",
        ),
        ("a.mkv", b"ffconcat version 1.0\nfile other.mp4\n", "no film that can be read"),
    ],
)
def test_what_is_no_film_is_unreadable(tmp_path: Path, name: str, raw: bytes, said: str) -> None:
    save(tmp_path / "other.mp4", moving(3))
    (tmp_path / name).write_bytes(raw)
    reel = one(tmp_path / name)
    with pytest.raises(UnreadableError, match=said):
        list(Reader(reel, SCREEN, 25))


def test_sound_alone_is_no_film(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        track = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(track.encode(frame))
        container.mux(track.encode())
    with pytest.raises(UnreadableError, match="no pictures in it, sound alone"):
        probe(one(tmp_path / "a.mp4"))


@given(cut=st.integers(0, 4000), at=st.integers(0, 4000), byte=st.integers(0, 255))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_hostile_bytes_end_in_frames_or_in_one_reason(tmp_path: Path, cut: int, at: int, byte: int) -> None:
    whole = tmp_path / "whole.mp4"
    if not whole.exists():
        save(whole, moving(8))
    raw = bytearray(whole.read_bytes())
    raw[at % len(raw)] = byte
    (tmp_path / "bad.mp4").write_bytes(raw[: max(cut % len(raw), 1)] if cut % 2 else raw)
    reel = next(reel for reel in reels(tmp_path)[1] if reel.name == "bad.mp4")
    try:
        frames = list(Reader(reel, SCREEN, 25))
    except UnreadableError:
        return
    assert frames and all(f.shape == (3, 48, 64) for f in frames)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a.webp", "frames"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    film = moving(20)
    with Writer(tmp_path / "new" / name, 25) as writer:
        for frame in film:
            writer.add(frame)
        assert name == "frames" or not (tmp_path / "new" / name).exists()  # it appears whole
    assert writer.count == 20 and writer.note == ""
    frames = read(tmp_path / "new" / name)
    assert numbers(frames) == list(range(20)) and np.abs(frames.astype(int) - film).mean() < 8
    assert name == "frames" or [p.name for p in (tmp_path / "new").iterdir()] == [name]
    assert name == "frames" or probe(one(tmp_path / "new" / name)).rate == pytest.approx(25, rel=0.02)


@pytest.mark.parametrize("rate", [8.0, 23.976, 29.97, 30.0])
def test_a_film_lasts_as_long_as_it_should(tmp_path: Path, rate: float) -> None:
    for name in ("a.mp4", "a.gif", "a.webp"):
        with Writer(tmp_path / name, rate) as writer:
            for frame in moving(30):
                writer.add(frame)
        assert probe(one(tmp_path / name)).seconds == pytest.approx(30 / rate, abs=0.02)


def test_browsers_can_play_an_mp4(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.mp4", 25) as writer:
        for frame in moving(5, 33, 49)[:, :1]:  # grey, and odd sides
            writer.add(frame)
    with av.open(str(tmp_path / "a.mp4")) as container:
        track = container.streams.video[0]
        assert (track.codec.name, track.pix_fmt, track.width, track.height) == ("h264", "yuv420p", 50, 34)
    raw = (tmp_path / "a.mp4").read_bytes()
    assert raw.index(b"moov") < raw.index(b"mdat")  # it starts before it is there whole


def test_without_h264_another_codec_is_used_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_write, "H264", "no such codec")
    with Writer(tmp_path / "a.mp4", 25) as writer:
        for frame in moving(10):
            writer.add(frame)
    assert "no H.264" in writer.note and numbers(read(tmp_path / "a.mp4")) == list(range(10))


def test_what_goes_wrong_leaves_no_half_film(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), Writer(tmp_path / "a.mp4", 25) as writer:
        writer.add(moving(1)[0])
        raise RuntimeError("mine")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="one size"), Writer(tmp_path / "b.mp4", 25) as writer:
        writer.add(moving(1)[0])
        writer.add(moving(1, 32, 32)[0])
    with pytest.raises(UserError, match=r"no kind of film '\.mpx'"):
        Writer(tmp_path / "a.mpx", 25)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), Writer(tmp_path / "file" / "a.mp4", 25) as writer:
        writer.add(moving(1)[0])


def test_clips_are_written_under_their_names(tmp_path: Path) -> None:
    clips = torch.from_numpy(moving(6)).float().permute(1, 0, 2, 3)[None].repeat(2, 1, 1, 1, 1) / 127.5 - 1
    spec = Spec("video", (3, 6, 48, 64), extra={"rate": 25.0})
    assert [p.name for p in write(clips, tmp_path, spec=spec)] == ["0000.mp4", "0001.mp4"]
    assert numbers(read(tmp_path / "0001.mp4")) == list(range(6))
    paths = write([clips[0], clips[1, :, :3]], tmp_path, spec=spec, names=["x/a.gif", "b.gif"], form="gif")
    assert [len(read(p)) for p in paths] == [6, 3]
    (frames,) = write(clips[:1], tmp_path / "f", spec=spec, form="frames")
    assert np.array_equal(read(frames), moving(6))
    with pytest.raises(UserError, match="Did you mean 'webp'"):
        write(clips, tmp_path, spec=spec, form="wepb")


def test_side_by_side_and_labels_in_colours() -> None:
    grey, colour = moving(1)[0, :1], moving(1, seed=1)[0]
    both = side_by_side(grey, colour)
    assert both.shape == (3, 48, 128) and np.array_equal(both[:, :, 64:], colour)
    assert np.array_equal(both[2, :, :64], grey[0])
    labels = np.zeros((6, 4, 4), np.uint8)
    labels[2, :2], labels[5, 2:] = 255, 255
    assert len(np.unique(as_picture(labels).reshape(3, -1), axis=1).T) == 2
    clear = np.concatenate([colour, np.zeros_like(grey)])
    assert (as_picture(clear) == 255).all()
    with pytest.raises(UserError, match="one height"):
        side_by_side(grey, colour[:, :40])


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "frames"])
def test_memory_does_not_grow_with_the_length(tmp_path: Path, name: str) -> None:
    """Frames of 0.36 MB each: 40 of them are 14 MB."""

    def peak(work) -> float:
        gc.collect()
        tracemalloc.start()
        work()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most / 1e6

    frame, alive = moving(1, 300, 400)[0], [0]

    def fill(count: int) -> None:
        with Writer(tmp_path / name, 25) as writer:
            for _ in range(count):
                writer.add(frame)

    def go() -> None:
        for i, _ in enumerate(Reader(one(tmp_path / name), Screen(300, 400, 3), 25)):
            if i % 13 == 0:
                alive[0] = max(alive[0], sum(type(o) is av.VideoFrame for o in gc.get_objects()))

    fill(3)
    few = peak(lambda: fill(3)), peak(go)
    many = peak(lambda: fill(40)), peak(go)
    assert many[0] < few[0] + 2 and many[1] < few[1] + 2, (few, many)
    assert alive[0] <= 24  # as many as there are threads that decode
