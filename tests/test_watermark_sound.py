"""The watermark of sound: not heard, found again after what happens to sound, and found in nothing else."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from genloom.provenance.watermark import sound

KEY, OTHER = b"k" * 32, b"o" * 32
FOUND = 1e-3


def speech(seed: int, rate: int = 16_000, seconds: float = 6.0) -> Tensor:
    """[N]: a hum of harmonics and some breath, in syllables of a fifth of a second."""
    draw = torch.Generator().manual_seed(seed)
    time = torch.arange(int(seconds * rate)) / rate
    pitch = 120 + 30 * torch.sin(2 * math.pi * 0.4 * time + seed)
    turn = 2 * math.pi * torch.cumsum(pitch, 0) / rate
    hum = torch.stack([torch.sin(k * turn) / k for k in range(1, 40) if k * 150 < rate / 2]).sum(0)
    breath = 0.3 * torch.randn(len(time), generator=draw)
    syllables = torch.rand(int(seconds * 5) + 2, generator=draw)
    return 0.2 * (hum + breath) * torch.nn.functional.interpolate(syllables[None, None], len(time), mode="linear")[0, 0]


def found(wave: Tensor, rate: int = 16_000, key: bytes = KEY) -> bool:
    score = sound.score(wave, rate, key)
    return score is not None and score[1] <= FOUND


def marked(wave: Tensor, rate: int = 16_000) -> Tensor:
    return sound.marked(wave[None], rate, KEY)[0]


def coded(wave: Tensor, codec: str, form: str, bits: int) -> tuple[Tensor, int]:
    av = pytest.importorskip("av")
    file, rate = io.BytesIO(), 48_000 if codec == "libopus" else 16_000
    with av.open(file, "w", format=form) as out:
        track = out.add_stream(codec, rate=rate, layout="mono", bit_rate=bits)
        frame = av.AudioFrame.from_ndarray((wave * 32767).numpy().astype("<i2")[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        way = av.AudioResampler(track.codec_context.format, "mono", rate, frame_size=track.codec_context.frame_size)
        for piece in [*way.resample(frame), *way.resample(None), None]:
            out.mux(track.encode(piece))
    file.seek(0)
    with av.open(file) as made:
        return torch.from_numpy(
            np.concatenate([f.to_ndarray().reshape(-1) for f in made.decode(audio=0)])
        ).float(), rate


def test_a_mark_is_not_heard() -> None:
    """The change lies 18 dB below the sound, and 15 below it at every pitch."""
    plain = speech(1)
    change = marked(plain) - plain
    assert 10 * torch.log10(plain.square().sum() / change.square().sum()) > 18
    window = torch.hann_window(1024)
    before, after = (torch.stft(w, 1024, window=window, return_complex=True).abs().square() for w in (plain, change))
    for low in (5, 10, 20, 40, 80, 160, 320):
        ratio = after[low : low * 5 // 4].sum() / before[low : low * 5 // 4].sum()
        assert ratio < 10**-1.5


def test_silence_stays_silent_and_loud_sound_in_range() -> None:
    assert not marked(torch.zeros(16_000)).any()
    assert marked((speech(2) * 50).clamp(-1, 1)).abs().max() <= 1
    assert sound.score(torch.zeros(64_000), 16_000, KEY) is None  # nothing is to be heard
    assert sound.score(speech(2, seconds=0.2), 16_000, KEY) is None


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_a_mark_is_found_at_every_rate(rate: int) -> None:
    plain = speech(3, rate)
    assert found(marked(plain, rate), rate) and not found(plain, rate) and not found(marked(plain, rate), rate, OTHER)


def test_a_mark_outlives_what_happens_to_sound() -> None:
    wave = marked(speech(4, seconds=8))
    noise = torch.randn(len(wave), generator=torch.Generator().manual_seed(0))
    stretched = torch.nn.functional.interpolate(wave[None, None], len(wave) * 3 // 2, mode="linear")[0, 0]
    fates = {
        "as it is": (wave, 16_000),
        "cut": (wave[33_333:90_000], 16_000),
        "softer": (wave * 0.2, 16_000),
        "noise 20 dB below": (wave + noise * wave.std() / 10, 16_000),
        "another rate": (stretched, 24_000),
        "MP3 64": coded(wave, "libmp3lame", "mp3", 64_000),
        "Opus 24": coded(wave, "libopus", "ogg", 24_000),
    }
    assert [name for name, fate in fates.items() if not found(*fate)] == []


def test_a_stream_has_the_same_mark_as_the_whole() -> None:
    wave, marker, made = speech(5, seconds=2), sound.Marker(16_000, KEY), list[Tensor]()
    for start in range(0, len(wave), 700):
        made.append(marker.add(wave[start : start + 700]))
        assert min(start + 700, len(wave)) - sum(map(len, made)) <= 0.048 * 16_000 + 1  # how far behind it is
    streamed = torch.cat([*made, marker.end()])
    assert len(streamed) == len(wave) and torch.allclose(streamed, marked(wave), atol=1e-6)


def test_p_values_are_what_they_say() -> None:
    """Of keys that a sound was not marked with, no more than a share p scores p."""
    wave = speech(6, seconds=3)
    values = np.array([sound.score(wave, 16_000, bytes([i]) * 32)[1] for i in range(100)])  # type: ignore[index]
    assert (values <= 0.1).mean() <= 0.1 + 3 * 0.03 and (values > 0.5).any()
