"""Files of sound of every kind, and of none."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genloom.data import sound
from genloom.data.files import UnreadableError
from genloom.data.sound import read


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def wav(samples: np.ndarray, rate: int, channels: int = 1) -> io.BytesIO:
    """16-bit PCM by Python's own writer."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((np.repeat(samples[:, None], channels, 1) * 32767).astype("<i2").tobytes())
    file.seek(0)
    return file


def packed(container: str, codec: str, samples: np.ndarray, rate: int) -> io.BytesIO:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        track = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.rate = rate
        for converted in av.AudioResampler(format=track.format.name, layout="mono", rate=rate).resample(frame):
            out.mux(track.encode(converted))
        out.mux(track.encode(None))
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("container", "codec", "name", "rate", "error"),
    [
        ("flac", "flac", "a.flac", 44_100, 1e-3),
        ("ogg", "libopus", "a.ogg", 48_000, 0.05),
        ("mp3", "libmp3lame", "a.mp3", 44_100, 0.05),
        ("mov", "aac", "a.m4a", 44_100, 0.05),
        ("g722", "g722", "a.G722", 16_000, 0.05),
    ],
)
def test_every_kind_gives_the_sound_back(container: str, codec: str, name: str, rate: int, error: float) -> None:
    found = read(packed(container, codec, tone(rate), rate), name)
    assert (found.rate, found.channels) == (rate, 1) and 0.95 < found.seconds < 1.1
    spectrum = np.abs(np.fft.rfft(found.samples[:rate]))
    assert spectrum.argmax() == 440  # Hz: one second is a hertz a bin
    assert np.sqrt(np.mean(found.samples**2)) == pytest.approx(0.5 / np.sqrt(2), rel=error)


@pytest.mark.parametrize(("before", "after"), [(44_100, 16_000), (8_000, 22_050), (192_000, 24_000)])
def test_resampling_neither_shifts_nor_colours(before: int, after: int) -> None:
    found = read(wav(tone(before), before), "a.wav", after)
    assert found.original == before and abs(len(found.samples) - after) <= 2
    inner = slice(after // 20, len(found.samples) - after // 20)
    assert np.abs(found.samples - tone(after, 2)[: len(found.samples)])[inner].max() < 2e-3


def test_channels_are_averaged_and_what_is_odd_is_told() -> None:
    many = read(wav(tone(192_000, 0.2), 192_000, 8), "a.wav", 16_000)
    assert many.channels == 8 and len(many.samples) == pytest.approx(3200, abs=2)
    assert read(wav(np.zeros(1000, np.float32), 8000), "a.wav").silent
    loud = read(wav(np.where(np.arange(1000) % 4, 1.0, 0.0).astype(np.float32), 8000), "a.wav")
    assert loud.clipped == 0.75 and not loud.silent


def not_numbers() -> io.BytesIO:
    samples = tone(8000)
    samples[100] = np.nan
    file = packed("wav", "pcm_f32le", samples, 8000)
    assert np.isnan(np.frombuffer(file.getvalue()[-32_000:], "<f4")).any()
    return file


def picture() -> io.BytesIO:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return io.BytesIO(file.getvalue())


def unheard_of() -> io.BytesIO:
    """A WAV whose header names a codec that there is not."""
    raw = bytearray(wav(tone(8000), 8000).getvalue())
    raw[20:22] = b"\x01\x53"
    return io.BytesIO(bytes(raw))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (unheard_of, "of a kind that FFmpeg does not know"),
        (lambda: io.BytesIO(b"these are words, and no sound\n" * 50), "no sound"),
        (lambda: io.BytesIO(b""), "no sound"),
        (lambda: wav(np.empty(0, np.float32), 8000), "no sound"),
        (picture, "no sound"),
        (not_numbers, "values in it are no numbers"),
    ],
    ids=["unknown codec", "words", "empty", "no samples", "picture", "NaN"],
)
def test_what_is_no_sound_is_named(make: Callable[[], io.BytesIO], said: str) -> None:
    with pytest.raises(UnreadableError, match=said):
        read(make(), "a.wav")


def test_hours_are_refused_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "LONGEST", 1)
    assert read(wav(tone(8000), 8000), "a.wav").seconds == 1
    with pytest.raises(UnreadableError, match="longer than"):
        read(wav(tone(8000, 2), 8000), "a.wav")


@settings(deadline=None, max_examples=30)
@given(cut=st.integers(0, 3000), broken=st.binary(max_size=40), at=st.integers(0, 3000))
def test_a_file_cut_short_or_broken_is_sound_or_is_named(cut: int, broken: bytes, at: int) -> None:
    raw = bytearray(packed("flac", "flac", tone(8000, 0.3), 8000).getvalue())
    raw[at : at + len(broken)] = broken
    try:
        found = read(io.BytesIO(bytes(raw[: len(raw) - cut])), "a.flac")
    except UnreadableError:
        return
    assert np.isfinite(found.samples).all()
