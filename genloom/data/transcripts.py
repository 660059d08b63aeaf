"""Who says what: the text of each clip, from a file beside it, a table, or a description in many languages."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from genloom.data.files import Files, shown, suffix
from genloom.data.labels import read_column, spellings, stems
from genloom.data.sound import SUFFIXES
from genloom.errors import UserError

WRITTEN = frozenset({".txt", ".csv", ".tsv", ".jsonl"})
TABLES = ("metadata.csv", "transcripts.csv", "transcripts.tsv", "transcripts.jsonl", "transcripts.txt")
TEXT_KEYS = ("text", "transcript", "transcription", "sentence", "words")
LANGUAGE = r"[A-Za-z]{2,8}(?:[_-][A-Za-z0-9]+)*(?:@[A-Za-z]+)?"  # es, pt_BR, ca@valencia
IN_LANGUAGE = re.compile(rf"\s*({LANGUAGE})\.utf8\s*=(.*)")
DESCRIBING = re.compile(rf"(.+)_desc(?:_({LANGUAGE}))?")  # the name of a clip, without its ending
ENGLISH = "en"


@dataclass
class Said:
    """The names of all sounds, the text of each that has one, and the language of those whose name tells it."""

    sounds: list[str]
    texts: dict[str, str] = field(default_factory=dict)
    languages: dict[str, str] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many clips with text there are in each language, the most first."""
        return dict(Counter(self.languages.values()).most_common())


def found_texts(files: Files, where: str, transcripts: str | None = None) -> Said:
    """What is said in the sounds among `files`, as people wrote it; `transcripts` is a table that lies elsewhere.

    Raises UserError when there is no sound, and for a table that cannot be understood.
    """
    said = Said([n for n in files.names if suffix(n) in SUFFIXES])
    if not said.sounds:
        raise UserError(f"'{where}' holds no sound ({', '.join(sorted(SUFFIXES))}).")
    known = spellings(said.sounds)
    tables = [n for n in files.names if n.rpartition("/")[2] in TABLES]
    rows = [read_transcripts(_text_of(files, n), Path(n)) for n in tables]
    if transcripts is not None:
        path = Path(transcripts).expanduser()
        rows.append(read_transcripts(_text_at(path), path.with_suffix("") if suffix(path.name) == ".gz" else path))
    for table in rows:
        for file, text in table.items():
            if (name := known.get(file.replace("\\", "/").removeprefix("./"))) is not None:
                said.texts[name] = text
    _beside(files, said)
    return said


def _beside(files: Files, said: Said) -> None:
    """Add the texts of NAME.txt: that of NAME.wav, or in each language that of NAME_desc_LANGUAGE.wav."""
    written = {stem: name for stem, name in zip(stems(files.names), files.names, strict=True) if suffix(name) == ".txt"}
    described: dict[str, dict[str, str]] = {}
    for name, stem in zip(said.sounds, stems(said.sounds), strict=True):
        if stem in written:
            text = _text_of(files, written[stem])
            if not read_languages(text):  # else it describes what the sound is of, and the sound does not say it
                said.texts[name] = text
        elif (clip := DESCRIBING.fullmatch(stem)) and clip[1] in written:
            if clip[1] not in described:
                described[clip[1]] = read_languages(_text_of(files, written[clip[1]]))
            language = tidy(clip[2] or ENGLISH)
            if text := described[clip[1]].get(language, ""):
                said.texts[name], said.languages[name] = text, language


# ── languages ────────────────────────────────────────────────────────────────────────────────────────────────────
def read_languages(text: str) -> dict[str, str]:
    """Language -> text of a description as Tux Paint's stamps have it; empty for a text that is none.

    The first line is English, each other one such as `es.utf8=Una moneda`. Of two lines in one language the first counts.
    """
    first, *lines = text.lstrip("\ufeff").split("\n")
    found: dict[str, str] = {}
    for line in (first, *lines):
        if (row := IN_LANGUAGE.fullmatch(line.rstrip("\r"))) and (told := row[2].strip()):
            found.setdefault(tidy(row[1]), told)
    if found and not IN_LANGUAGE.fullmatch(first.rstrip("\r")) and first.strip():
        found.setdefault(ENGLISH, first.strip())
    return found


def tidy(language: str) -> str:
    """pt_BR -> pt-br, as espeak-ng names it."""
    return language.strip().lower().replace("_", "-")


def among(language: str, asked: Iterable[str]) -> bool:
    """Whether it is one of those asked for: `es` is also es-mx, and es-mx also plain `es`, but en-gb is not en-us."""
    return any(language == a or language.startswith(f"{a}-") or a.startswith(f"{language}-") for a in asked)


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────
def read_transcripts(text: str, path: Path) -> dict[str, str]:
    """File name -> what is said in it, of a table: lines `name|text`, perhaps `|normalised text`, which is preferred;
    lines `name: text` in a .txt; columns file and text in CSV, TSV or JSONL. Lines that begin with ; or # say nothing.
    """
    if suffix(path.name) == ".jsonl":
        return read_column(text, path, "text", TEXT_KEYS)
    lines = [line for line in text.split("\n") if line.strip() and line[0] not in ";#"]
    barred = sum("|" in line for line in lines) > len(lines) / 2
    if not barred and suffix(path.name) in (".csv", ".tsv"):
        return read_column(text, path, "text", TEXT_KEYS)
    found = {}
    for line in lines:
        name, *cells = re.split(r"\|" if barred else r":\s+", line, maxsplit=2 if barred else 1)
        if said := [cell.strip() for cell in cells if cell.strip()]:
            found[name.strip()] = said[-1]
    if not found:
        raise UserError(f"'{path}' says of no clip what is spoken in it: write lines such as name|text.")
    return found


def _text_of(files: Files, name: str) -> str:
    with files.open(name) as stream:
        return _decoded(stream.read(), shown(name))


def _text_at(path: Path) -> str:
    """Of a file of the system, perhaps packed by gzip. Raises UserError when it cannot be read."""
    try:
        raw = path.read_bytes()
        return _decoded(gzip.decompress(raw) if suffix(path.name) == ".gz" else raw, str(path))
    except (OSError, EOFError) as error:
        raise UserError(f"The transcripts '{path}' cannot be read: {error}.") from None


def _decoded(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise UserError(f"'{name}' is not UTF-8 text: save it as UTF-8.") from None
