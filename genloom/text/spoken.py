"""Text that is to be spoken: cleaned, as characters or phonemes, and as numbers."""

from __future__ import annotations

import re
import subprocess
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from genloom.errors import UserError

Units = Literal["characters", "phonemes"]
PUNCTUATION = ".,;:!?'-¿¡"  # what is kept beside letters and digits: it tells of pauses and of melody
SAME = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "–": "-", "—": "-", "…": ".", "،": ",", "。": ".", "，": ","})
UNSPOKEN = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
WORD = re.compile(rf"[^\s{re.escape(PUNCTUATION)}]")
CLAUSES = re.compile(r"([.,;:!?¿¡]+)")


def clean(text: str) -> str:
    """Lower case, composed (NFC), one space between words; what stands in brackets is not spoken.

    Letters, marks and digits of any script and PUNCTUATION are kept; other signs are not spoken either.
    """
    plain = unicodedata.normalize("NFC", UNSPOKEN.sub(" ", text)).translate(SAME).lower()
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c in PUNCTUATION else " " for c in plain)
    found = " ".join(kept.split())
    return found if WORD.search(found) else ""


@dataclass(frozen=True)
class Alphabet:
    """What texts are written in: symbol i of `alphabet` has the number i + 1, and 0 fills texts up.

    `units` are characters, or phonemes of a `language` by espeak-ng's name.
    """

    alphabet: str
    units: Units = "characters"
    language: str = "en-us"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From a Spec's extra."""
        return cls(**{f.name: given[f.name] for f in fields(cls)})

    @classmethod
    def found_in(cls, written: Sequence[str], units: Units, language: str) -> Self:
        """The symbols of texts that are written already, and the space, which also stands for silence at the ends."""
        return cls("".join(sorted({" ", *"".join(written)})), units, language)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def numbers(self, written: str) -> list[int]:
        """Of a text in symbols, between spaces. Raises UserError for a symbol that is not in the alphabet."""
        wrong = sorted({c for c in written if c not in self.alphabet})
        if wrong:
            raise UserError(self._strange(wrong))
        return [self.alphabet.index(c) + 1 for c in f" {written} "]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of each text as people write it. Raises UserError for one without words, and as `numbers` does."""
        written = [clean(text) for text in texts]
        if "" in written:
            text = texts[written.index("")]
            raise UserError(f"There is nothing to say in the text '{text}': give words.")
        if self.units == "phonemes":
            written = phonemes(written, self.language)
        return [self.numbers(w) for w in written]

    def _strange(self, wrong: Sequence[str]) -> str:
        """What to say of symbols that are not in the alphabet, and what to write in their place."""
        named = " and ".join(f"'{c}'" for c in wrong)
        if self.units == "phonemes":
            return f"The text has the sound {named}, which no text in training had: write it in other words."
        nearer = {c: folded for c in wrong if (folded := self._folded(c))}
        offer = "; ".join(f"write '{there}' for '{c}'" for c, there in nearer.items())
        digits = " (spell numbers in words)" if any(c.isdigit() for c in wrong) else ""
        return (
            f"The text has {named}, and this model's alphabet is '{self.alphabet.strip()}': "
            f"{offer or f'leave it out or write it in words{digits}'}."
        )

    def _folded(self, symbol: str) -> str:
        """The symbol without its marks, or its compatible form, where the alphabet has that."""
        plain = "".join(c for c in unicodedata.normalize("NFKD", symbol).lower() if not unicodedata.combining(c))
        return plain if plain and set(plain) <= set(self.alphabet) else ""


def phonemes(texts: Sequence[str], language: str) -> list[str]:
    """Clean texts in the International Phonetic Alphabet, their punctuation kept, by espeak-ng: one call for all.

    Raises UserError where it is not installed or does not know the language.
    """
    parts = [[p.strip() for p in CLAUSES.split(text)] for text in texts]  # a clause, its punctuation, a clause ...
    clauses = list(dict.fromkeys(p for text in parts for p in text[::2] if WORD.search(p)))
    said = dict(zip(clauses, _espeak(clauses, language), strict=True)) if clauses else {}
    return [" ".join("".join(said.get(p, p) + " " * (i % 2) for i, p in enumerate(text)).split()) for text in parts]


def _espeak(lines: Sequence[str], language: str) -> list[str]:
    words = ["espeak-ng", "-q", "--ipa", "-v", language, "-b", "1"]
    try:
        done = subprocess.run(words, input="\n".join(lines) + "\n", capture_output=True, text=True, encoding="utf-8")
    except OSError:
        raise UserError(
            "Phonemes need the program espeak-ng: install it (apt install espeak-ng), or leave --data.units characters."
        ) from None
    if done.returncode or "rror" in done.stderr:
        raise UserError(f"espeak-ng does not speak '{language}': `espeak-ng --voices` lists what it does.")
    said = [re.sub(r"\([a-z-]+\)", "", line).strip() for line in done.stdout.splitlines()]  # it marks foreign words
    if len(said) != len(lines):
        raise UserError(f"espeak-ng made {len(said)} lines of {len(lines)}: use --data.units characters.")
    return said
