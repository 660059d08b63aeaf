"""Whether made speech can be understood: the word error rate of what a recogniser hears."""

from __future__ import annotations

import re
import subprocess
import tempfile
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genloom.errors import UserError

RATE = 16_000  # Hz that the recogniser hears
UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
FEW = 4  # words; of shorter texts a recogniser of sentences makes little


def words(text: str) -> list[str]:
    """Lower case, without punctuation (but for apostrophes within a word), numbers as English words, up to 999."""
    spelt = re.sub(r"\d+", lambda found: f" {spelt_out(found[0])} ", text.lower().replace("’", "'"))
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", spelt)


def spelt_out(digits: str) -> str:
    """28 -> twenty eight; longer numbers, and those that begin with a zero, digit by digit as in telephone numbers."""
    if len(digits) > 3 or (digits[0] == "0" and len(digits) > 1):
        return " ".join(UNITS[int(d)] for d in digits)
    hundreds, rest = divmod(int(digits), 100)
    said = [UNITS[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        said += [TENS[rest // 10 - 2], *([UNITS[rest % 10]] if rest % 10 else [])]
    elif rest or not hundreds:
        said.append(UNITS[rest])
    return " ".join(said)


def edits(said: Sequence[str], heard: Sequence[str]) -> int:
    """The fewest words to put in, leave out and exchange to make one of the other (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Edits of all pairs of texts over the words that were said; above 1 where more was heard than said.

    Raises UserError where nothing was said.
    """
    pairs = [(words(a), words(b)) for a, b in zip(said, heard, strict=True)]
    if not (count := sum(len(a) for a, _ in pairs)):
        raise UserError("A word error rate needs words: there are none in these texts.")
    return sum(edits(a, b) for a, b in pairs) / count


def recognise(waves: Sequence[Tensor]) -> list[str]:
    """What the program pocketsphinx_continuous hears in waves [1, N] in [-1, 1] of 16,000 Hz, with its English model.

    Raises UserError where it is not installed, or cannot listen.
    """
    with tempfile.TemporaryDirectory(prefix="genloom-") as folder:
        return [_heard(Path(folder) / "clip.wav", sound) for sound in waves]


def _heard(path: Path, sound: Tensor) -> str:
    silence = torch.zeros(RATE // 4)  # at both ends: it waits for speech to begin, and to be over
    values = torch.cat([silence, sound.detach().float().cpu().flatten(), silence]).clamp(-1, 1) * 32767
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(values.numpy().round().astype(np.dtype("<i2")).tobytes())
    try:
        done = subprocess.run(
            ["pocketsphinx_continuous", "-infile", str(path), "-logfn", "/dev/null"], capture_output=True, text=True
        )
    except OSError:
        raise UserError(
            "Word error rates need the recogniser pocketsphinx: apt install pocketsphinx pocketsphinx-en-us."
        ) from None
    if done.returncode:
        raise UserError(
            "pocketsphinx_continuous could not listen: is its English model there (apt install pocketsphinx-en-us)?"
        )
    return " ".join(done.stdout.split())
