"""What an audit says where nothing was remembered, or where both sides have something in common."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from genloom import auditing
from genloom.auditing import copies, coverage, membership, rows
from genloom.auditing.near import Space
from genloom.errors import UserError
from genloom.metrics.chances import total_variation
from genloom.metrics.table import Column, Table

PLANTED: Any = SimpleNamespace(rows=range(5), data=SimpleNamespace(batch=lambda _: {}), spec=None, seed=0)


def table(random: np.random.Generator, n: int) -> Table:
    return [Column(f"x{i}", random.lognormal(0, 1.5, n), False) for i in range(4)]


@pytest.mark.parametrize("seed", range(5))
def test_rows_with_outliers_are_no_nearer_to_either_side(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = auditing.Found([], [], {})
    subject: Any = SimpleNamespace(seed=seed)
    rows._nearer(subject, found, table(random, 2000), table(random, 800), table(random, 800))
    assert abs(found.findings[0].value - 0.5) < 0.08 and not found.findings[0].flagged


def test_a_generator_of_few_rows_is_not_flagged_for_where_these_happen_to_lie() -> None:
    flagged, random = 0, np.random.default_rng(0)
    for seed in range(60):
        few = [Column(c.name, np.repeat(c.values, 100), False) for c in table(random, 20)]
        found, subject = auditing.Found([], [], {}), SimpleNamespace(seed=seed)
        rows._nearer(cast(Any, subject), found, few, table(random, 2000), table(random, 400))
        flagged += found.findings[0].flagged
    assert flagged <= 3
    train = table(random, 500)
    copied = [Column(c.name, np.repeat(c.values[:20], 100), False) for c in train]
    rows._nearer(cast(Any, SimpleNamespace(seed=0)), found, copied, train, table(random, 500))
    assert found.findings[-1].flagged and found.findings[-1].value == 1


@pytest.mark.parametrize(("scores", "exposed"), [([0.0] * 5, 1.0), ([np.nan, 0, 0, 0, 0], 1.0), ([1.0] * 5, 9.97)])
def test_canaries_as_likely_as_others_are_not_exposed(scores: list[float], exposed: float) -> None:
    found = auditing.Found([], [], {})
    judge: Any = SimpleNamespace(scores=lambda ours, fresh: [np.array(scores), np.zeros(fresh[0])])
    membership._canaries(PLANTED, judge, found)
    told = found.findings[0]
    assert told.value == pytest.approx(exposed, abs=0.01) and 0 <= told.low <= told.value <= told.high <= 9.97


def test_canaries_that_have_no_losses_are_said_to_tell_nothing() -> None:
    judge: Any = SimpleNamespace(scores=lambda ours, fresh: [np.full(5, np.nan), np.zeros(fresh[0])])
    with pytest.raises(UserError, match="canaries are not numbers"):
        membership._canaries(PLANTED, judge, auditing.Found([], [], {}))


def test_a_held_out_item_that_is_a_training_item_hides_no_copy() -> None:
    known = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    held = torch.cat([known[:1], torch.randn(50, 8, generator=torch.Generator().manual_seed(1))])
    space = Space("rows", known, np.arange(50))
    others = space.new(space.apart(held))
    assert len(others.distances) == 50
    assert all(view.copies().all() for view in space.views(space.apart(known), others))
    with pytest.raises(UserError, match="give --holdout others"):
        space.new(space.apart(known))


def test_twins_are_found_among_pictures_of_many_pixels_that_are_nearly_alike() -> None:
    known = 1 + 0.05 * torch.randn(3000, 300, generator=torch.Generator().manual_seed(0))
    space = Space("pixels", known, np.arange(3000))
    others = torch.cat([known[::300], known[:10] + 1e-3 * torch.randn(10, 300)])
    assert space.holds(others).tolist() == [True] * 10 + [False] * 10


@pytest.mark.parametrize(("m", "told"), [(999, []), (1_000, [0.01]), (10_000, [0.01, 0.001])])
def test_members_are_told_at_false_alarms_of_which_there_are_enough(m: int, told: list[float]) -> None:
    random, found, shares = np.random.default_rng(0), auditing.Found([], [], {}), []
    for fpr in (0.01, 0.001):
        membership._caught(random.normal(size=500), random.normal(size=m), fpr, "", 0, found)
    assert [f.name for f in found.findings] == [f"membership-tpr@{fpr:g}" for fpr in told]
    assert len(found.cannot) == 2 - len(told) and all("it takes" in s for s in found.cannot)
    for _ in range(100):
        alone = auditing.Found([], [], {})
        membership._caught(random.normal(size=500), random.normal(size=1_000), 0.01, "", 0, alone)
        shares.append(alone.findings[0].value)
    assert "chance is 1.1)" in alone.findings[0].sentence and abs(np.mean(shares) - 11 / 1001) < 0.001


@pytest.mark.parametrize("times", [1, 5, 40])
def test_items_that_stand_several_times_in_the_data_make_no_copies_of_others(times: int) -> None:
    known = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).repeat(times, 1)
    space = Space("rows", known, np.arange(len(known)))
    others = space.among_themselves(1_000, 0)
    new = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    by_distance, relative = space.views(space.apart(new), others)
    assert others.distances.isfinite().all() and by_distance.copies().sum() <= 2 and relative.copies().sum() <= 4
    assert all(view.copies().all() for view in space.views(space.apart(known + 1e-3), others))


def test_one_item_again_and_again_leaves_nothing_to_be_near_beside() -> None:
    space = Space("rows", torch.ones(400, 8), np.arange(400))
    views, found = space.views(space.apart(torch.ones(9, 8)), space.among_themselves(20, 0)), auditing.Found([], [], {})
    copies._conclude(cast(Any, SimpleNamespace()), found, views, "", "", "")
    assert not found.findings and "again and again" in found.cannot[0]


@pytest.mark.parametrize(("n", "held"), [(64, 20), (1000, 20), (1000, 300)])
def test_what_passes_by_chance_is_flagged_by_chance_alone(n: int, held: int) -> None:
    random, flagged = np.random.default_rng(0), 0
    kind: Any = SimpleNamespace(spec=SimpleNamespace(modality="image"))
    subject: Any = SimpleNamespace(holdout=True, max_copies=0.01, run=kind)
    for _ in range(400):
        copied = torch.from_numpy(random.random(n) < random.random(held).min())
        flagged += copies.concluded(subject, copied, "", "", "", held).flagged
    assert flagged <= 20  # of 10 that are allowed
    assert copies.concluded(subject, torch.ones(n), "", "", "", held).flagged


def test_ties_of_votes_go_to_the_nearest() -> None:
    eye: Any = coverage.Voters.__new__(coverage.Voters)
    eye.known, eye.groups, eye.votes = torch.arange(5.0)[:, None], torch.tensor([3, 1, 3, 1, 0]), {}
    assert eye.vote(torch.tensor([[-1.0], [5.0]])).tolist() == [3, 1]


@pytest.mark.parametrize(("n", "m", "kinds"), [(1000, 1000, 10), (1000, 100, 40), (5000, 1000, 2)])
def test_groups_that_are_alike_are_so_within_the_interval(n: int, m: int, kinds: int) -> None:
    random = np.random.default_rng(0)
    alike = [total_variation([(random.integers(-1, kinds, n), random.integers(-1, kinds, m))], i) for i in range(60)]
    assert sum(low > 0 for _, low, _ in alike) <= 6 and all(low <= value <= high for value, low, high in alike)
    value, low, high = total_variation([(np.zeros(n, int), np.arange(m) % 2)], 0)
    assert value == 0.5 and 0.3 < low < 0.5 < high


def test_silent_windows_are_not_compared() -> None:
    sound = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    noise = 3e-3 * torch.randn(2, 100, generator=torch.Generator().manual_seed(1))  # of a room in which nobody speaks
    assert torch.equal(copies._heard(torch.cat([torch.zeros(2, 100), noise, sound]), 0.01), sound)
    assert torch.equal(copies._heard(torch.cat([torch.zeros(2, 100), noise]), 0.0), noise)
