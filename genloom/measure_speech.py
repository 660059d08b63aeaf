"""What a text-to-speech model is worth: how much of it a recogniser understands, beside the real recordings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genloom.core import Model, mix
from genloom.data.base import Dataset
from genloom.data.speech import SpeechSet
from genloom.errors import UserError
from genloom.generate import draw
from genloom.metrics.audio import mcd_dtw
from genloom.metrics.words import FEW, RATE, recognise, word_error_rate, words
from genloom.models.audio.tts import TTS
from genloom.nn.rate import at_rate

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
    was made, laid on the recording; `length`, made over real seconds; `sentences`, `words`, and `heard`, a row each with
    what was said and heard. An English recogniser listens by default, so other languages need another `listen`.
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
        "mcd dtw": float(torch.cat([mcd_dtw(a, b, model.mel) for a, b in zip(real, made, strict=True)]).mean()),
        "length": sum(w.shape[1] for w in made) / sum(w.shape[1] for w in real),
        "sentences": len(said),
        "words": sum(len(words(s)) for s in said),
        "heard": rows,
    }


@torch.inference_mode()
def copies(model: TTS, real: list[Tensor], vocoder: Model | None, seed: int) -> list[Tensor]:
    """Recordings [1, N] by way of their own mel spectrograms: what the vocoder alone loses."""
    mels = [model.mel(wave.to(model.device)) for wave in real]
    return [model.voiced(mel, vocoder, mix(seed, i, 1))[0].float().cpu() for i, mel in enumerate(mels)]
