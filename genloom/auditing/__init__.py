"""Whether a run gives its training data away, and for whom it fails: the verb audit, run + data -> audit.json.

Each finding has a method, a number of items, a figure with its 95 % interval, and a sentence. Where something cannot be
concluded that is said too. `genloom audit` ends with 1 where a finding passes its threshold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom import generate
from genloom.auditing.finding import Finding
from genloom.auditing.near import Space
from genloom.auditing.sides import altered, sides
from genloom.auditing.twins import Twins, pixels, twins_of
from genloom.core import Model
from genloom.data.base import Dataset
from genloom.data.canaries import Planted
from genloom.errors import UserError
from genloom.measure import images, labels_to_ask, open_like, some_rows
from genloom.nn.columns import are_numbers
from genloom.run import Run
from genloom.seal import weights_of

FILE = "audit.json"
SAMPLES = {"image": 1_000, "text": 64, "audio": 64, "video": 128, "table": 5_000}  # that are made and looked at
SLOWLY = {"image": 256, "video": 16, "table": 1_000}  # so many at once
PIXELS = 60_000  # training pictures whose pixels are compared
HELD = 1_000  # items that were not trained on, at least where there are as many
LOOKED_AT = 12_000  # of those, at most: some may be left out


@dataclass(frozen=True)
class Subject:
    """What is audited: a run, the data that it was trained on, data of the same kind that it was not, and how.

    `grouped`: the training data with a user's attributes as its classes; `by`: those columns of a table. `reference`: a run of the same model on other data.
    """

    run: Run
    train: Dataset
    holdout: Dataset | None
    n: int
    seed: int
    max_copies: float
    max_membership: float
    grouped: Dataset | None = None
    by: str | None = None
    reference: Run | None = None

    @cached_property
    def model(self) -> Model:
        return generate.load(self.run)

    @property
    def data(self) -> Dataset:
        """What it was trained on, but for canaries."""
        return self.train.data if isinstance(self.train, Planted) else self.train

    @cached_property
    def made(self) -> Tensor:
        """Samples [n, ...], classes in the data's proportions, and of a model that starts from something one of each source."""
        n, seed, like = self.n, self.seed, self.data
        if self.model.needs:
            like = self.holdout or self.data  # what is made of a training source is like its target by intent
        rows = some_rows(len(like), n, seed)
        given = labels_to_ask(self.model, like, rows, n, seed)
        if self.model.needs:
            n, given["source"] = len(rows), torch.cat([*images(like, rows, "source")])
        made = torch.as_tensor(
            generate.draw(self.model, n, seed=seed, batch_size=SLOWLY[self.run.spec.modality], **given)
        )
        if not (are_numbers(made, self.run.spec) if like.spec.modality == "table" else made.isfinite().all()):
            raise UserError("The samples of this run are not numbers (NaN): fit again, with a lower --lr.")
        return made

    @cached_property
    def pixels(self) -> Space:
        """The training pictures, pixel by pixel."""
        rows = some_rows(len(self.data), PIXELS, self.seed)
        return Space("pixels", pixels(images(self.data, rows)), rows)

    @cached_property
    def twins(self) -> Twins | None:
        """Tells which items are training items again."""
        return twins_of(self.data, self.model, self.pixels if self.run.spec.modality == "image" else None)

    @cached_property
    def unseen(self) -> tuple[np.ndarray, int]:
        """Numbers of held-out items that are no training items, and how many more were looked at that are.

        Raises UserError where none is left, but of rows of a table, which may all be alike by chance.
        """
        assert self.holdout is not None
        rows = some_rows(len(self.holdout), LOOKED_AT, self.seed)
        if self.twins is None:
            return rows, 0
        again = self.twins.again(self.holdout, rows)
        if again.all() and self.run.spec.modality != "table":
            raise UserError(f"Every held-out {self.item} is a training {self.item} too: give --holdout others.")
        return rows[~again], int(again.sum())

    @property
    def item(self) -> str:
        """What one of its items is called."""
        return "picture" if self.run.spec.modality == "image" else self.data.unit.partition(" of ")[0]

    def held(self, most: int) -> np.ndarray:
        """Numbers of at most so many of those."""
        rows = self.unseen[0]
        return rows[some_rows(len(rows), most, self.seed)]

    def inside(self, most: int) -> np.ndarray:
        """Numbers of at most so many training items: of none that stands there twice, where held-out ones were left out."""
        rows = some_rows(len(self.data), most, self.seed)
        return rows if self.twins is None or not self.unseen[1] else rows[~self.twins.twice(rows)]


@dataclass
class Found:
    """What came of it: findings, and what cannot be concluded and why; `more` goes into audit.json as it is."""

    findings: list[Finding]
    cannot: list[str]
    more: dict[str, Any]


def audit_run(
    run: Run,
    data: str | Path | Dataset | None = None,
    *,
    holdout: str | Path | Dataset | None = None,
    n: int | None = None,
    attributes: str | Path | None = None,
    reference: Run | None = None,
    max_copies: float = 0.01,
    max_membership: float = 0.6,
    seed: int = 0,
) -> dict[str, Any]:
    """Audit a run against its training data (`data` where that has moved): writes audit.json, and the worst pairs of pictures.

    `holdout`: items of the same kind that it never saw, by default what its data holds out. `n`: samples. `attributes`: a
    labels file (columns file and label) whose groups are counted in place of the data's classes, of tables the names of columns.
    `reference`: a run of the
    same model on other data, whose losses are taken off. Raises UserError for what the caller can mend.
    """
    from genloom.auditing import copies, coverage, membership

    started, weights = time.perf_counter(), weights_of(run)
    kind = run.spec.modality
    if kind not in SAMPLES:
        raise UserError(f"audit knows no {kind} yet, which this run makes.")
    if n is not None and n < 10:
        raise UserError(f"-n {n} is too few to conclude from: give 10 or more.")
    for name, share in {"max-copies": max_copies, "max-membership": max_membership}.items():
        if not 0 <= share <= 1:
            raise UserError(f"--{name} is {share:g}: give a share, from 0 to 1.")
    if seed < 0:
        raise UserError(f"--seed is {seed}: give 0 or more.")
    if attributes is not None and kind not in ("image", "table"):
        raise UserError(f"--attributes are counted in pictures and tables, and this run makes {kind}: leave them out.")
    if attributes is not None and not str(attributes).strip(" ,"):
        raise UserError("--attributes is empty: give a labels file of groups, of a table names of columns.")
    if reference:
        _fits(reference, run)
    train, kept = sides(run, data, holdout)
    by = str(attributes) if attributes is not None and kind == "table" else None
    grouped = open_like(run, _source(run, data), labels=str(attributes)) if attributes is not None and not by else None
    subject = Subject(
        run,
        train,
        kept,
        n or SAMPLES[kind],
        seed,
        max_copies,
        max_membership,
        grouped=grouped,
        by=by,
        reference=reference,
    )
    found = Found([], altered(run, train), {})
    if kept is not None and kind != "table" and (twins := subject.unseen[1]):
        found.cannot.append(
            f"{twins:,} of {twins + len(subject.unseen[0]):,} held-out {subject.item}s are training {subject.item}s too, and were "
            "left out: what was held out should share none."
        )
    parts: list[Callable[[Subject, Found], None]] = [copies.look, membership.look, coverage.look]
    for part in parts:
        part(subject, found)
    result = {
        "passed": not any(f.flagged for f in found.findings),
        "data": f"{train.name}, {len(train):,} items",
        "holdout": f"{kept.name}, {len(kept):,} items" if kept else None,
        "findings": [f.to_json() for f in found.findings],
        "cannot": found.cannot,
        **found.more,
        "weights": weights,
        "seed": seed,
        "seconds": time.perf_counter() - started,
    }
    run.write_json(FILE, result)
    return result


def _fits(reference: Run, run: Run) -> None:
    """Raises UserError unless the one run can calibrate what is said of the other."""
    if reference.folder.resolve() == run.folder.resolve():
        raise UserError("The reference is the run itself: give --reference a run of the same model on other data.")
    mine, other = run.spec, reference.spec
    names = [[c.get("name") for c in spec.extra.get("columns", ())] for spec in (mine, other)]
    if run.info["model"] != reference.info["model"] or mine.shape != other.shape or names[0] != names[1]:
        raise UserError(
            "The reference is of another model, or of data of another kind: give --reference a run of the same one on other "
            "data."
        )


def _source(run: Run, data: str | Path | Dataset | None) -> str | Path:
    if isinstance(data, Dataset):
        raise UserError("Attributes are matched with files by their names: give the data as a path, not as a Dataset.")
    return data or run.info["data"]["source"]


def format_audit(result: Mapping[str, Any]) -> str:
    """The findings as lines for a terminal."""
    lines = [f"{result['data']}; {result['holdout'] or 'nothing held out'}; {result['seconds']:.0f} s"]
    for f in result["findings"]:
        lines.append(f"{'FLAG' if f['flagged'] else 'ok':<5} {f['sentence']}")
    lines += [f"{'?':<5} {sentence}" for sentence in result["cannot"]]
    for pair in result.get("rows", [])[:3]:
        lines.append(f"      row {pair['sample']:,}, distance {pair['distance']:.4f}: {', '.join(pair['made'])[:110]}")
    for span in result.get("spans", [])[:3]:
        lines.append(f"      copied, {span['length']} bytes: {' '.join(span['text'].split())[:100]}")
    return "\n".join(lines)
