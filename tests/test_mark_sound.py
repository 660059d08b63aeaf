"""The mark in sound: found by its key alone, after codecs and cuts, in whole clips and in streams, and not heard."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genloom.core import Spec
from genloom.data import open_data
from genloom.data.audio import write
from genloom.data.video import write as write_films
from genloom.provenance import watermark
from genloom.provenance.watermark import sound

KEY, OTHER = b"a" * 32, b"b" * 32
RATE = 16_000
SURE = 1e-3


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """[1, N] nine seconds of the embedded speech."""
    data = open_data("speech", modality="audio")
    clips = [clip for _, clip in data.clips()]  # type: ignore[attr-defined]
    return torch.from_numpy(np.concatenate(clips)[: 9 * RATE].astype(np.float32))[None]


@pytest.fixture(scope="module")
def marked(speech: Tensor) -> Tensor:
    return sound.marked(speech, RATE, KEY)


def p(wave: Tensor, key: bytes = KEY, rate: int = RATE) -> float:
    found = sound.score(wave, rate, key)
    assert found
    return found[1]


def test_the_key_finds_the_mark_and_another_does_not(speech: Tensor, marked: Tensor) -> None:
    assert p(marked) < 1e-9 and p(marked, OTHER) > SURE and p(speech) > SURE


def test_it_lies_far_below_the_sound(speech: Tensor, marked: Tensor) -> None:
    snr = 10 * torch.log10(speech.square().sum() / (marked - speech).square().sum())
    assert snr > 23 and marked.shape == speech.shape and marked.abs().max() <= 1
    quiet = speech.square().unfold(1, 400, 400).mean(2) < 1e-8
    assert (marked - speech).square().unfold(1, 400, 400).mean(2)[quiet].max() < 1e-8  # silence stays silent


@pytest.mark.parametrize("change", ["cut", "louder", "noise", "resampled", "sixteen bits"])
def test_changes_leave_it_there(marked: Tensor, change: str) -> None:
    random = torch.Generator().manual_seed(0)
    changed = {
        "cut": lambda x: x[:, 12_345 : 12_345 + 4 * RATE],
        "louder": lambda x: x * 0.4,
        "noise": lambda x: x + 10**-1.5 * x.std() * torch.randn(x.shape, generator=random),
        "resampled": lambda x: torch.from_numpy(pytest.importorskip("soxr").resample(x[0].numpy(), RATE, 22_050))[None],
        "sixteen bits": lambda x: (x * 32767).round() / 32767,
    }[change](marked)
    assert p(changed, rate=22_050 if change == "resampled" else RATE) < SURE


@pytest.mark.parametrize(("form", "codec", "bits"), [("mp3", "libmp3lame", 64_000), ("ogg", "libopus", 24_000)])
def test_codecs_leave_it_there(marked: Tensor, form: str, codec: str, bits: int) -> None:
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec} here")
    rate = 48_000 if codec == "libopus" else RATE
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = bits
        frame = av.AudioFrame.from_ndarray((marked.numpy() * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = RATE
        to = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        for part in [*to.resample(frame), *to.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as back:
        to = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        pieces = [part.to_ndarray()[0] for frame in back.decode(audio=0) for part in to.resample(frame)]
    assert p(torch.from_numpy(np.concatenate(pieces))[None]) < SURE


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_a_stream_gets_exactly_what_the_whole_would(speech: Tensor, rate: int) -> None:
    whole = sound.marked(speech, rate, KEY)
    stream, random, out, at = sound.Stream(rate, KEY), np.random.default_rng(rate), [], 0
    while at < speech.shape[1]:
        size = int(random.integers(1, rate))
        out.append(stream.push(speech[:, at : at + size]))
        at += size
    made = torch.cat([*out, stream.push(speech[:, :0], last=True)], 1)
    assert torch.equal(made, whole)


def test_what_is_too_short_or_silent_is_left_as_it_is() -> None:
    short, silent = torch.rand(1, 100), torch.zeros(1, RATE)
    assert torch.equal(sound.marked(short, RATE, KEY), short) and sound.score(short, RATE, KEY) is None
    assert torch.equal(sound.marked(silent, RATE, KEY), silent) and p(silent) == 1.0


def test_false_alarms_are_as_rare_as_they_are_said_to_be(speech: Tensor) -> None:
    keys = [bytes([i]) * 32 for i in range(60)]
    values = [p(speech[:, : 4 * RATE], key) for key in keys]
    assert min(values) > SURE / 10 and np.median(values) > 0.3


def test_files_of_sound_are_marked_and_judged(speech: Tensor, tmp_path: Path) -> None:
    spec = Spec("audio", (1, speech.shape[1]), extra={"rate": RATE})
    made, there = watermark.put(speech[None], spec, KEY)
    paths = write(made, tmp_path / "marked", spec=spec)
    plain = write(speech[None], tmp_path / "plain", spec=spec)
    assert there
    found, other = watermark.score(paths[0], KEY), watermark.score(plain[0], KEY)
    assert found and found[1] < 1e-9 and other and other[1] > SURE
    broken = tmp_path / "broken.wav"
    broken.write_bytes(paths[0].read_bytes()[:60])
    assert watermark.score(broken, KEY) is None


def test_films_are_marked_frame_by_frame_and_judged_as_files(tmp_path: Path) -> None:
    pytest.importorskip("av")
    data = open_data("carphone", modality="video", size=128, frames=12)
    clip = data.batch(np.array([0]))["video"]
    made, there = watermark.put(clip, data.spec, KEY)
    gap = (torch.as_tensor(made) - clip).square().mean()
    assert there and 10 * torch.log10(4 / gap) > 40
    for name, clips, seen in (("marked", made, True), ("plain", clip, False)):
        (path,) = write_films(clips, tmp_path / name, spec=data.spec)
        found = watermark.score(path, KEY)
        assert found and (found[1] < SURE) == seen
