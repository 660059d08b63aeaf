"""A run of sound + sounds -> metrics.json: a vocoder's clips that it never heard, made again, beside Griffin-Lim and themselves.

Speech and sound from nothing have modules of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genloom import generate, measure_sound, measure_speech
from genloom.data.audio import AudioSet
from genloom.data.base import Dataset
from genloom.data.files import safe_name
from genloom.errors import UserError
from genloom.measure import MOST as SAMPLES
from genloom.measure import Asked, chosen, left_out, row
from genloom.measure_sound import keep_heard
from genloom.metrics.audio import mcd, mel_l1, multi_resolution_stft, si_sdr
from genloom.metrics.distribution import mean_estimate
from genloom.metrics.intelligibility import estoi, stoi
from genloom.metrics.pitch import f0_error, voicing_error
from genloom.metrics.speakers import similarity, speakers
from genloom.metrics.speech import dnsmos, pesq
from genloom.nn.griffin_lim import griffin_lim
from genloom.nn.mel import Mel
from genloom.plugins import model_of
from genloom.run import HEARD_IN, Run

LONGEST, SHORTEST = 10.0, 0.5  # seconds of a clip: the rest is left away; shorter ones are left out
MOST, ENOUGH = 100, 20  # clips that are made again, and of which figures can be told
HEARD = 4  # of them that the report plays
ITERATIONS = 60  # of Griffin-Lim
# Griffin & Lim 1984, and with the momentum of Perraudin et al. 2013
BASELINES = {f"griffin-lim@{ITERATIONS}": 0.0, f"fast-griffin-lim@{ITERATIONS}": 0.99}

Measure = Callable[[Tensor, Tensor, Mel], Tensor]
MEASURES: dict[str, tuple[Measure, str]] = {
    "mel-l1": (mel_l1, "mean difference of log mel spectrograms"),
    "stft": (lambda r, f, m: multi_resolution_stft(r, f), "spectral convergence and log distance, 3 resolutions"),
    "mcd": (mcd, "mel-cepstral distortion, dB"),
    "f0": (lambda r, f, m: f0_error(r, f, m.rate), "error of pitch, cents, where both are voiced"),
    "voicing": (lambda r, f, m: voicing_error(r, f, m.rate), "share of frames voiced in one alone"),
    "si-sdr": (lambda r, f, m: si_sdr(r, f), "scale-invariant signal to distortion, dB; phases count"),
    "stoi": (lambda r, f, m: stoi(r, f, m.rate), "short-time objective intelligibility"),
    "estoi": (lambda r, f, m: estoi(r, f, m.rate), "the same, extended"),
    "pesq": (lambda r, f, m: pesq(r, f, m.rate), "perceptual evaluation of speech quality, to 4.64"),
    "dnsmos": (lambda r, f, m: dnsmos(f, m.rate).overall, "opinion that a network predicts, 1 to 5"),
    "speaker": (
        lambda r, f, m: similarity(speakers(r, m.rate), speakers(f, m.rate)),
        "likeness of the voice to the recording's",
    ),
}
# that need a library more: without it they are left out, unless they were asked for
EXTRAS = ("pesq", "dnsmos", "speaker")


def measured(asked: Asked) -> tuple[dict[str, Any], int]:
    """Speech beside its recordings, clips made again beside themselves, or sound from nothing; and how many."""
    run, own, reference, metrics, n, seed, *_ = asked
    for heard in (run.folder / HEARD_IN).glob("*.wav"):
        heard.unlink()  # what was measured before, perhaps beside other data
    model, n = model_of(run), n or SAMPLES
    if model.needs == "speech":
        return measure_speech.measured(run, reference, metrics, n, seed, asked.vocoder)
    if getattr(model, "makes_again", False):
        return clips_made_again(run, reference, metrics, n, seed)
    return measure_sound.measured(run, own, reference, metrics, n, seed)


def clips_made_again(
    run: Run, reference: Dataset, metrics: Sequence[str] | None, n: int, seed: int
) -> tuple[dict[str, Any], int]:
    """Each measure over the clips, and the same of Griffin-Lim's and, where it says something, of the recordings.

    Writes clips to hear into samples/heard. Raises UserError for an unknown measure and for data without a whole clip.
    """
    wanted = chosen(metrics, MEASURES, "metric of sound")
    model: Any = generate.load(run)
    named = whole_clips(reference, model.mel, min(n, MOST))
    clips = list(named.values())
    started = time.perf_counter()
    with generate.autocast(model.device, generate.drawing_precision(model)):
        made = [model.vocode(model.frames(clip))[0].cpu() for clip in clips]
    seconds = time.perf_counter() - started
    sides = {"made": made, **baselines(model.mel, clips, seed), "recordings": clips}
    result: dict[str, Any] = {"counted": "clips made again", "metrics": [], "warnings": [], "beside": {}}
    for name in wanted:
        with left_out(name, result["warnings"], asked=bool(metrics) or name not in EXTRAS):
            found = {side: measure(name, clips, waves, model.mel) for side, waves in sides.items()}
            made_well = found.pop("made")
            result["metrics"].append(row(name, mean_estimate(made_well, MEASURES[name][1]), len(made_well), seed))
            beside = {side: float(values.mean()) for side, values in found.items()}
            result["beside"][name] = {side: value for side, value in beside.items() if math.isfinite(value)}
    if len(clips) < ENOUGH:
        result["warnings"].append(
            f"{len(clips)} clips are few: --data with more of them, or --data.held-out, tells more."
        )
    length = sum(clip.shape[1] for clip in clips) / model.mel.rate
    result["real_time_factor"] = seconds / length
    result["minutes"] = length / 60
    for i, name in enumerate(list(named)[:HEARD]):
        keep_heard(run, f"{i}-{safe_name(Path(name).stem)}", {side: waves[i] for side, waves in sides.items()})
    return result, len(clips)


@torch.inference_mode()
def baselines(mel: Mel, clips: Sequence[Tensor], seed: int) -> dict[str, list[Tensor]]:
    """What Griffin-Lim makes of each clip's mel spectrogram."""
    return {
        name: [griffin_lim(mel(clip), mel, iterations=ITERATIONS, momentum=momentum, seed=seed) for clip in clips]
        for name, momentum in BASELINES.items()
    }


def whole_clips(data: Dataset, mel: Mel, most: int) -> dict[str, Tensor]:
    """Up to so many clips [1, N] by name, evenly spaced, from half a second on and cut to 10 s."""
    if not isinstance(data, AudioSet):
        raise UserError("Vocoders are measured on whole clips of sound: give a folder of them as --data.")
    least, longest = max(SHORTEST * mel.rate, mel.n_fft + mel.hop), int(LONGEST * mel.rate)
    found = [(name, wave) for name, wave in data.clips() if len(wave) >= least]
    if not found:
        raise UserError(f"'{data.name}' holds no clip of {SHORTEST:g} s or more to measure on.")
    some = torch.linspace(0, len(found) - 1, min(most, len(found))).round().long().tolist()
    return {found[i][0]: torch.from_numpy(found[i][1][:longest].copy())[None] for i in some}


def measure(name: str, real: Sequence[Tensor], made: Sequence[Tensor], mel: Mel) -> Tensor:
    """[clips]: those for which the measure is a number, of pairs cut to the shorter one."""
    found = []
    for r, f in zip(real, made, strict=True):
        n = min(r.shape[1], f.shape[1])
        found.append(MEASURES[name][0](r[:, :n], f[:, :n].float(), mel))
    values = torch.cat(found).double()
    numbers = values[values.isfinite()]
    return numbers if len(numbers) else values[:1]
