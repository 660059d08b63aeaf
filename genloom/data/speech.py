"""Speech: whole utterances, each a clip of sound with its text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from genloom.core import NEEDS, Batch, Spec
from genloom.data.audio import PEAK, commonest
from genloom.data.base import DataOptions, Dataset
from genloom.data.catalog import Entry
from genloom.data.files import Files, digest, hashed, noting, shown, streams
from genloom.data.growing import Growing, OnDisk
from genloom.data.labels import by_folder, number, stems
from genloom.data.sound import SUFFIXES, read
from genloom.data.transcripts import WRITTEN, Said, among, found_texts, tidy
from genloom.errors import UserError, unknown
from genloom.text.spoken import Alphabet, Units, clean, phonemes

SHORTEST = 0.1  # seconds
FASTEST = 30.0  # letters a second: nobody speaks so fast, so text and clip do not belong together
FEWEST = 2
ENGLISH = "en-us"  # what is taken to be spoken where nothing says so
LABELS = ("folder", "language", "none")


@dataclass(frozen=True)
class SpeechOptions(DataOptions):
    """How clips and their texts become items."""

    rate: int | None = None  # samples a second; by default what most files have, at most 24,000
    seconds: float = 10.0  # longer clips are left out
    level: bool = False  # bring each clip to the same peak
    held_out: float = 0.05  # share of the clips kept out of training
    units: Units = "characters"  # what texts are written in: characters, or phonemes by the program espeak-ng
    language: str | None = (
        None  # spoken, as espeak-ng names it: es, or es,fr; by default that in names such as cat_desc_es, else en-us
    )
    transcripts: str | None = None  # a file that says what is spoken, where none lies with the clips
    label: str | None = (
        None  # what tells speakers or languages apart: folder, language, none, or LABEL in such as *_desc_LABEL
    )
    only: str | None = None  # labels to keep, such as fr,es

    def __post_init__(self) -> None:
        """Raises UserError for a value that makes no sense."""
        self.check(
            ("rate", self.rate is None or 1000 <= self.rate <= 192_000, "from 1,000 to 192,000 Hz"),
            ("seconds", SHORTEST < self.seconds <= 120, f"more than {SHORTEST:g}, and at most 120"),
            ("held_out", 0 <= self.held_out <= 0.5, "a share from 0 to 0.5"),
            ("units", self.units in get_args(Units), " or ".join(get_args(Units))),
            (
                "label",
                self.label is None or self.label in LABELS or "LABEL" in self.label,
                f"{', '.join(LABELS)}, or such as *_desc_LABEL",
            ),
        )


OPTIONS = SpeechOptions


class Utterance(NamedTuple):
    """A clip: its file, its place in the row of samples, its text, the symbols of it that are learnt, its class."""

    name: str
    first: int
    last: int
    text: str
    symbols: str
    label: int

    @property
    def samples(self) -> int:
        return self.last - self.first


def from_path(
    path: Path, *, needs: str = "speech", split: str = "train", like: Spec | None = None, **given: Any
) -> SpeechSet:
    """The clips of a folder, zip or tar that have a text. Options are those of SpeechOptions.

    Texts are NAME.txt beside NAME.wav, or lines of a table (TABLES, or the option `transcripts`): `name|text`, perhaps
    with a normalised text after it, `name: text`, or columns file and text; or the line `es.utf8=text` of NAME.txt for
    NAME_desc_es.ogg. `like`: at the rate and in the alphabet of that Spec. Raises UserError when no clip has a text, or
    none can be used.
    """
    return _opened(path, path.resolve().name, split, like, given)


def from_catalog(
    entry: Entry, *, needs: str = "speech", split: str = "train", like: Spec | None = None, **given: Any
) -> SpeechSet:
    return _opened(entry.load(split), entry.name, split, like, given)


def _opened(path: Path, name: str, split: str, like: Spec | None, given: Mapping[str, Any]) -> SpeechSet:
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    if like:
        given = {k: like.extra[k] for k in ("rate", "units", "language") if k in like.extra} | dict(given)
    files = streams(path, SUFFIXES | WRITTEN)
    kept = Kept(SpeechOptions.of(given), str(path))
    said = found_texts(files, str(path), kept.options.transcripts)
    language = kept.in_language(said)
    texts = kept.with_text(said)
    labels = kept.labelled(sorted(texts), files, said.languages)
    options, written = kept.options, {n: texts[n] for n in labels}
    symbols = written
    if options.units == "phonemes":
        symbols = dict(zip(written, phonemes(list(written.values()), language), strict=True))
    known = Alphabet.of(like.extra) if like and "alphabet" in like.extra else None
    if known:
        symbols = kept.readable(symbols, known)
    rate = options.rate or commonest(replace(files, names=list(labels)))
    kept.read(files, rate, {n: (written[n], s, labels[n]) for n, s in symbols.items()})
    alphabet = known or Alphabet.found_in([u.symbols for u in kept.spoken], options.units, language)
    return kept.dataset(name, files.fingerprint, split, rate, alphabet)


def describe(path: Path) -> list[str]:
    """What text to speech would find among the sounds there, in a sentence; nothing where none has a text."""
    try:
        found = found_texts(streams(path, SUFFIXES | WRITTEN), str(path))
    except UserError as error:
        return [f"For text to speech: {error}"]
    said = [text for text in map(clean, found.texts.values()) if text]
    if not said:
        return []
    there = f"For text to speech: {len(said):,} of {len(found.sounds):,} sounds have their text"
    if len(counts := found.counts()) > 1:
        listed = ", ".join(f"{language} {count:,}" for language, count in counts.items())
        return [f"{there}, in {listed}: choose by --data.language {next(iter(counts))} (tts)."]
    symbols = "".join(sorted({*"".join(said)})).strip()
    return [f"{there}, in {''.join(f'{language}, ' for language in counts)}'{symbols}' (tts)."]


# ── what is kept of it ───────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class Kept:
    """The samples of all clips in one row, the utterances in it, and what a person should know of those left out."""

    options: SpeechOptions
    where: str
    bad: dict[str, str] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)  # why, and which
    classes: tuple[str, ...] = ()
    spoken: list[Utterance] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row = Growing(np.float32)

    def leave(self, why: str, name: str) -> None:
        self.left.setdefault(why, []).append(shown(name))

    def in_language(self, said: Said) -> str:
        """Leave out what is spoken in other languages than asked for, settle the options, and name what is spoken.

        Where names of clips tell their languages, these are the classes, and folders are not. Raises UserError when no
        clip is in a language asked for, and for phonemes of several.
        """
        asked = [tidy(a) for a in (self.options.language or "").split(",") if a.strip()]
        counts = said.counts()
        others = {n for n, language in said.languages.items() if asked and not among(language, asked)}
        for name in sorted(others):
            del said.texts[name], said.languages[name]
            self.leave("are in another language (--data.language)", name)
        said.sounds = [n for n in said.sounds if n not in others]
        if counts and not said.texts:
            there = ", ".join(f"{language} ({count:,})" for language, count in counts.items())
            raise UserError(f"No clip in '{self.where}' is in '{','.join(asked)}': give --data.language of {there}.")
        spoken = ",".join(asked) or ",".join(sorted(said.counts())) or ENGLISH
        if self.options.units == "phonemes" and "," in spoken:
            raise UserError(f"Phonemes are of one language, and these clips are in {spoken}: give one --data.language.")
        label = self.options.label or (("none", "language")[len(said.counts()) > 1] if counts else "folder")
        self.options = replace(self.options, language=spoken, label=label)
        return spoken

    def with_text(self, said: Said) -> dict[str, str]:
        """Clean text of each clip that has one. Raises UserError when none has."""
        cleaned = {name: clean(said.texts.get(name, "")) for name in said.sounds}
        for name in said.sounds:
            if not cleaned[name]:
                self.leave("have no text" if name not in said.texts else "have a text without words", name)
        texts = {name: text for name, text in cleaned.items() if text}
        if not texts:
            raise UserError(
                f"None of the {len(said.sounds):,} sounds in '{self.where}' has its text: give {NEEDS['speech']}."
            )
        return texts

    def labelled(self, names: list[str], files: Files, languages: Mapping[str, str]) -> dict[str, int]:
        """Class of each clip that is kept, 0 where there are none. Raises UserError when none is left."""
        how = self.options.label or "folder"
        if how == "none":
            return dict.fromkeys(names, 0)
        if how == "language":
            named = {n: languages[n] for n in names if n in languages}
        elif how == "folder":
            found = by_folder(names, {n.rpartition("/")[0] for n in names})
            named = dict(zip(names, (found.classes[i] for i in found.ids), strict=False)) or dict.fromkeys(names, "")
        else:
            pattern = re.escape(how).replace(r"\*", ".*").replace("LABEL", "(.+)")
            matches = {n: re.fullmatch(pattern, s.rpartition("/")[2]) for n, s in zip(names, stems(names), strict=True)}
            named = {n: m[1] for n, m in matches.items() if m}
        if not named:
            wrong = (
                "tells its language, as cat_desc_es.ogg does" if how == "language" else f"is like --data.label '{how}'"
            )
            raise UserError(f"No name of a clip with text in '{self.where}' {wrong}: give another --data.label.")
        only = [w.strip() for w in self.options.only.split(",")] if self.options.only else None
        if only and (strange := next((w for w in only if w not in named.values()), None)):
            raise unknown("label", strange, set(named.values()))
        chosen = {n: label for n, label in named.items() if only is None or label in only}
        for name in sorted(set(names) - set(chosen)):
            self.leave("have another label or none", name)
        numbered = number(list(chosen), list(chosen.values()))
        self.classes = numbered.classes if len(numbered.classes) > 1 else ()
        return dict(zip(numbered.names, numbered.ids.tolist(), strict=True))

    def readable(self, symbols: Mapping[str, str], known: Alphabet) -> dict[str, str]:
        """The texts that are in this alphabet."""
        found = {}
        for name, text in symbols.items():
            if set(text) <= set(known.alphabet):
                found[name] = text
            else:
                self.leave("have a text with letters that the model does not know", name)
        return found

    def read(self, files: Files, rate: int, texts: Mapping[str, tuple[str, str, int]]) -> None:
        """Decode the clips, each with its text, symbols and class. Raises UserError when fewer than two can be used."""
        for name, (text, symbols, label) in texts.items():
            with noting(self.bad, name), files.open(name) as stream:
                samples = read(stream, name, rate).samples
                self._add(Utterance(name, 0, len(samples), text, symbols, label), samples, rate)
        if len(self.spoken) < FEWEST:
            reasons = [f"'{n}': {why}" for n, why in self.bad.items()]
            reasons += [f"'{names[0]}': clips that {why}" for why, names in self.left.items()]
            raise UserError(
                f"Training needs at least {FEWEST} clips with their text, and '{self.where}' has {len(self.spoken)} that "
                f"can be used ({'; '.join(reasons[:3]) or 'there are no more'})."
            )

    def _add(self, found: Utterance, samples: np.ndarray, rate: int) -> None:
        seconds, peak = found.samples / rate, float(np.abs(samples).max())
        if seconds > self.options.seconds:
            return self.leave(f"are longer than {self.options.seconds:g} s (--data.seconds)", found.name)
        if seconds < max(SHORTEST, len(found.symbols) / FASTEST):
            return self.leave("are too short for their text", found.name)
        if self.options.level and peak > 0:
            samples = samples * np.float32(PEAK / peak)
        start = len(self.row)
        self.row.add(samples.clip(-1, 1))
        self.spoken.append(found._replace(first=start, last=len(self.row)))

    def dataset(self, name: str, files: str, split: str, rate: int, alphabet: Alphabet) -> SpeechSet:
        share = self.options.held_out
        every, row = max(2, round(1 / share)) if share else 0, self.row.array()
        parts: dict[str, list[Utterance]] = {"train": [], "test": []}
        order: dict[str, int] = {}  # of sounds: copies are kept out together, or not at all
        for found in self.spoken:
            same = hashed(np.asarray(row[found.first : found.last]).tobytes())
            i = order.setdefault(same, len(order))
            parts["test" if every and i % every == every - 1 else "train"].append(found)
        extra = {
            "rate": rate,
            "serves": ["speech"],
            **alphabet.to_json(),
            "letters": max(len(u.symbols) for u in self.spoken) + 2,  # and a space at each end
        }
        spec = Spec("audio", (1, max(u.samples for u in self.spoken)), classes=self.classes, extra=extra)
        said = [(u.name, u.symbols, u.label) for u in self.spoken]
        print_ = digest(files, self.options, rate, alphabet, said)
        summary = self.summary(rate)
        train, test = (SpeechSet(name, spec, print_, summary, row, part) if part else None for part in parts.values())
        if split == "test" and test is None:
            raise UserError(f"'{name}' holds too few clips to keep some out of training: give --data.held-out 0.5.")
        assert train is not None
        train.test = lambda: test
        return train if split == "train" or test is None else test

    def summary(self, rate: int) -> dict[str, Any]:
        names = (f"{len(n):,} clips {why}, and are left out, such as {n[0]}." for why, n in self.left.items())
        counts = Counter(self.classes[u.label] for u in self.spoken) if self.classes else {}
        return {
            "items": len(self.spoken),
            "kind": "clips of speech",
            "minutes": round(len(self.row) / rate / 60, 2),
            "rate": rate,
            **({"classes": dict(counts)} if counts else {}),
            "skipped": {"count": len(self.bad), "files": dict(list(self.bad.items())[:20])},
            "notes": list(names),
        }


class SpeechSet(Dataset):
    """Whole utterances, the shorter ones of a batch filled up with zeros.

    Batches hold `audio` f32 [B, 1, N] in [-1, 1], `samples` i64 [B], `text` i64 [B, L] (see Alphabet), `letters` i64 [B],
    and `label` i64 [B] where there are several speakers or languages.
    """

    def __init__(
        self,
        name: str,
        spec: Spec,
        fingerprint: str,
        summary: dict[str, Any],
        row: np.ndarray | OnDisk,
        spoken: list[Utterance],
    ):
        self.name, self.spec, self.fingerprint, self.summary = name, spec, fingerprint, summary
        self.row, self.spoken = row, spoken
        alphabet = Alphabet.of(spec.extra)
        self.numbers = [alphabet.numbers(u.symbols) for u in spoken]

    def __len__(self) -> int:
        return len(self.spoken)

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        rows = np.asarray(indices).tolist()
        chosen, numbers = [self.spoken[i] for i in rows], [self.numbers[i] for i in rows]
        audio = np.zeros((len(rows), 1, max(u.samples for u in chosen)), np.float32)
        text = np.zeros((len(rows), max(map(len, numbers))), np.int64)
        for place, (u, letters) in enumerate(zip(chosen, numbers, strict=True)):
            audio[place, 0, : u.samples] = self.row[u.first : u.last]
            text[place, : len(letters)] = letters
        batch = {
            "audio": torch.from_numpy(audio),
            "samples": torch.tensor([u.samples for u in chosen]),
            "text": torch.from_numpy(text),
            "letters": torch.tensor([len(letters) for letters in numbers]),
        }
        return batch | ({"label": torch.tensor([u.label for u in chosen])} if self.spec.classes else {})

    def labels(self) -> Tensor | None:
        return torch.tensor([u.label for u in self.spoken]) if self.spec.classes else None

    def utterances(self) -> Iterator[tuple[str, str, Tensor, int]]:
        """The name, text, samples [1, N] and class of each clip."""
        for u in self.spoken:
            yield shown(u.name), u.text, torch.from_numpy(np.array(self.row[u.first : u.last]))[None], u.label
