"""Vocoders as a user meets them: streams that equal the whole, mel spectrograms that do not fit, files in and out."""

from __future__ import annotations

import subprocess
import sys
import wave
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrize

import genloom
from genloom import core, generate, measure_audio
from genloom.core import Spec
from genloom.data.sound import Writer, header, pieces_of
from genloom.errors import UserError
from genloom.generate import stream_to, to_files
from genloom.metrics import speakers
from genloom.models.audio import hifigan, melgan, vocos
from genloom.nn.lined import Convolution, Rise, lined
from genloom.nn.mel import PRESETS, Mel
from genloom.nn.pqmf import Analysis, Synthesis
from genloom.nn.streaming import Framed, through

GENERATORS = {
    "melgan": lambda: melgan.Generator(20, 4, 3),
    "multiband": lambda: melgan.Generator(20, 8, 2, (8, 4, 2), 4),
    "hifigan V1": lambda: hifigan.Generator(
        20, 32, (8, 8, 2, 2), (16, 16, 4, 4), (3, 7), [(1, 3, 5), (1, 3, 5)], pairs=True
    ),
    "hifigan V3": lambda: hifigan.Generator(20, 32, (8, 8, 4), (16, 16, 8), (3, 5), [(1, 2), (2, 6)], pairs=False),
    "vocos": lambda: vocos.Generator(20, 16, 32, 3, 1024, 256, "same"),
    "vocos, centred": lambda: vocos.Generator(20, 16, 32, 3, 1024, 256, "centre"),
}


@pytest.mark.parametrize("name", GENERATORS)
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), max_size=6))
def test_a_stream_in_any_pieces_is_the_whole(name: str, cuts: list[int]) -> None:
    torch.manual_seed(0)
    net, mel = GENERATORS[name]().eval(), torch.randn(1, 20, 40)
    places = sorted({0, *cuts, 40})
    pieces = [mel[..., a:b] for a, b in pairwise(places)]
    with torch.inference_mode(), parametrize.cached():
        made = torch.cat([*through(net.pipe(), pieces)], 2)
        torch.testing.assert_close(made, net(mel), atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_mel_spectrogram_of_pieces_is_that_of_the_whole(preset: str) -> None:
    mel, sound = Mel.of(preset), torch.randn(1, 1, 9000) / 10
    made = torch.cat([*through(Framed(mel), sound.split(700, 2))], 2)
    torch.testing.assert_close(made, mel(sound), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel, stride, odd", [(16, 8, 0), (4, 2, 0), (6, 3, 1)])
def test_lined_layers_are_pytorch_s(kernel: int, stride: int, odd: int) -> None:
    how = {"padding": stride // 2 + odd, "output_padding": odd}
    ours, x = Rise(6, 4, kernel, stride, **how), torch.randn(2, 6, 11)
    theirs = torch.nn.ConvTranspose1d(6, 4, kernel, stride, **how)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(lined(x)), theirs(x))
    ours, theirs = (kind(6, 6, 5, stride=2, padding=2, groups=2) for kind in (Convolution, torch.nn.Conv1d))
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(lined(x)), theirs(x))
    assert ours(lined(x)).transpose(1, 2).is_contiguous()  # what the next layer takes as it is


@pytest.mark.parametrize("bands", [2, 4, 8])
def test_bands_together_are_the_wave_again(bands: int) -> None:
    x = torch.randn(1, 1, 4000)
    error = (Synthesis(bands)(Analysis(bands)(x)) - x)[..., 200:-200]
    assert 10 * torch.log10(error.square().mean() / x.square().mean()) < -45


def test_mel_spectrograms_in_words() -> None:
    assert Mel.of("vocos@16000,bands=80") == Mel(
        rate=16_000, bands=80, scale="htk", norm="none", floor=1e-7, edges="centre"
    )
    assert Mel.of("hifigan@8000").fmax is None  # 8 kHz holds no more than 4 kHz
    for words, said in (
        ("melgen", "Did you mean 'melgan'"),
        ("melgan,hup=2", "no 'hup'"),
        ("melgan@x", "rate is a number, not 'x'"),
    ):
        with pytest.raises(UserError, match=said):
            Mel.of(words)


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> genloom.Run:
    folder = tmp_path_factory.mktemp("vocoder")
    options = {"data_options": {"rate": 8000}, "quiet": True, "recipe": "tiny", "steps": 2}
    return genloom.fit("melgan", "speech", folder / "run", **options)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    sound = torch.from_numpy(np.sin(np.arange(30_000) / 20)).float()[None] / 2
    with Writer(tmp_path / "tone.wav", 16_000) as file:
        file.add(sound)
    return tmp_path / "tone.wav"


def test_the_mel_spectrogram_is_part_of_the_run(run: genloom.Run) -> None:
    assert Mel.of(run.spec.extra["mel"]) == Mel.of("melgan@8000")


def samples(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        return file.readframes(file.getnframes())


def test_a_source_is_made_again_whole_and_as_a_stream(run: genloom.Run, clip: Path, tmp_path: Path) -> None:
    (whole,) = to_files(run, 1, tmp_path / "out", source=str(clip))
    assert whole.name == "tone.wav"
    seconds = stream_to(run, tmp_path / "stream.wav", source=str(clip))
    a, b = (np.frombuffer(samples(p), "<i2").astype(int) for p in (tmp_path / "stream.wav", whole))
    assert len(a) == len(b) and np.abs(a - b).max() <= 1  # a float's last bit may round the other way
    assert abs(seconds - 30_000 / 16_000) < 0.05
    with wave.open(str(whole)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)


def test_a_source_is_made_again_in_the_precision_asked_for(run: genloom.Run, clip: Path, tmp_path: Path) -> None:
    made = [
        np.frombuffer(samples(to_files(run, 1, tmp_path / f"{kind}", source=str(clip), precision=kind)[0]), "<i2")
        for kind in ("auto", "fp32", "bf16")
    ]
    assert np.array_equal(made[0], made[1])
    apart = np.abs(made[1].astype(int) - made[2]).max()
    assert 0 < apart < 0.02 * 2**15, "bf16 has eight bits of precision, and the same sound"
    with pytest.raises(genloom.UserError, match="auto, fp32, bf16, fp16"):
        to_files(run, 1, tmp_path / "none", source=str(clip), precision="fp8")


def test_a_stream_goes_through_a_pipe(run: genloom.Run, clip: Path, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "genloom",
        "sample",
        str(run.folder),
        "--source",
        str(clip),
        "--stream",
        "--out",
        "-",
    ]
    piped = subprocess.run(words, capture_output=True, check=True).stdout
    stream_to(run, tmp_path / "stream.wav", source=str(clip))
    assert piped[44:] == samples(tmp_path / "stream.wav")


def test_a_mel_spectrogram_is_taken_converted_or_refused(
    run: genloom.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genloom.generate.has_fast_bf16", lambda device: False)  # what is compared is fp32
    model = genloom.load(run)
    sound = torch.from_numpy(np.sin(np.arange(8192) / 9)).float()[None] / 2
    natural = Mel.of("melgan@8000,log=e")
    np.save(tmp_path / "natural.npy", natural(sound)[0].numpy())
    path = str(tmp_path / "natural.npy")
    with pytest.raises(UserError, match="say which it is"):
        genloom.sample(run, source=path)
    (made,) = genloom.sample(run, source=path, kind="melgan@8000,log=e")
    torch.testing.assert_close(made, model.vocode(model.mel(sound))[0], atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="hop 300, not 256"):
        genloom.sample(run, source=path, kind="melgan@8000,log=e,hop=300")
    clips = tmp_path / "clips"
    to_files(run, 2, clips)
    clip = str(next(clips.glob("*.wav")))
    for call in (
        lambda: genloom.sample(run, 1, kind="melgan"),
        lambda: genloom.sample(run, source=clip, kind="melgan"),
        lambda: stream_to(run, tmp_path / "a.wav", source=clip, kind="melgan"),
    ):
        with pytest.raises(UserError, match="none to be 'melgan': leave it out"):
            call()
    with pytest.raises(UserError, match=r"one file, and 2 samples are asked for"):
        to_files(run, None, tmp_path / "one.wav", source=str(clips))
    for array, said in (
        (np.zeros((5, 80), np.float32), "turn it round"),
        (np.zeros((81, 5), np.float32), "80 bands are wanted"),
        (np.full((80, 5), np.nan, np.float32), "finite numbers"),
        (np.zeros((80, 5), np.int64), "finite numbers"),
    ):
        np.save(tmp_path / "bad.npy", array)
        with pytest.raises(UserError, match=said):
            genloom.sample(run, source=str(tmp_path / "bad.npy"))


def test_bad_sources_are_told_of_in_a_sentence(run: genloom.Run, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for name, said in (("text.wav", "cannot be read"), ("pickle.npy", "no array"), ("absent.wav", "nothing at")):
        with pytest.raises(UserError, match=said):
            genloom.sample(run, source=str(tmp_path / name))
    with pytest.raises(UserError, match="--source"):
        stream_to(run, tmp_path / "x.wav")
    short = torch.zeros(1, 40)
    with pytest.raises(UserError, match="more than 384 samples"):
        genloom.sample(run, 1, source=[short])


def test_data_of_another_rate_is_refused_and_the_right_one_is_asked_for() -> None:
    spec = Spec("audio", (1, 8192), extra={"rate": 44_100})
    with pytest.raises(UserError, match=r"--data.rate 22050, or --model.mel melgan@44100"):
        core.build(core.find("melgan"), spec, {})
    assert core.find("melgan").asks({"mel": "melgan@16000"}) == {"rate": 16_000}
    with pytest.raises(UserError, match=r"--model.ratios times --model.split is 64"):
        core.build(core.find("melgan"), Spec("audio", (1, 8192), extra={"rate": 22_050}), {"ratios": "8 8"})


def test_the_official_weights_become_runs(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    golden = Path(__file__).parent / "golden"
    for name, file, config in (
        ("melgan", "melgan_g", None),
        ("hifigan", "hifigan_resblock1", "hifigan_resblock1.json"),
    ):
        weights, io_ = load_file(golden / f"{file}_weights.safetensors"), load_file(golden / f"{file}.safetensors")
        save_file(weights, tmp_path / f"{name}.safetensors")
        run = genloom.import_(
            name, tmp_path / f"{name}.safetensors", tmp_path / name, config=golden / config if config else None
        )
        with torch.inference_mode():
            made = genloom.load(run).vocode(io_["mel"])
        torch.testing.assert_close(made, io_["wav"], atol=2e-5, rtol=1e-4)
        with pytest.raises(UserError, match="give it a --source"):
            genloom.sample(run, 1)


def test_evaluate_measures_beside_griffin_lim_and_keeps_clips_to_hear(run: genloom.Run) -> None:
    result = genloom.evaluate(run, metrics=["mel-l1", "stft", "si-sdr", "stoi"])
    found = {m["name"]: m["value"] for m in result["metrics"]}
    beside = result["beside"]
    assert beside["mel-l1"]["recordings"] == 0 < beside["mel-l1"]["fast-griffin-lim@60"] < found["mel-l1"]
    assert beside["stoi"]["griffin-lim@60"] > found["stoi"] and beside["stoi"]["recordings"] > 0.999
    page = (run.folder / "report.html").read_text()
    assert page.count("<audio") >= 4 and "griffin-lim@60" in page
    with pytest.raises(UserError, match="Did you mean 'mel-l1'"):
        genloom.evaluate(run, metrics=["mel_l1"])


def test_voices_are_compared_where_their_library_is(run: genloom.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(160 * 40, 4))
    monkeypatch.setattr(speakers, "ear", lambda: speakers.Ear("stub", "0" * 64, 4, net.eval()))
    monkeypatch.setattr(measure_audio, "ITERATIONS", 3)
    monkeypatch.setattr(measure_audio, "BASELINES", {"fast-griffin-lim@3": 0.99})
    result = genloom.evaluate(run, metrics=["speaker"])
    (found,), beside = result["metrics"], result["beside"]["speaker"]
    assert found["value"] < beside["fast-griffin-lim@3"] < beside["recordings"] == pytest.approx(1)

    def absent() -> None:
        raise UserError("Speakers are compared by one library more.")

    monkeypatch.setattr(speakers, "ear", absent)
    monkeypatch.setattr(measure_audio, "MEASURES", {k: measure_audio.MEASURES[k] for k in ("mel-l1", "speaker")})
    result = genloom.evaluate(run)
    assert [m["name"] for m in result["metrics"]] == ["mel-l1"]
    assert result["warnings"][0] == "'speaker' is left out: Speakers are compared by one library more."
    with pytest.raises(UserError, match="by one library more"):
        genloom.evaluate(run, metrics=["speaker"])


def test_a_sound_appears_whole(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.wav", 8000) as file:
        for _ in range(2):
            file.add(torch.zeros(1, 100))
            assert not (tmp_path / "a.wav").exists()
    with wave.open(str(tmp_path / "a.wav")) as sound:
        assert sound.getnframes() == 200
    assert len(header(8000, None)) == 44


def test_pieces_are_as_long_as_the_machine_makes_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that makes a frame in half a millisecond and needs ten for a piece gets to 60 frames, and stays there."""
    clock, pace, sizes = [0.0], generate.Pace(), list[int]()
    monkeypatch.setattr(generate.time, "perf_counter", lambda: clock[0])

    def machine() -> Iterator[torch.Tensor]:
        while True:
            sizes.append(pace.frames)
            clock[0] += 0.010 + 0.0005 * pace.frames
            yield torch.zeros(1)

    for _, _ in zip(range(30), pace.keep(machine()), strict=False):
        pass
    assert sizes[0] == generate.FIRST and len(set(sizes[15:])) == 1
    assert 0.035 < 0.010 + 0.0005 * sizes[-1] < 0.05


def test_pieces_of_a_file_are_the_file(clip: Path) -> None:
    pieces = list(pieces_of(clip, 16_000, lambda: 4096))
    assert [len(p) for p in pieces] == [4096] * 7 + [30_000 - 7 * 4096]
    assert abs(sum(map(len, pieces_of(clip, 8000, lambda: 1000))) - 15_000) <= 1


def test_deep_griffin_lim_begins_as_griffin_lim_also_for_long_clips() -> None:
    from genloom.nn.griffin_lim import griffin_lim
    from genloom.objectives import vocoding

    cls = core.find("deepgl")
    options = {**cls.recipes["tiny"].model, "iterations": 8}
    model = core.build(cls, Spec("audio", (1, 4096), extra={"rate": 8000}), options).eval()
    sound = torch.from_numpy(np.sin(np.cumsum(np.linspace(0.1, 0.5, 12_000)))).float()[None] / 2
    mel = model.mel(sound)
    torch.testing.assert_close(model.vocode(mel)[:, 0], griffin_lim(mel, model.mel, iterations=8), atol=2e-3, rtol=0)
    long = mel.repeat(1, 1, vocoding.WHOLE // mel.shape[2] + 2)
    made = model.vocode(long)
    assert made.shape[2] == (long.shape[2] - 1) * model.mel.hop and made.isfinite().all()
    distance = (model.mel(made[:, 0]) - long).abs().mean()
    assert distance < 1.5 * (model.mel(model.vocode(mel)[:, 0]) - mel).abs().mean()  # pieces leave no seams
    with pytest.raises(UserError, match="makes no stream"):
        model.pipe()


@pytest.mark.parametrize("provenance", [True, False])
def test_a_stream_that_is_stopped_leaves_what_stood_there(
    run: genloom.Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provenance: bool
) -> None:
    def stopped(self: Writer, sound: torch.Tensor) -> None:
        self.file.write(b"some")
        raise KeyboardInterrupt

    out = tmp_path / "out" / "stream.wav"
    out.parent.mkdir()
    out.write_bytes(b"older")
    monkeypatch.setattr(Writer, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        stream_to(run, out, source=str(clip), provenance=provenance)
    assert out.read_bytes() == b"older" and list(out.parent.iterdir()) == [out]


def test_a_stream_is_a_wav_file(run: genloom.Run, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.wav"):
        stream_to(run, tmp_path / "stream.mp3", source=str(clip))
