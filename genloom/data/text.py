"""Text: files to tokens, in windows of one length; or questions with their answers, one an item."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genloom.core import Batch, Spec, mix
from genloom.data.base import DataOptions, Dataset
from genloom.data.catalog import Entry
from genloom.data.documents import Document, Found, Turn, documents, nothing_usable
from genloom.data.files import digest, streams
from genloom.data.growing import Growing, OnDisk, cut_at
from genloom.errors import UserError, unknown
from genloom.text import tokenizer as tokenizers
from genloom.text.tokenizer import Bytes, Characters, Pairs, Tokenizer, chat_marks

SUFFIXES = frozenset({".txt", ".md", ".text", ".jsonl", ".ndjson"})
CHARACTERS = 16_384  # different ones, up to which `auto` makes each a token
LEARNT_FROM = 64 * 2**20  # characters that a vocabulary is learnt from


@dataclass(frozen=True)
class TextOptions(DataOptions):
    """How texts become items."""

    context: int | None = None  # tokens that are seen at once, by default the model's
    tokenizer: str = "auto"  # char, byte, bpe (learnt from this text), or the path of a tokenizer.json or its folder
    vocabulary: int = 4096  # tokens of a learnt bpe
    separate: bool = False  # tokens look at those of their own document alone
    held_out: float = 0.05  # share of the documents (of one long text, its end) kept out of training

    def __post_init__(self) -> None:
        """Raises UserError for a value that makes no sense."""
        self.check(
            ("context", self.context is None or self.context >= 1, "1 token or more"),
            ("vocabulary", self.vocabulary >= 300, "300 or more: 256 bytes come first"),
            ("held_out", 0 <= self.held_out <= 0.5, "a share from 0 to 0.5"),
        )


OPTIONS = TextOptions
Reader = Callable[[], Iterator[Document]]  # reads all again at each call


# ── from disk, or by name ────────────────────────────────────────────────────────────────────────────────────────────
def from_path(path: Path, *, split: str = "train", like: Spec | None = None, **given: Any) -> Dataset:
    """The texts of a file, folder, zip or tar; options are those of TextOptions.

    Raises UserError when no text can be used.
    """
    options, found = TextOptions.of(given), Found()
    files = streams(path, SUFFIXES)

    def read() -> Iterator[Document]:
        found.bad.clear()
        found.notes.clear()
        return documents(files, found)

    return make(read, found, options, path.resolve().name, files.fingerprint, split, str(path), like)


def from_catalog(entry: Entry, *, split: str = "train", like: Spec | None = None, **given: Any) -> Dataset:
    texts, fingerprint = entry.load(split)

    def read() -> Iterator[Document]:
        return (Document(name, iter([text])) for name, text in texts)

    return make(read, Found(), TextOptions.of(given), entry.name, fingerprint, split, entry.name, like)


def make(
    read: Reader,
    found: Found,
    options: TextOptions,
    name: str,
    fingerprint: str,
    split: str,
    where: str,
    like: Spec | None,
) -> Dataset:
    """Read all, find a tokenizer, and give the split that is wanted."""
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    context = options.context or (like.shape[0] - 1 if like else 256)
    tokens = known_tokenizer(options, read, like) if like else find_tokenizer(options, read)
    kept, counted = Kept(tokens, options, context), 0
    for document in read():
        kept.add(document)
        counted += 1
    if not counted or not kept.parts["train"]:
        raise nothing_usable(where, found)
    kept.close()
    if kept.beyond and not kept.reached["train"]:
        held = " but those of examples held out" if kept.reached["test"] else ""
        raise UserError(
            f"No answer in '{where}'{held} begins within the {context} tokens that are seen at once: give --model.context "
            f"{kept.longest} and --data.context {kept.longest}, or shorter questions."
        )
    print_ = digest(fingerprint, options, tokens.size, *([kept.beyond] if kept.beyond else []))
    spec = Spec("text", (context + 1,), extra={"vocabulary": tokens.size, "tokenizer": tokens.to_json()})
    summary = {
        "items": counted - kept.beyond,
        "kind": "texts",
        "tokens": len(kept.parts["train"]),
        "held_out": len(kept.parts["test"]),
        "tokenizer": tokens.kind,
        "vocabulary": tokens.size,
        "skipped": {"count": len(found.bad), "files": dict(list(found.bad.items())[:20])},
        "notes": [*found.notes, *kept.notes],
    }
    sets = {which: kept.dataset(which, name, spec, print_, summary) for which in ("train", "test")}
    if sets["train"] is None or (split == "test" and sets["test"] is None):
        raise UserError(
            f"'{where}' holds too little text: {len(kept.parts['train'])} tokens, and one item takes {context + 1}."
        )
    wanted = sets[split]
    assert wanted is not None
    if split == "train":
        wanted.test = lambda: sets["test"]
    return wanted


def known_tokenizer(options: TextOptions, read: Reader, like: Spec) -> Tokenizer:
    """The tokenizer of that Spec. Raises UserError where it has none, and when another one is asked for."""
    own = tokenizers.from_json(like.extra.get("tokenizer"))
    if options.tokenizer not in ("auto", own.kind, own.kind[:4]):
        other = find_tokenizer(options, read)
        if other.to_json() != own.to_json():
            raise UserError(
                f"The run to go on from reads {own.size} tokens of kind {own.kind}, and --data.tokenizer asks for "
                f"{other.size} of kind {other.kind}: leave it out."
            )
    return own


def find_tokenizer(options: TextOptions, read: Reader) -> Tokenizer:
    """The tokenizer of that name, or at that path. Raises UserError when there is none."""
    kind = options.tokenizer
    if kind == "byte":
        return Bytes()
    if kind in ("auto", "char"):
        seen: set[str] = set()
        for document in read():
            for piece in text_pieces(document):
                seen.update(piece)
            if kind == "auto" and len(seen) > CHARACTERS:
                return learnt(read, options.vocabulary)
        return Characters("".join(sorted(seen)))
    if kind == "bpe":
        return learnt(read, options.vocabulary)
    return tokenizers.at(Path(kind).expanduser())


def learnt(read: Reader, size: int) -> Pairs:
    def pieces() -> Iterator[str]:
        count = 0
        for document in read():
            for piece in text_pieces(document):
                yield piece
                count += len(piece)
                if count > LEARNT_FROM:
                    return

    return Pairs.train(pieces(), size)


def text_pieces(document: Document) -> Iterator[str]:
    return iter([t.text for t in document.turns]) if document.turns else document.pieces


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────
class Kept:
    """Documents as tokens, those to train on and those held out: every k-th document, or the end of a few long ones."""

    def __init__(self, tokens: Tokenizer, options: TextOptions, context: int):
        self.tokens, self.held_out, self.context = tokens, options.held_out, context
        self.separate = options.separate
        dtype = np.uint16 if tokens.size <= 2**16 else np.uint32
        self.parts = {which: Growing(dtype) for which in ("train", "test")}
        self.learnt = {which: Growing(np.uint8) for which in ("train", "test")}
        self.starts: dict[str, list[int]] = {"train": [0], "test": [0]}
        self.reached: dict[str, list[tuple[int, int]]] = {"train": [], "test": []}  # examples with an answer in sight
        self.examples = False
        # examples with none, and with a part of one; targets of the longest
        self.beyond, self.cut, self.longest = 0, 0, 0
        self.count = 0
        self.notes: list[str] = []

    def add(self, document: Document) -> None:
        if self.count and self.examples != bool(document.turns):
            raise UserError(
                f"Texts and questions with answers cannot be learnt together, and '{document.name}' is of the other kind than "
                "what came before it: keep them in separate files."
            )
        every = round(1 / self.held_out) if self.held_out else 0
        which = "test" if every and self.count % every == every - 1 else "train"
        self.count += 1
        part = self.parts[which]
        if document.turns:
            self._example(which, document.turns)
        else:
            for piece in document.pieces:
                part.add(self.tokens.array(piece))
            part.add([self.tokens.end])
        self.starts[which].append(len(part))

    def _example(self, which: str, turns: list[Turn]) -> None:
        """Of one whose answers all lie behind what is seen at once nothing would be learnt: it is no item."""
        begin, window, answered = len(self.parts[which]), self.context + 1, False
        for ids, learnt in self._turns(turns):
            at = len(self.parts[which]) - begin
            answered |= learnt and max(at, 1) < min(at + len(ids), window)
            self.parts[which].add(ids)
            self.learnt[which].add([learnt] * len(ids))
        end = len(self.parts[which])
        self.examples = True
        self.longest = max(self.longest, end - begin - 1)
        if answered:
            self.reached[which].append((begin, min(end, begin + window)))
            self.cut += end - begin > window
        else:
            self.beyond += 1

    def _turns(self, turns: list[Turn]) -> Iterator[tuple[list[int], bool]]:
        """Tokens of each turn and whether they are learnt: in the marks of a chat where the tokenizer has them."""
        marks = chat_marks(self.tokens)
        for turn in turns:
            if marks:
                yield [marks[0], *self.tokens.encode(f"{turn.role}\n")], False
                yield [*self.tokens.encode(turn.text), marks[1]], turn.learnt
                yield self.tokens.encode("\n"), False
            else:
                yield self.tokens.encode(turn.text), turn.learnt
        if not marks:
            yield [self.tokens.end], True

    def close(self) -> None:
        """Hold out the end of a few long texts where no document was held out."""
        self.arrays = {which: part.array() for which, part in self.parts.items()}
        if self.beyond or self.cut:
            self.notes.append(
                f"Of {self.count:,} examples {self.beyond:,} have no answer within the {self.context} tokens that are seen "
                f"at once and are left out, and {self.cut:,} more are cut: the longest takes --data.context {self.longest} "
                f"with --model.context {self.longest}."
            )
        if len(self.arrays["test"]) or not self.held_out or self.examples:
            return
        tokens = self.arrays["train"]
        cut = int(len(tokens) * (1 - self.held_out))
        if len(tokens) - cut > self.context:
            self.arrays["train"], self.arrays["test"] = cut_at(tokens, cut)
            self.starts["test"] = [0, *(s - cut for s in self.starts["train"] if s > cut)]
            self.notes.append(f"The last {self.held_out:.0%} of the text are held out of training.")

    def dataset(self, which: str, name: str, spec: Spec, fingerprint: str, summary: dict[str, Any]) -> TextSet | None:
        about = (name, spec, fingerprint, summary, self.arrays[which])
        if self.examples:
            learnt, spans = self.learnt[which].array(), np.array(self.reached[which])
            return Examples(*about, learnt=learnt, spans=spans, end=self.tokens.end) if len(spans) else None
        if len(about[-1]) <= self.context:
            return None
        return TextSet(*about, shifts=which == "train", starts=np.array(self.starts[which]) if self.separate else None)


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class TextSet(Dataset):
    """Windows of T + 1 tokens of one long row of documents; with `shifts` each begins a little later, by (seed, number).

    With `starts`, where documents begin, items tell the `document` [T] of each token that is looked at.
    """

    def __init__(
        self,
        name: str,
        spec: Spec,
        fingerprint: str,
        summary: dict[str, Any],
        tokens: np.ndarray | OnDisk,
        *,
        shifts: bool,
        starts: np.ndarray | None = None,
    ):
        self.name, self.spec, self.fingerprint, self.summary = name, spec, fingerprint, summary
        self.tokens, self.shifts, self.starts = tokens, shifts, starts
        self.window = spec.shape[0]
        self.unit = f"window of {self.window - 1} tokens"

    def __len__(self) -> int:
        return max(1, (len(self.tokens) - 1) // (self.window - 1))

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        step = self.window - 1
        starts = indices.astype(np.int64) * step
        if self.shifts:
            random = np.random.Generator(np.random.PCG64(mix(seed, 2)))
            starts += random.integers(0, step, len(starts))
        starts = np.minimum(starts, len(self.tokens) - self.window)
        rows = np.stack([self.tokens[s : s + self.window] for s in starts]).astype(np.int64)
        items = {"text": torch.from_numpy(rows)}
        if self.starts is not None:
            places = starts[:, None] + np.arange(step)
            items["document"] = torch.from_numpy(np.searchsorted(self.starts, places, side="right"))
        return items

    def still(self) -> Dataset:
        found = copy(self)
        found.shifts = False
        return found


class Examples(TextSet):
    """One question with its answer an item, filled up at the end; `weight` is 1 on the targets that are learnt.

    `spans` [N, 2]: where each begins and ends, or is cut, among the tokens.
    """

    def __init__(self, *about: Any, learnt: np.ndarray | OnDisk, spans: np.ndarray, end: int):
        super().__init__(*about, shifts=False)
        self.learnt, self.spans, self.end = learnt, spans, end
        self.unit = "example"

    def __len__(self) -> int:
        return len(self.spans)

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        spans = self.spans[indices]
        longest = max(max(b - a for a, b in spans), 2)
        text = np.full((len(spans), longest), self.end, np.int64)
        weight = np.zeros((len(spans), longest - 1), np.float32)
        for row, (a, b) in enumerate(spans):
            text[row, : b - a] = self.tokens[a:b]
            weight[row, : b - a - 1] = self.learnt[a + 1 : b]
        return {"text": torch.from_numpy(text), "weight": torch.from_numpy(weight)}


# ── to disk ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def write(texts: list[str], out: Path, *, spec: Spec, names: list[str] | None = None) -> list[Path]:
    """A .txt file each, under these names or by number. Raises UserError when the folder cannot be written."""
    names = names or [f"{i:04}" for i in range(len(texts))]
    paths = [out / f"{name}.txt" for name in names]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"'{out}' cannot be written: {error.strerror}.") from None
    return paths
