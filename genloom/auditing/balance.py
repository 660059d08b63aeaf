"""As many samples of each group as of the others, by leaving out what there is too much of: sample --balance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genloom import generate, naming
from genloom.auditing.coverage import voters_of, voting
from genloom.core import Model
from genloom.data.base import Dataset
from genloom.errors import UserError
from genloom.measure import open_like, own_data
from genloom.run import Run

PIECE = 256  # samples that are drawn at once
TRIES = 100  # samples that are drawn for one that is wanted, at most


def balanced(run: Run, n: int, by: str, *, seed: int = 0, **conditions: Any) -> tuple[Tensor, list[int], int]:
    """n samples, their numbers in the seed's own order, and how many were drawn.

    `by`: "label" for the data's classes, or a labels file of groups (columns file and label), of tables the name of a column.
    Each picture is of the group of the training items that are nearest to it. Raises UserError where there are no groups, or
    one is hardly ever made.
    """
    if conditions.get("source") is not None:
        raise UserError(
            "--balance chooses among what is drawn, and what is made of a --source is one of each: leave one out."
        )
    model = generate.load(run)
    given = generate.checked(model, conditions)
    names, told = values_of(run, by) if run.spec.modality == "table" else voted(run, by, seed)
    wanted = torch.tensor([n // len(names) + (i < n % len(names)) for i in range(len(names))])
    kept: list[tuple[int, Tensor]] = []
    for start in range(0, TRIES * n, PIECE):
        made = draw(model, seed, (start, start + PIECE), given)
        for number, group in enumerate(told(made), start):
            if group < len(wanted) and wanted[group] > 0:
                wanted[group] -= 1
                kept.append((number, made[number - start]))
        if not wanted.any():
            return torch.stack([x for _, x in kept]), [i for i, _ in kept], start + PIECE
    lacking = ", ".join(name for name, count in zip(names, wanted.tolist(), strict=True) if count)
    raise UserError(
        f"Of {TRIES * n:,} samples too few are of {lacking}: this run hardly makes them. Train it on more of them, or leave "
        "--balance out."
    )


def draw(model: Model, seed: int, span: tuple[int, int], given: dict[str, Any]) -> Tensor:
    return torch.as_tensor(generate.draw(model, span[1], seed=seed, span=span, **given))


Told = Callable[[Tensor], list[int]]  # the groups of samples


def values_of(run: Run, by: str) -> tuple[Sequence[str], Told]:
    """The values of a column, and which of them each row has. Raises UserError for what is no category."""
    columns, target = run.spec.extra["columns"], run.spec.extra["target"]
    known = [c["name"] for c in columns if c["kind"] == "category"]
    by = columns[target]["name"] if by == "label" and target is not None else by
    if by not in known:
        raise UserError(
            f"--balance takes a column of categories, and '{by}' is none: give {', '.join(known) or 'no such'}."
        )
    place = next(i for i, c in enumerate(columns) if c["name"] == by)
    return columns[place]["values"], lambda rows: rows[:, place].long().tolist()


def voted(run: Run, by: str, seed: int) -> tuple[Sequence[str], Told]:
    """The groups of the training data, and of which each picture is."""
    data = grouped(run, by)
    voters = voters_of(data, voting(data, seed))
    return data.spec.classes, lambda made: voters.vote(voters.features([made])).tolist()


def grouped(run: Run, by: str) -> Dataset:
    """The training data with its groups. Raises UserError where it cannot be had or has none."""
    if run.spec.modality != "image":
        raise UserError(f"--balance is of pictures and tables, and this run makes {run.spec.modality}: leave it out.")
    own, lost = own_data(run)
    if own is None:
        raise UserError(f"--balance tells groups by the training data. {lost}")
    data = own if by == "label" else open_like(run, run.info["data"]["source"], labels=by)
    if len(data.spec.classes) < 2:
        raise UserError("The training data has no classes to balance: give --balance a labels file of groups.")
    return data


def balanced_files(
    run: Run,
    n: int,
    by: str,
    out: Path,
    *,
    seed: int = 0,
    provenance: bool = True,
    watermark: bool = True,
    visible_label: bool = False,
    **given: Any,
) -> tuple[list[Path], int]:
    """The same as files, pictures each under its own number and with its own recipe; and how many were drawn.

    All rows of a table go into one file, rows.csv or that of the name `out`.
    """
    alone = naming.is_file(out, naming.ENDINGS.get(run.spec.modality, ()), n, holds_all=True)
    told: dict[str, Any] = {"seed": seed, "options": {"seed": seed}, "conditions": given, "watermark": watermark}
    is_table = run.spec.modality == "table"
    if is_table:
        told |= {"how": "balance", "options": {"n": n, "seed": seed, "balance": by}}
    marks = generate.marks_of(run, provenance, visible_label, **told)
    made, numbers, drawn = balanced(run, n, by, seed=seed, **given)
    if is_table:
        place: dict[str, Any] = {"out": out.parent, "names": [out.name]} if alone else {"out": out}
        return generate.written(run, made, marks=marks, **place), drawn
    paths: list[Path] = []
    for one, number in zip(made, numbers, strict=True):
        paths += generate.written(run, one[None], out, marks, first=number, of=drawn, names=[f"{number:05d}.png"])
    return paths, drawn
