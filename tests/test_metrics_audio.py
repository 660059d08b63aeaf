"""Measures of sound: the numbers of the programs in use, and of signals whose answer is known."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from genloom.errors import UserError
from genloom.metrics import speakers as voices
from genloom.metrics import speech
from genloom.metrics.audio import mcd, mcd_dtw, mel_l1, multi_resolution_stft, si_sdr, snr, warped
from genloom.metrics.intelligibility import estoi, stoi
from genloom.metrics.pitch import f0_error, pitch, voicing_error
from genloom.nn.mel import PRESETS, Mel
from genloom.nn.rate import at_rate
from genloom.nn.stft import multi_resolution

GOLDEN = Path(__file__).parent / "golden"
IO = load_file(GOLDEN / "metrics_audio.safetensors")
TOLD = json.loads((GOLDEN / "metrics_audio.json").read_text())
EXPECTED = TOLD["expected"]
MEL = Mel(rate=16_000, hop=256)
heard = pytest.mark.skipif(importlib.util.find_spec("resemblyzer") is None, reason="Resemblyzer is not installed")


def sound(name: str) -> torch.Tensor:
    return IO[name].double() / 32768


def case(name: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    rate = int(name.split("_")[-1])
    return sound(f"clean_{rate}"), sound(name), rate


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tone(hertz: torch.Tensor | float, rate: int, seconds: float = 0.6, harmonics: int = 6) -> torch.Tensor:
    """[N] whose phases are the sum of hertz [N] so far."""
    turns = torch.cumsum(torch.as_tensor(hertz).double().expand(int(rate * seconds)), 0) / rate
    return 0.1 * sum((torch.sin(2 * math.pi * k * turns) / k for k in range(1, harmonics + 1)), torch.zeros(1))


# ── beside the programs in use ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", EXPECTED)
def test_waveforms_and_intelligibility(name: str) -> None:
    real, made, rate = case(name)
    expected = EXPECTED[name]
    assert float(snr(real, made)) == pytest.approx(expected["snr_db"], abs=1e-9)
    assert float(si_sdr(real, made)) == pytest.approx(expected["si_sdr_db"], abs=1e-9)
    assert float(si_sdr(real, made, zero_mean=True)) == pytest.approx(expected["si_sdr_zero_mean_db"], abs=1e-9)
    close = 1e-5 if rate == 16_000 else 1e-3  # where the rate rises, the edge of the filters is heard
    assert float(stoi(real, made, rate)) == pytest.approx(expected["stoi"], abs=close)
    assert float(estoi(real, made, rate)) == pytest.approx(expected["estoi"], abs=close)


@pytest.mark.parametrize("name", EXPECTED)
def test_pesq(name: str) -> None:
    pytest.importorskip("pesq")
    real, made, rate = case(name)
    expected = EXPECTED[name]["pesq_wb" if rate == 16_000 else "pesq_nb"]
    assert float(speech.pesq(real, made, rate)) == pytest.approx(expected, abs=1e-3)


def test_pesq_without_speech_and_at_another_rate() -> None:
    pytest.importorskip("pesq")
    assert speech.pesq(torch.zeros(1, 16_000), noise(1, 16_000), 16_000).isnan().all()
    assert speech.pesq(noise(1, 1000), noise(1, 1000), 16_000).isnan().all()
    real, made, rate = case("noise10dB_16000")
    raised = (at_rate(x[None], rate, 24_000) for x in (real, made))
    assert float(speech.pesq(*raised, 24_000)) == pytest.approx(EXPECTED["noise10dB_16000"]["pesq_wb"], abs=0.01)


def test_pesq_of_more_utterances_than_its_program_has_room_for() -> None:
    pytest.importorskip("pesq")
    bursts = noise(1, 8000 * 24) * (torch.arange(8000 * 24) % 3360 < 1680)
    assert 1 < float(speech.pesq(bursts, bursts + 0.01 * noise(1, 8000 * 24, seed=1), 8000)) < 5


def test_dnsmos() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("speechmos")
    found = speech.dnsmos(sound("noise10dB_16000").repeat(4)[: speech.LISTENED], 16_000)
    for ours, key in zip(found, ("sig_mos", "bak_mos", "ovrl_mos", "p808_mos"), strict=True):
        assert float(ours) == pytest.approx(TOLD["dnsmos"][key], abs=1e-4)


@heard
def test_voices() -> None:
    quiet = 0.05 * sound("noise10dB_16000")[:20_000]
    for wave, key in ((sound("clean_16000"), "voice.clean"), (quiet, "voice.quiet_and_short")):
        torch.testing.assert_close(voices.speakers(wave, 16_000)[0], IO[key], atol=1e-5, rtol=0)
    raised = at_rate(sound("clean_16000")[None], 16_000, 22_050)
    assert float(voices.similarity(voices.speakers(raised, 22_050), IO["voice.clean"][None])) > 0.99


@heard
def test_two_sets_of_voices() -> None:
    made = noise(20, 256).abs()
    name, near = voices.fad(made, made + 1e-3)
    assert name == "fad-resemblyzer@20" and len(voices.ear().sha256) == 64
    assert near.value < voices.fad(made, noise(20, 256, seed=1))[1].value


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib, "import_module", absent)
    for cached in (speech.networks, voices.ear):
        cached.cache_clear()
    with pytest.raises(UserError, match=r"PESQ needs one library more: pip install 'genloom\[listen\]'"):
        speech.pesq(noise(1, 8000), noise(1, 8000), 8000)
    with pytest.raises(UserError, match=r"DNSMOS needs one library more: pip install 'genloom\[listen\]'"):
        speech.dnsmos(noise(1, 8000), 16_000)
    with pytest.raises(UserError, match="pip install --no-deps Resemblyzer"):
        voices.speakers(noise(1, 8000), 16_000)


# ── known answers ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sound_is_like_itself() -> None:
    wave = sound("clean_16000").float()
    for figure in (mel_l1(wave, wave, MEL), multi_resolution_stft(wave, wave), mcd(wave, wave, MEL)):
        assert figure.shape == (1,) and figure.dtype == torch.float64 and float(figure) == 0
    assert float(f0_error(wave, wave, 16_000)) == float(voicing_error(wave, wave, 16_000)) == 0
    assert float(snr(wave, wave)) == torch.inf
    assert float(stoi(wave, wave, 16_000)) == pytest.approx(1)
    assert float(estoi(wave, wave, 16_000)) == pytest.approx(1)


def test_twice_as_loud() -> None:
    wave = noise(2, 8000).double()
    convergence, distance = multi_resolution(wave, 2 * wave)
    torch.testing.assert_close(convergence, torch.ones(2).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(distance, torch.full((2,), math.log(2)).double(), rtol=1e-3, atol=0)
    torch.testing.assert_close(mel_l1(wave, 2 * wave, PRESETS["melgan"]), torch.full((2,), math.log10(2)).double())
    assert float(mcd(wave, 2 * wave, MEL).max()) < 1e-6  # loudness is no part of it
    torch.testing.assert_close(
        si_sdr(wave, 2 * wave + 1e-3, zero_mean=True).clamp(max=200), torch.full((2,), 200.0).double()
    )


def test_spectra_are_a_loss() -> None:
    real, made = noise(2, 3000), noise(2, 3000, seed=1).requires_grad_()
    sum(multi_resolution(real, made), torch.zeros(2)).sum().backward()
    assert made.grad is not None and made.grad.isfinite().all() and made.grad.abs().amax(1).min() > 0


def test_cepstral_distortion_is_a_difference_of_envelopes_in_decibels() -> None:
    real, made, _ = case("lowpass_clip_16000")
    apart = 20 / math.log(10) * (MEL(real[None]) - MEL(made[None]))[0].T  # [T, bands], dB
    places = (torch.arange(MEL.bands).double() + 0.5) / MEL.bands
    waves = torch.stack([torch.cos(math.pi * m * places) for m in range(14)], 1)  # [bands, 14]
    smooth = (waves @ torch.linalg.lstsq(waves, apart.T).solution).T
    wanted = (smooth - smooth.mean(1, keepdim=True)).square().mean(1).sqrt().mean()
    assert float(mcd(real, made, MEL)) == pytest.approx(float(wanted), rel=1e-3)


def test_another_tempo_is_forgiven_by_warping() -> None:
    real = sound("clean_16000")
    late = torch.cat([torch.zeros(2560), real, torch.zeros(1000)])
    assert float(mcd_dtw(real, real, MEL)) == pytest.approx(0, abs=1e-3)
    assert float(mcd_dtw(real, late, MEL)) < float(mcd(real, late[: len(real)], MEL)) / 4
    with pytest.raises(UserError, match="1 real and 2 made"):
        mcd_dtw(real, noise(2, 4000), MEL)


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), seed=st.integers(0, 99))
def test_warping_finds_the_cheapest_path(rows: int, columns: int, seed: int) -> None:
    costs = np.random.default_rng(seed).random((rows, columns))
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for i in range(rows):
        for j in range(columns):
            before = [best[p] for p in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if p in best] or [(0.0, 0)]
            total, steps = min(before, key=lambda b: b[0])
            best[i, j] = (total + costs[i, j], steps + 1)
    total, steps = best[rows - 1, columns - 1]
    assert float(warped(torch.from_numpy(costs)[None])) == pytest.approx(total / steps)


@pytest.mark.parametrize("rate", [8000, 22_050])
@pytest.mark.parametrize("hertz", [90.0, 220.7, 583.0])
def test_the_pitch_of_a_tone(rate: int, hertz: float) -> None:
    f0, voiced = pitch(tone(hertz, rate), rate)
    assert voiced[0, 2:-2].all()
    assert float((1200 * torch.log2(f0[0, 2:-2] / hertz)).abs().max()) < 2  # cents


def test_the_pitch_of_a_glide() -> None:
    rate, seconds = 16_000, 1.0
    f0, voiced = pitch(tone(100 * 2 ** (torch.arange(rate) / rate), rate, seconds), rate)
    wanted = 100 * 2 ** (torch.arange(f0.shape[1]) / 100)
    assert voiced[0, 2:-2].all()
    assert float((1200 * torch.log2(f0[0] / wanted))[3:-3].abs().max()) < 2


def test_noise_and_silence_have_no_pitch() -> None:
    for wave in (noise(4, 8000), torch.zeros(1, 8000)):
        f0, voiced = pitch(wave, 16_000)
        assert not voiced.any() and not f0.any() and f0.shape == (len(wave), 51)
    assert f0_error(noise(1, 8000), noise(1, 8000), 16_000).isnan().all()
    with pytest.raises(UserError, match="2400 or more samples a second, not 2000"):
        pitch(noise(1, 8000), 2000)


def test_errors_of_pitch_and_voicing() -> None:
    real = tone(200.0, 16_000)
    assert float(f0_error(real, tone(200 * 2 ** (50 / 1200), 16_000), 16_000)) == pytest.approx(50, abs=1)
    half = torch.where(torch.arange(len(real)) < len(real) // 2, real, 0)
    assert float(voicing_error(real, half, 16_000)) == pytest.approx(0.5, abs=0.05)
    assert float(f0_error(real, half, 16_000)) < 10  # only where both are voiced


def test_the_pitch_of_a_woman_speaking() -> None:
    pytest.importorskip("av")
    from genloom.data.sound import read

    found = []
    with zipfile.ZipFile(Path(__file__).parent.parent / "genloom" / "data" / "embedded" / "speech.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".g722"))[:5]
        for name in names:
            found.append(pitch(torch.from_numpy(read(io.BytesIO(archive.read(name)), name).samples), 16_000))
    f0 = torch.cat([f[v] for f, v in found])
    assert 160 < float(f0.median()) < 230 and float(((f0 > 100) & (f0 < 400)).float().mean()) > 0.97
    assert 0.6 < float(torch.cat([v for _, v in found], 1).float().mean()) < 0.95


def test_too_little_speech_is_not_judged() -> None:
    for samples in (100, 3000):
        assert stoi(noise(1, samples), noise(1, samples), 16_000).isnan().all()
        assert estoi(noise(1, samples), noise(1, samples), 16_000).isnan().all()


def test_shapes_that_cannot_be_compared() -> None:
    with pytest.raises(UserError, match=r"cut \[1, 4000\] and \[1, 3999\] to the same"):
        snr(noise(4000), noise(3999))
    with pytest.raises(UserError, match="one channel"):
        snr(noise(1, 2, 4000), noise(1, 2, 4000))
    with pytest.raises(UserError, match="more than 1024 samples, not 900"):
        multi_resolution_stft(noise(900), noise(900))
    with pytest.raises(UserError, match="more bands than 13"):
        mcd(noise(4000), noise(4000), Mel(bands=13))
    assert torch.equal(snr(noise(2, 1, 400), noise(2, 1, 400, seed=1)), snr(noise(2, 400), noise(2, 400, seed=1)))


@pytest.mark.parametrize(("before", "after"), [(44_100, 16_000), (16_000, 22_050), (22_051, 8000)])
def test_a_tone_at_another_rate(before: int, after: int) -> None:
    made = at_rate(tone(440.0, before)[None], before, after)[0]
    wanted = 0.1 * sum(
        torch.sin(2 * math.pi * 440 * k * (torch.arange(len(made)).double() / after + 1 / before)) / k
        for k in range(1, 7)
    )
    assert len(made) == math.ceil(int(0.6 * before) * after / before)
    middle = slice(len(made) // 4, -len(made) // 4)
    torch.testing.assert_close(made[middle], wanted[middle], atol=1e-4, rtol=0)
