"""What a text-to-speech model is worth, beside the real recordings: how much a recogniser understands, whose voice it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genloom.core import Model, mix
from genloom.data.base import Dataset
from genloom.data.files import safe_name
from genloom.data.speech import SpeechSet
from genloom.errors import UserError
from genloom.generate import draw, load
from genloom.measure import chosen, left_out, row
from genloom.measure_sound import keep_heard
from genloom.metrics.audio import mcd_dtw
from genloom.metrics.distribution import Estimate, mean_estimate
from genloom.metrics.speakers import similarity, speakers
from genloom.metrics.words import FEW, RATE, edits, recognise, word_error_rate, words
from genloom.models.audio.tts import TTS
from genloom.nn.rate import at_rate
from genloom.run import Run

METRICS = ("wer", "mcd-dtw", "speaker")
EXTRAS = ("wer", "speaker")  # that need more than genloom: without it they are left out, unless they were asked for
MOST, ENOUGH = 50, 20  # sentences that are said, and of which a rate can be told
HEARD = 4  # of them that the report plays
NAMES = {"real": "recordings", "made": "made", "copied": "copied"}
Listener = Callable[[list[Tensor]], list[str]]


@dataclass
class Spoken:
    """Texts, whose voice each is in, and waves [1, N] of it: the recording, its copy through the vocoder, what was made."""

    said: list[str]
    labels: list[int]
    real: list[Tensor]
    copied: list[Tensor]
    made: list[Tensor]
    model: TTS

    @property
    def sides(self) -> dict[str, list[Tensor]]:
        return {"real": self.real, "copied": self.copied, "made": self.made}

    @property
    def words(self) -> int:
        return sum(len(words(s)) for s in self.said)

    def heard(self, listen: Listener) -> list[dict[str, str]]:
        """A row each with what was `said`, and what was understood of each side."""
        rate = self.model.mel.rate
        found = {kind: listen([at_rate(w, rate, RATE) for w in waves]) for kind, waves in self.sides.items()}
        return [{"said": s} | {kind: texts[i] for kind, texts in found.items()} for i, s in enumerate(self.said)]

    def distortion(self) -> Estimate:
        each = [mcd_dtw(a, b, self.model.mel) for a, b in zip(self.real, self.made, strict=True)]
        return mean_estimate(torch.cat(each), "mel-cepstral distortion along the best warping in time, dB")

    def voices(self) -> tuple[Estimate, dict[str, float]]:
        """How alike voices are to that of the recording: of what was made, of copies, and of the voice's next recording."""
        found = {
            kind: torch.cat([speakers(w, self.model.mel.rate) for w in waves]) for kind, waves in self.sides.items()
        }
        made = mean_estimate(similarity(found["real"], found["made"]), "likeness of the voice to the recording's")
        beside = {"copied": float(similarity(found["real"], found["copied"]).mean())}
        pairs = [(i, j) for i, j in enumerate(map(self._again, range(len(self.said)))) if j != i]
        if pairs:
            a, b = (found["real"][list(rows)] for rows in zip(*pairs, strict=True))
            beside["recordings"] = float(similarity(a, b).mean())
        return made, beside

    def _again(self, i: int) -> int:
        """The next recording in the same voice, from the first again after the last; itself where there is no other."""
        count = len(self.labels)
        return next(j % count for j in range(i + 1, i + count + 1) if self.labels[j % count] == self.labels[i])


def say(model: Model, data: Dataset, *, vocoder: Model | None, n: int, seed: int) -> Spoken:
    """Up to n utterances of `data` said by `model`, through `vocoder` or Griffin-Lim.

    Raises UserError for a model or data without texts, and where no text has FEW words.
    """
    if not isinstance(model, TTS):
        raise UserError(f"'{model.name}' says no texts: word error rates are of tts.")
    if not isinstance(data, SpeechSet):
        raise UserError(f"'{data.name}' has no texts to say: give clips of speech, each with its text.")
    known = [u for u in data.utterances() if len(words(u[1])) >= FEW][:n]
    if not known:
        raise UserError(f"No text in '{data.name}' has {FEW} words or more: give longer ones to measure speech.")
    said, real, labels = [u[1] for u in known], [u[2] for u in known], [u[3] for u in known]
    given: dict[str, Any] = {"label": torch.tensor(labels)} if data.spec.classes else {}
    made = draw(model, len(known), seed=seed, precision="fp32", vocoder=vocoder, prompt=said, **given)
    return Spoken(said, labels, real, copies(model, real, vocoder, seed), list(made), model)


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
    found = say(model, data, vocoder=vocoder, n=n, seed=seed)
    heard = found.heard(listen)
    return {
        **{f"wer {kind}": word_error_rate(found.said, [r[kind] for r in heard]) for kind in found.sides},
        "mcd dtw": found.distortion(),
        "length": sum(w.shape[1] for w in found.made) / sum(w.shape[1] for w in found.real),
        "sentences": len(found.said),
        "words": found.words,
        "heard": heard,
        "sounds": found.sides,
    }


def measured(
    run: Run, reference: Dataset, metrics: Sequence[str] | None, n: int, seed: int, vocoder: str | None
) -> tuple[dict[str, Any], int]:
    """The METRICS as metrics.json has them, with clips to hear in samples/heard.

    Raises UserError for an unknown measure, and for one asked for that cannot be had.
    """
    wanted = chosen(metrics, METRICS, "metric of speech")
    with_vocoder = load(Run.open(vocoder)) if vocoder else None
    found = say(load(run), reference, vocoder=with_vocoder, n=min(n, MOST), seed=seed)
    count = len(found.said)
    result: dict[str, Any] = {"counted": "sentences said", "metrics": [], "warnings": [], "beside": {}}

    def understood() -> tuple[Estimate, dict[str, float]]:
        language = str(run.spec.extra["language"])
        if not all(spoken.startswith("en") for spoken in language.split(",")):
            raise UserError(f"The recogniser understands English alone, and this model speaks '{language}'.")
        result["said"] = heard = found.heard(recognise)
        return _mistaken(found, heard)

    ways = {"wer": understood, "mcd-dtw": lambda: (found.distortion(), {}), "speaker": found.voices}
    for name in wanted:
        with left_out(name, result["warnings"], asked=bool(metrics) or name not in EXTRAS):
            estimate, beside = ways[name]()
            result["metrics"].append(row(name, estimate, count, seed))
            result["beside"] |= {name: beside} if beside else {}
    for i, text in enumerate(found.said[:HEARD]):
        stem = safe_name(" ".join(words(text)[:8]))
        keep_heard(run, f"{i}-{stem}", {NAMES[side]: waves[i] for side, waves in found.sides.items()})
    if count < ENOUGH:
        result["warnings"].append(
            f"{count} sentences are few: --data with more of them, or --data.held-out, tells more."
        )
    return result, count


def _mistaken(found: Spoken, heard: list[dict[str, str]]) -> tuple[Estimate, dict[str, float]]:
    """The word error rate of what was made, and those of the other sides."""
    wrong = [edits(words(r["said"]), words(r["made"])) for r in heard]
    rates = {kind: word_error_rate(found.said, [r[kind] for r in heard]) for kind in found.sides}
    each = torch.tensor(wrong, dtype=torch.float64) * len(wrong) / found.words
    made = Estimate(rates["made"], (each,), "word error rate of what a recogniser hears")
    return made, {NAMES[kind]: rates[kind] for kind in ("copied", "real")}


@torch.inference_mode()
def copies(model: TTS, real: list[Tensor], vocoder: Model | None, seed: int) -> list[Tensor]:
    """Recordings [1, N] by way of their own mel spectrograms: what the vocoder alone loses."""
    mels = [model.mel(wave.to(model.device)) for wave in real]
    return [model.voiced(mel, vocoder, mix(seed, i, 1))[0].float().cpu() for i, mel in enumerate(mels)]
