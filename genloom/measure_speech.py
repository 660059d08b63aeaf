"""What a text-to-speech model is worth: how much of it a recogniser understands, beside the real recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genloom.core import Model, mix
from genloom.data.base import Dataset
from genloom.data.files import safe_name
from genloom.data.sound import write
from genloom.data.speech import SpeechSet
from genloom.errors import UserError, unknown
from genloom.generate import draw, load
from genloom.measure_text import row
from genloom.metrics.audio import mcd_dtw
from genloom.metrics.distribution import Estimate, mean_estimate
from genloom.metrics.words import FEW, RATE, edits, recognise, word_error_rate, words
from genloom.models.audio.tts import TTS
from genloom.nn.rate import at_rate
from genloom.run import HEARD_IN, Run

METRICS = ("wer", "mcd-dtw")
MOST, ENOUGH = 50, 20  # sentences that are said, and of which a rate can be told
HEARD = 4  # of them that the report plays
NAMES = {"real": "recordings", "made": "made", "copied": "copied"}
Listener = Callable[[list[Tensor]], list[str]]


def spoken(
    model: Model,
    data: Dataset,
    *,
    vocoder: Model | None = None,
    n: int = 50,
    seed: int = 0,
    listen: Listener = recognise,
) -> dict[str, Any]:
    """Up to n utterances of `data` said by `model`, through `vocoder` or Griffin-Lim, and what `listen` understands.

    Keys: `wer real`, `wer copied` (the recording's own mel spectrogram through the same vocoder) and `wer made`, word
    error rates over the same sentences of at least FEW words; `mcd dtw`, the mean mel-cepstral distortion in dB of what
    was made, laid on the recording (an Estimate); `length`, made over real seconds; `sentences`, `words`, `heard`, a row
    each with what was said and heard, and `sounds`, the waves. An English recogniser listens by default, so other languages need another `listen`.
    Raises UserError for a model or data without texts, and where no text is long enough.
    """
    if not isinstance(model, TTS):
        raise UserError(f"'{model.name}' says no texts: word error rates are of tts.")
    if not isinstance(data, SpeechSet):
        raise UserError(f"'{data.name}' has no texts to say: give clips of speech, each with its text.")
    known = [u for u in data.utterances() if len(words(u[1])) >= FEW][:n]
    if not known:
        raise UserError(f"No text in '{data.name}' has {FEW} words or more: give longer ones to measure speech.")
    said, real = [u[1] for u in known], [u[2] for u in known]
    given: dict[str, Any] = {"label": torch.tensor([u[3] for u in known])} if data.spec.classes else {}
    made = draw(model, len(known), seed=seed, precision="fp32", vocoder=vocoder, prompt=said, **given)
    copied = copies(model, real, vocoder, seed)
    rate = model.mel.rate
    sounds = {"real": real, "copied": copied, "made": list(made)}
    heard = {kind: listen([at_rate(wave, rate, RATE) for wave in waves]) for kind, waves in sounds.items()}
    rows = [{"said": s} | {kind: texts[i] for kind, texts in heard.items()} for i, s in enumerate(said)]
    return {
        **{f"wer {kind}": word_error_rate(said, texts) for kind, texts in heard.items()},
        "mcd dtw": mean_estimate(
            torch.cat([mcd_dtw(a, b, model.mel) for a, b in zip(real, made, strict=True)]),
            "mel-cepstral distortion along the best warping in time, dB",
        ),
        "length": sum(w.shape[1] for w in made) / sum(w.shape[1] for w in real),
        "sentences": len(said),
        "words": sum(len(words(s)) for s in said),
        "heard": rows,
        "sounds": sounds,
    }


def measured(
    run: Run, reference: Dataset, metrics: Sequence[str] | None, n: int, seed: int, vocoder: str | None
) -> tuple[dict[str, Any], int]:
    """`spoken` as metrics.json has it, with clips to hear in samples/heard. Raises UserError for another measure."""
    for name in metrics or ():
        if name not in METRICS:
            raise unknown("metric of speech", name, METRICS)
    with_vocoder = load(Run.open(vocoder)) if vocoder else None
    found = spoken(load(run), reference, vocoder=with_vocoder, n=min(n, MOST), seed=seed)
    said = [row["said"] for row in found["heard"]]
    count = found["sentences"]
    wrong = torch.tensor([edits(words(r["said"]), words(r["made"])) for r in found["heard"]], dtype=torch.float64)
    rate = Estimate(found["wer made"], (wrong * count / found["words"],), "word error rate of what a recogniser hears")
    rows = [row("wer", rate, count, seed), row("mcd-dtw", found["mcd dtw"], count, seed)]
    beside = {"wer": {"copied": found["wer copied"], "recordings": found["wer real"]}}
    for i, text in enumerate(said[:HEARD]):
        for side, waves in found["sounds"].items():
            stem = safe_name(" ".join(words(text)[:8]))
            write([waves[i]], run.folder / HEARD_IN, spec=run.spec, names=[f"{i}-{stem}.{NAMES[side]}.wav"])
    result: dict[str, Any] = {
        "counted": "sentences said",
        "metrics": rows,
        "warnings": [],
        "beside": beside,
        "said": found["heard"],
    }
    if count < ENOUGH:
        result["warnings"].append(
            f"{count} sentences are few: --data with more of them, or --data.held-out, tells more."
        )
    return result, count


@torch.inference_mode()
def copies(model: TTS, real: list[Tensor], vocoder: Model | None, seed: int) -> list[Tensor]:
    """Recordings [1, N] by way of their own mel spectrograms: what the vocoder alone loses."""
    mels = [model.mel(wave.to(model.device)) for wave in real]
    return [model.voiced(mel, vocoder, mix(seed, i, 1))[0].float().cpu() for i, mel in enumerate(mels)]
