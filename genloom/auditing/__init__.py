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

import torch
from torch import Tensor

from genloom import generate
from genloom.auditing.finding import Finding
from genloom.core import Model
from genloom.data.base import Dataset
from genloom.data.canaries import Planted, planted
from genloom.errors import UserError
from genloom.measure import images, labels_to_ask, open_like, own_data, some_rows
from genloom.run import Run

FILE = "audit.json"
SAMPLES = {"image": 1_000, "text": 64, "audio": 64, "video": 128}  # that are made and looked at
SLOWLY = {"image": 256, "video": 16}  # so many at once


@dataclass(frozen=True)
class Subject:
    """What is audited: a run, the data that it was trained on, data of the same kind that it was not, and how.

    `grouped`: the training data with a user's attributes as its classes. `reference`: a run of the same model on other data.
    """

    run: Run
    train: Dataset
    holdout: Dataset | None
    n: int
    seed: int
    max_copies: float
    max_membership: float
    grouped: Dataset | None = None
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
        n, seed = self.n, self.seed
        rows = some_rows(len(self.data), n, seed)
        given = labels_to_ask(self.model, self.data, rows, n, seed)
        if self.model.needs:
            n, given["source"] = len(rows), torch.cat([*images(self.data, rows, "source")])
        made = torch.as_tensor(
            generate.draw(self.model, n, seed=seed, batch_size=SLOWLY[self.run.spec.modality], **given)
        )
        if not made.isfinite().all():
            raise UserError("The samples of this run are not numbers (NaN): fit again, with a lower --lr.")
        return made


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
    labels file (columns file and label) whose groups are counted in place of the data's classes. `reference`: a run of the
    same model on other data, whose losses are taken off. Raises UserError for what the caller can mend.
    """
    from genloom.auditing import copies, coverage, membership

    started = time.perf_counter()
    kind = run.spec.modality
    if kind not in SAMPLES:
        raise UserError(f"audit knows no {kind} yet, which this run makes.")
    if n is not None and n < 10:
        raise UserError(f"-n {n} is too few to conclude from: give 10 or more.")
    train, kept = _sides(run, data, holdout)
    grouped = open_like(run, _source(run, data), labels=str(attributes)) if attributes else None
    subject = Subject(
        run, train, kept, n or SAMPLES[kind], seed, max_copies, max_membership, grouped=grouped, reference=reference
    )
    found = Found([], [], {})
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
        "seed": seed,
        "seconds": time.perf_counter() - started,
    }
    run.write_json(FILE, result)
    return result


def _source(run: Run, data: str | Path | Dataset | None) -> str | Path:
    if isinstance(data, Dataset):
        raise UserError("Attributes are matched with files by their names: give the data as a path, not as a Dataset.")
    return data or run.info["data"]["source"]


def _sides(
    run: Run, data: str | Path | Dataset | None, holdout: str | Path | Dataset | None
) -> tuple[Dataset, Dataset | None]:
    """What it was trained on, and what it was not. Raises UserError where the first cannot be had."""
    if data is None:
        own, lost = own_data(run)
        if own is None:
            raise UserError(f"An audit compares with the training data: {lost} Give its folder as --data.")
    else:
        own = data if isinstance(data, Dataset) else open_like(run, data)
    own = planted(own, run.info["data"].get("canaries"))
    if isinstance(holdout, Dataset) or holdout is None:
        return own, holdout or own.held_out()
    given = open_like(run, holdout)
    if given.fingerprint == own.fingerprint:
        raise UserError(f"'{holdout}' is what the run was trained on: give --holdout data that it never saw.")
    return own, given


def format_audit(result: Mapping[str, Any]) -> str:
    """The findings as lines for a terminal."""
    lines = [f"{result['data']}; {result['holdout'] or 'nothing held out'}; {result['seconds']:.0f} s"]
    for f in result["findings"]:
        lines.append(f"{'FLAG' if f['flagged'] else 'ok':<5} {f['sentence']}")
    lines += [f"{'?':<5} {sentence}" for sentence in result["cannot"]]
    for span in result.get("spans", [])[:3]:
        lines.append(f"      copied, {span['length']} bytes: {' '.join(span['text'].split())[:100]}")
    return "\n".join(lines)
