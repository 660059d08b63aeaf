"""Watermarks: not seen, found again after what happens to files, and found in nothing else."""

from __future__ import annotations

import io
import math
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import genloom
from genloom.again import again
from genloom.core import Spec
from genloom.data import draw
from genloom.detect import detect
from genloom.errors import UserError
from genloom.generate import to_files
from genloom.metrics.image import psnr, ssim
from genloom.nn.transformer import Plan, Transformer
from genloom.provenance import keys, read_label, watermark
from genloom.provenance.watermark import corners, picture, sound
from genloom.text import decode, mark
from genloom.text.logits import Sampling

KEY, OTHER = b"k" * 32, b"o" * 32
FOUND = 1e-3


def scene(seed: int, side: int = 256, channels: int = 3) -> Tensor:
    """[1, C, side, side] in [-1, 1]: as fine as nature, magnitudes fall with frequency; and a pale shape before it."""
    noise = torch.randn(channels, side, side, generator=torch.Generator().manual_seed(seed))
    k = torch.fft.fftfreq(side) * side
    radius = torch.hypot(k[:, None], k[None, :]).clamp(min=1)
    ground = torch.fft.ifft2(torch.fft.fft2(noise) / radius).real
    ground = 0.35 * ground / ground.std()
    ground[:, side // 4 : side // 2, side // 3 : side // 2] = 0.8
    return ground.clamp(-1, 1)[None]


def as_pixels(image: Tensor) -> np.ndarray:
    return draw.to_bytes(image)[0]


def found(pixels: np.ndarray | Image.Image, key: bytes = KEY) -> bool:
    score = picture.score([np.asarray(pixels)], key)
    return score is not None and score[1] <= FOUND


def recoded(pixels: np.ndarray, kind: str, **how: int) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **how)
    return Image.open(file)


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("side", "channels"), [(256, 3), (256, 1), (100, 4), (64, 3)])
def test_a_mark_is_not_seen(side: int, channels: int) -> None:
    plain = scene(1, side, channels)
    marked = torch.from_numpy(as_pixels(picture.marked(plain, KEY))).float().div(127.5).sub(1)
    marked = marked.reshape(side, side, channels).permute(2, 0, 1)[None]
    if channels == 4:
        assert (marked[:, 3] - plain[:, 3]).abs().max() <= 1.01 / 255 and (marked[:, :3] != plain[:, :3]).any()
        plain, marked = plain[:, :3], marked[:, :3]
    assert psnr(plain, marked) >= 40 and ssim(plain, marked, window="gaussian", size=11) >= 0.98


@pytest.mark.parametrize("side", [64, 128])
def test_a_mark_spares_colours_that_are_flat(side: int) -> None:
    texture = scene(1, side, 1)
    for flat in (-0.6, 0.5):  # green, where the mark is
        drawing = torch.cat([texture, torch.full_like(texture, flat), texture], 1)
        marked = picture.marked(drawing, KEY)
        assert not torch.equal(marked, drawing)
        assert ssim(drawing, marked, window="gaussian", size=11) >= 0.98  # brightness alone would have it 0.95 to 0.97


@pytest.mark.parametrize("channels", [3, 4])
def test_a_mark_is_in_green_alone_and_found_in_what_was_marked_in_all_colours(channels: int) -> None:
    plain = as_pixels(scene(1, 256, channels))
    marked = as_pixels(picture.marked(scene(1, 256, channels), KEY))
    change = marked.astype(int) - plain
    assert [bool(plane.any()) for plane in np.moveaxis(change, 2, 0)] == [False, True, False, False][:channels]
    before = plain[..., :3] + np.rint(change[..., 1:2] / 3**0.5)  # as earlier releases did
    assert found(before.clip(0, 255).astype(np.uint8)) and found(recoded(marked[..., :3], "JPEG", quality=50))


def test_no_change_is_too_large_for_a_byte_with_a_sign() -> None:
    for weight in (corners.GREEN, corners.LEVEL):
        assert picture.PEAK * (picture.EVEN * picture.BUSIEST) ** 0.5 / weight <= 127


def test_brightness_is_a_sum_in_which_green_counts_most() -> None:
    colours = np.random.default_rng(0).choice(np.array([0, 1, 128, 255], np.uint8), (2, 3, 6, 10))
    wide = colours.astype(np.float32)
    assert np.array_equal(corners.interlaced(corners.corners_of(colours)), wide[:, 0] + 3 * wide[:, 1] + wide[:, 2])
    grey = np.ascontiguousarray(colours[:, :1])
    assert np.array_equal(corners.interlaced(corners.corners_of(grey)), 5 * wide[:, 0])


def test_files_do_not_depend_on_how_samples_lie_in_memory(tmp_path: Path) -> None:
    several = torch.cat([scene(seed, 64) for seed in range(3)])
    mark = partial(picture.mark, key=KEY)
    plain = draw.write(several, tmp_path / "plain", changed=mark)
    turned = draw.write(several.to(memory_format=torch.channels_last), tmp_path / "turned", changed=mark)
    assert [p.read_bytes() for p in plain] == [p.read_bytes() for p in turned]


@pytest.mark.parametrize("count", [1, 2, 3, 9, 40])
def test_each_file_is_its_own_sample_however_many_are_shared_among_threads(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw, "AT_ONCE", 8 * 64 * 64)
    several = torch.cat([scene(seed, 64) for seed in range(count)])
    paths = draw.write(several, tmp_path, start=7, changed=partial(picture.mark, key=KEY))
    assert [p.name for p in paths] == [f"{7 + i:05d}.png" for i in range(count)]
    for path, one in zip(paths, several, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), as_pixels(picture.marked(one[None], KEY)))


@pytest.mark.parametrize(("side", "channels"), [(64, 3), (99, 3), (100, 4), (256, 1), (256, 3)])
def test_a_picture_is_marked_the_same_alone_and_among_others(side: int, channels: int) -> None:
    several = torch.cat([scene(seed, side, channels) for seed in range(9)])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = picture.marked(several, KEY)
        torch.set_num_threads(1)
        alone = torch.cat([picture.marked(one[None], KEY) for one in several])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, alone)


def test_a_picture_of_odd_sides_is_marked_but_for_its_last_row_and_column() -> None:
    plain = scene(3, 257)
    marked = picture.marked(plain, KEY)
    pixels, change = as_pixels(marked), as_pixels(marked).astype(int) - as_pixels(plain)
    assert change[:-1, :-1].any(0).any(1).all() and not change[-1].any() and not change[:, -1].any()
    found = picture.score([pixels], KEY)
    assert found and found[1] <= 1e-6


def test_nothing_is_put_under_nothing_nor_on_black() -> None:
    plain = scene(2, 64, 4)
    plain[:, 3], plain[:, 3, :32] = 1, -1
    marked = as_pixels(picture.marked(plain, KEY)).astype(int) - as_pixels(plain)
    assert not marked[:32].any() and marked[32:].any()
    black = torch.full((1, 3, 64, 64), -1.0)
    assert torch.equal(picture.marked(black, KEY), black)


def test_a_mark_outlives_what_happens_to_pictures() -> None:
    pixels = as_pixels(picture.marked(scene(3), KEY))
    image = Image.fromarray(pixels)
    noise = np.random.default_rng(0).normal(0, 5, pixels.shape)
    fates = {
        "as it is": image,
        "JPEG 75": recoded(pixels, "JPEG", quality=75),
        "JPEG 50": recoded(pixels, "JPEG", quality=50),
        "WebP": recoded(pixels, "WEBP", quality=80),
        "grey": image.convert("L"),
        "half": image.resize((128, 128), Image.Resampling.LANCZOS),
        "three quarters": image.resize((192, 192), Image.Resampling.BICUBIC),
        "twice": image.resize((512, 512), Image.Resampling.BICUBIC),
        "cut": image.crop((13, 21, 213, 221)),
        "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "noise": Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)),
        "brighter": Image.fromarray((pixels * 1.1 + 6).clip(0, 255).astype(np.uint8)),
    }
    assert [name for name, fate in fates.items() if not found(fate)] == []


def test_no_mark_is_found_where_there_is_none() -> None:
    plain = scene(4)
    assert not found(as_pixels(plain)) and not found(as_pixels(picture.marked(plain, KEY)), OTHER)
    assert picture.score([np.zeros((20, 200), np.uint8)], KEY) is None  # too small to tell
    for flat in (np.zeros((64, 64, 3), np.uint8), np.full((300, 70), 255, np.uint8)):
        assert not found(flat)


def test_p_values_are_what_they_say() -> None:
    """Of keys that a picture was not marked with, no more than a share p scores p."""
    pixels = as_pixels(scene(5, 64))
    values = np.array([picture.score([pixels], bytes([i]) * 32)[1] for i in range(100)])  # type: ignore[index]
    assert (values <= 0.1).mean() <= 0.1 + 3 * (0.09 / 100) ** 0.5 and (values > 0.5).any()


def test_a_film_is_judged_as_a_whole() -> None:
    frames = [as_pixels(picture.marked(scene(seed, 64), KEY)) for seed in range(8)]
    one, all_ = picture.score(frames[:1], KEY), picture.score(frames, KEY)
    assert one and all_ and all_[1] < min(one[1], 1e-9)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> genloom.Run:
    """A model of pictures of 64 x 64 that has learnt nothing."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "data").mkdir()
    for seed in range(2):
        Image.fromarray(as_pixels(scene(seed, 64))).save(folder / "data" / f"{seed}.png")
    return genloom.fit("vae", folder / "data", folder / "scenes", recipe="tiny", quiet=True, steps=1)


def test_files_are_marked_and_made_again(run: genloom.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = to_files(run, 3, tmp_path / "out", seed=2)
    bare = to_files(run, 3, tmp_path / "bare", seed=2, watermark=False)
    first, plain = (np.asarray(Image.open(p[0])).astype(int) for p in (paths, bare))
    assert 0 < np.abs(first - plain).max() < 40 and not (detect(bare)[0].watermark or (0, 1))[1] <= FOUND
    key = keys.installation_key()
    told = read_label(paths[0])
    assert told and told.watermark == watermark.number(key) and key.hex() not in told.to_json()
    bare_told = read_label(bare[0])
    assert bare_told and not bare_told.watermark and "--no-watermark" in bare_told.command
    for path in (paths[1], bare[1]):
        made, difference = again(path, run.folder, tmp_path / "again" / path.parent.name)
        assert difference == "" and np.array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(path)))
    monkeypatch.setenv("GENLOOM_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="there is no key here"):
        again(paths[1], run.folder, tmp_path / "theirs")
    assert keys.existing_key() is None and keys.installation_key() != key
    with pytest.raises(UserError, match="another key"):
        again(paths[1], run.folder, tmp_path / "theirs")


def test_detect_finds_the_mark_when_metadata_is_gone(tmp_path: Path) -> None:
    key = keys.installation_key()
    image = Image.fromarray(as_pixels(picture.marked(scene(6), key)))
    image.save(tmp_path / "a.jpg", quality=80)
    Image.fromarray(as_pixels(scene(6))).save(tmp_path / "b.jpg", quality=80)
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\xff\xffIHDR")
    a, b, c = detect([tmp_path])
    assert a.watermark and a.watermark[1] < 1e-6 and a.generated == "proved"
    assert b.watermark and b.watermark[1] > FOUND and b.generated == "unknown"
    assert c.watermark is None


def test_detect_finds_the_mark_in_pictures_of_other_kinds_and_depths(tmp_path: Path) -> None:
    image = Image.fromarray(as_pixels(picture.marked(scene(6), keys.installation_key())))
    grey = np.asarray(image.convert("L"))
    for name in ("a.bmp", "a.tif", "a.ppm", "a.gif"):
        image.save(tmp_path / name)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "deep.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "real.tif")
    image.convert("LA").save(tmp_path / "clear.png")
    image.convert("CMYK").save(tmp_path / "print.jpg", quality=90)
    raw = bytearray((tmp_path / "a.tif").read_bytes())
    at = raw.index(b"\x02\x01\x03\x00")  # the entry of how many bits there are a channel
    raw[at + 4 : at + 8] = b"\xff\xff\xff\0"  # so many numbers the file does not hold
    (tmp_path.parent / "odd.tif").write_bytes(raw)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert not detect([tmp_path.parent / "odd.tif"])[0].error and not said
    found = {f.file.name: f.generated for f in detect([tmp_path])}
    assert found == {path.name: "proved" for path in tmp_path.iterdir()} and len(found) == 9


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────
SIZE = 65


def written(key: bytes | None, length: int = 300, sharp: float = 1.2, **how: float) -> list[list[int]]:
    """Four rows of tokens that a small network, which has learnt nothing, draws."""
    torch.manual_seed(0)
    network = Transformer(Plan(SIZE, 16, 1, 2, groups=2, head=8, hidden=32, positions=length))
    network.tokens.weight.data.mul_(sharp / 4 / network.tokens.weight.std())  # logits are of 16 numbers of size 1
    rows: list[list[int]] = [[] for _ in range(4)]
    told = decode.draw(
        network, [[1]] * 4, Sampling(**how), context=length, limit=length, ends=frozenset(), seed=1, watermark=key
    )
    for drawn in told:
        for row, token in zip(drawn.rows, drawn.tokens, strict=True):
            rows[row].append(token)
    return rows


def test_a_text_is_known_by_its_tokens_alone() -> None:
    plain, rows = written(None), written(KEY)
    for row in rows:
        z, p = mark.score(row[:208], KEY, SIZE) or (0, 1)
        assert z > 7 and p < 1e-9
        part = [*row[:100], 5, *row[140:]]  # what is cut out and put in costs only what is near
        assert (mark.score(part, KEY, SIZE) or (0, 1))[0] > 8
        assert abs((mark.score(row, OTHER, SIZE) or (9, 0))[0]) < 4
    assert all(abs((mark.score(row, KEY, SIZE) or (9, 0))[0]) < 4 for row in plain)
    assert len({tuple(row) for row in rows}) == 4 and rows == written(KEY)
    assert mark.score(rows[0][:20], KEY, SIZE) is None  # too short


def test_the_likeliest_tokens_carry_no_mark() -> None:
    assert written(KEY, 40, temperature=0) == written(None, 40, temperature=0)


def marked_once(logs: Tensor, hashes: np.ndarray) -> Tensor:
    """How often each token comes [V], of log-likelihoods [V] or [N, V], in N rows of these hashes of tokens before."""
    marker = mark.Marker(KEY, len(hashes), logs.shape[-1])
    marker.missing, marker.hashes = 0, hashes.tolist()
    uniform = torch.rand(len(hashes), generator=torch.Generator().manual_seed(1))
    drawn = marker.draw(logs.expand(len(hashes), -1), uniform)
    return torch.bincount(drawn, minlength=logs.shape[-1]) / len(hashes)


@pytest.mark.parametrize("size", [40, 3000])
@pytest.mark.parametrize("sharp", [0.1, 1.5, 4.0])  # 0.1: of 3,000 tokens none is likely; 4: the first may not race
def test_over_all_keys_each_token_is_as_likely_as_before(size: int, sharp: float) -> None:
    scores = sharp * torch.randn(size, generator=torch.Generator().manual_seed(0))
    scores[0] = scores[7] = -torch.inf
    logs, rows = scores.log_softmax(0), 40_000
    often = marked_once(logs, np.random.default_rng(0).integers(2**64, size=rows, dtype=np.uint64))
    assert not often[0] and not often[7]
    often, shares = often.unflatten(0, (40, -1)).sum(1), logs.exp().unflatten(0, (40, -1)).sum(1)
    assert ((often - shares).abs() <= 4.5 * (shares * (1 - shares) / rows).sqrt() + 1e-6).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("left", [[3], [3, 5], [0, 3, 5, 6]])
def test_what_a_filter_takes_away_does_not_come(left: list[int]) -> None:
    logs = torch.full((8000, 1000), -math.log(1000))  # in half of the rows all is unlikely
    logs[::2] = -torch.inf
    logs[::2, left] = -math.log(len(left))
    often = 2 * marked_once(logs, np.arange(8000, dtype=np.uint64))[left]
    assert often.sum() == pytest.approx(1, abs=0.02) and (often * len(left) - 1).abs().max() < 0.15


def test_a_key_decides_much_but_not_all() -> None:
    shares = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04])
    each = [marked_once(shares.log(), np.full(2000, hash, np.uint64)) for hash in range(40)]
    assert sum(int((often > 0.02).sum()) for often in each) > 60  # a row's own number decides what the key leaves open
    spread = torch.stack(each)
    assert spread.std(0).min() > 0.05 and (spread.mean(0) - shares).abs().max() < 0.15


@pytest.mark.parametrize("n", [16, 60, 400])
def test_a_text_s_p_value_is_what_it_says(n: int) -> None:
    steps = np.rint(mark.WEIGHTS * 300).astype(int)  # whole numbers, whose sums can be counted
    one = np.bincount(steps - steps.min()) / len(steps)
    many = np.ones(1)
    for _ in range(n):
        many = np.convolve(many, one)
    tails = many[::-1].cumsum()[::-1]
    for tail in (0.3, 0.05, 1e-3, 1e-6, 1e-10):
        at = int((tails < tail).argmax())
        mean = (at - 0.5) / 300 / n + steps.min() / 300
        assert mark.p_value(mean, n) == pytest.approx(tails[at], rel=0.05)
    best = float(mark.WEIGHTS.max())
    assert mark.p_value(best, n) == pytest.approx(8.0**-n, rel=0.01) and mark.p_value(-best, n) == pytest.approx(1)


def test_texts_are_marked_in_files_and_found_with_the_run(tmp_path: Path) -> None:
    pytest.importorskip("llguidance")  # a form to keep to, for what has learnt nothing ends at once
    run = genloom.fit("gpt", "shakespeare", tmp_path / "runs" / "plays", recipe="tiny", quiet=True, steps=1)
    paths = to_files(run, 2, tmp_path / "out", seed=3, length=150, pattern="[a-z ]{120}")
    bare = to_files(run, 2, tmp_path / "bare", seed=3, length=150, pattern="[a-z ]{120}", watermark=False)
    key = keys.installation_key()
    assert all((watermark.score(p, key, run.spec) or (0, 1))[1] < FOUND for p in paths)
    assert all((watermark.score(p, key, run.spec) or (0, 1))[1] > FOUND for p in bare)
    made, difference = again(paths[1], run.folder, tmp_path / "again")
    assert difference == "" and made.read_text() == paths[1].read_text()
    (tmp_path / "alone.txt").write_bytes(paths[0].read_bytes())
    unknown, known = detect([tmp_path / "alone.txt"])[0], detect([tmp_path / "alone.txt"], run.folder)[0]
    assert unknown.watermark is None and "--run" in unknown.note and known.generated == "proved"
    (tmp_path / "screen.txt").write_text(f"\ufeff── 0 ──\n{paths[0].read_text()}\n\n\U0001f600", "utf-8")
    assert (
        detect([tmp_path / "screen.txt"], run.folder)[0].generated == "proved"
    )  # of letters that the run does not know
    greedy = to_files(run, 1, tmp_path / "greedy", length=20, temperature=0.0)
    assert (told := read_label(greedy[0])) and not told.watermark


# ── sound and films ──────────────────────────────────────────────────────────────────────────────────────────────
def voice(seconds: float = 4.0, rate: int = 22050) -> Tensor:
    """[N] in [-1, 1]: a buzz that goes up and down, with breath and pauses, as speech has them."""
    t = torch.arange(int(seconds * rate)) / rate
    pitch = 120 + 30 * torch.sin(2 * torch.pi * 0.7 * t)
    turn = 2 * torch.pi * pitch.cumsum(0) / rate
    buzz = torch.stack([torch.cos(k * turn) / k for k in range(1, 40)]).sum(0)
    breath = 0.1 * torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    loud = (0.5 + 0.5 * torch.sin(2 * torch.pi * 1.7 * t)).clamp(min=0.0) * (torch.sin(2 * torch.pi * 0.4 * t) > -0.8)
    return 0.2 * (buzz + breath) * loud


def heard(samples: Tensor | np.ndarray, rate: int, key: bytes = KEY) -> bool:
    result = sound.score([np.asarray(samples, np.float32)], rate, key)
    return result is not None and result[1] <= FOUND


def test_a_mark_in_sound_is_faint_and_outlives_cuts_noise_and_other_rates() -> None:
    rate, plain = 22050, voice()
    marked = sound.marked(plain, KEY, rate)
    ratio = 10 * math.log10(float(plain.square().mean() / (marked - plain).square().mean()))
    assert marked.shape == plain.shape and ratio > 20
    noise = 0.003 * torch.randn(len(plain), generator=torch.Generator().manual_seed(1))
    soxr = pytest.importorskip("soxr")
    fates = {
        "as it is": (marked, rate),
        "16 bits": ((marked * 32767).round() / 32767, rate),
        "cut": (marked[12345:-9876], rate),
        "noise": (marked + noise, rate),
        "quieter": (0.3 * marked, rate),
        "16 kHz": (soxr.resample(marked.numpy(), rate, 16000), 16000),
        "48 kHz": (soxr.resample(marked.numpy(), rate, 48000), 48000),
    }
    assert [name for name, fate in fates.items() if not heard(*fate)] == []
    assert not heard(plain, rate) and not heard(marked, rate, OTHER) and not heard(torch.zeros(rate), rate)
    assert sound.score([np.zeros(100, np.float32)], rate, KEY) is None
    assert torch.equal(sound.marked(plain[:5000], KEY, rate), plain[:5000])  # too short


def test_a_stream_is_marked_as_the_whole_is() -> None:
    plain = voice(1.5)
    marker = sound.Marker(KEY, 22050)
    sizes = [1, 700, 3, 9000]
    pieces = [marker.push(piece) for piece in plain.split([*sizes, len(plain) - sum(sizes)])]
    whole = torch.cat([*pieces, marker.close()])
    assert whole.shape == plain.shape and (whole - sound.marked(plain, KEY, 22050)).abs().max() < 1e-5


@pytest.mark.parametrize(("ending", "codec"), [("mp3", "mp3"), ("ogg", "libopus"), ("flac", "flac")])
def test_a_mark_in_sound_outlives_codecs(ending: str, codec: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path, rate = tmp_path / f"a.{ending}", 48000
    samples = sound.marked(voice(4, rate), KEY, rate)
    with av.open(str(path), "w") as file:
        track = file.add_stream(codec, rate=rate, layout="mono")
        if ending != "flac":
            track.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray((samples.numpy() * 32767).astype("<i2")[None], format="s16", layout="mono")
        frame.rate = rate
        for packet in [*track.encode(frame), *track.encode(None)]:
            file.mux(packet)
    scored = watermark.score(path, KEY)
    assert scored and scored[1] <= FOUND and (watermark.score(path, OTHER) or (0, 0))[1] > FOUND


def test_films_carry_the_mark_in_their_frames(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from genloom.data.video import write

    clips = torch.stack([torch.cat([scene(seed, 96) for seed in (i, i, i, i)]).transpose(0, 1) for i in (8, 9)])
    spec = Spec("video", (3, 4, 96, 96), extra={"rate": 8.0})
    marked, there = watermark.put(clips, spec, KEY)
    assert there and not watermark.put(clips[..., :40], spec, KEY)[1]
    for form in ("mp4", "gif", "webp"):
        (path, _), (plain, _) = (
            write(c, tmp_path / form / n, spec=spec, form=form) for c, n in ((marked, "m"), (clips, "p"))
        )
        assert (watermark.score(path, KEY) or (0, 1))[1] <= FOUND < (watermark.score(plain, KEY) or (0, 0))[1], form
