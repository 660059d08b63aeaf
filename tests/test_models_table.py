"""Models of tables: what they say of chances is right, and what they are asked for comes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import same_tensors
from torch.distributions import Categorical, Normal

import genloom
from genloom.core import Spec, build, find
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.errors import UserError
from genloom.nn.columns import Columns, made_up, pick, uniform

COLUMNS = [
    {"name": "x", "kind": "number", "knots": [0.0, 1.0], "decimals": 3},
    {"name": "gap", "kind": "number", "knots": [0.0, 1.0], "decimals": 3, "missing": True},
    {"name": "sex", "kind": "category", "values": ["f", "m"]},
    {"name": "job", "kind": "category", "values": ["a", "b", "c"], "missing": True},
]
SPEC = Spec("table", (4,), ("f", "m"), {"columns": COLUMNS, "target": 2, "described": True})
ROWS = torch.tensor([[0.5, torch.nan, 1.0, 3.0], [-1.0, 1.0, 0.0, 2.0], [1.0, -0.2, 1.0, 0.0]])


def test_one_hot_and_back() -> None:
    columns = Columns(SPEC)
    assert columns.codes == [0, 0, 2, 4] and columns.missing == [False, True, False, False]
    hot = columns.one_hot(ROWS)
    assert hot.shape == (3, columns.width) and columns.width == 1 + 1 + 2 + 2 + 4
    assert hot[0].tolist() == [0.5, 0, 0, 1, 0, 1, 0, 0, 0, 1]
    chosen = {part.start: columns.code(ROWS, part) for part in columns.discrete}
    torch.testing.assert_close(columns.rows(hot, chosen), ROWS, equal_nan=True)


def test_picks_come_as_often_as_their_chances() -> None:
    logits = torch.tensor([0.1, 0.0, 0.6, 0.3]).log().expand(20_000, 4)
    found = pick(logits, uniform(torch.randn(20_000, generator=torch.Generator().manual_seed(0))))
    shares = torch.bincount(found, minlength=4) / 20_000
    assert shares[1] == 0 and (shares - torch.tensor([0.1, 0.0, 0.6, 0.3])).abs().max() < 0.012


def test_ardm_knows_nothing_before_it_learns_and_says_so() -> None:
    """All cells alike: each row costs the sum over columns of log K, whatever is hidden, on average."""
    torch.manual_seed(0)  # the weights, and which cells are hidden
    model = build(find("ardm"), SPEC, {"width": 16, "depth": 1, "bins": 4})
    rows = made_up(4000, SPEC, torch.Generator().manual_seed(0))
    nats = model.loss({"table": rows}, "all")["nats"]
    exact = math.log(4) + math.log(5) + math.log(2) + math.log(4)
    assert nats.shape == (4000,) and abs(float(nats.detach().mean()) - exact) < 4 * float(
        nats.detach().std()
    ) / math.sqrt(4000)


def test_ardm_s_chances_of_all_rows_sum_to_one_in_any_order() -> None:
    spec = Spec("table", (2,), (), {"columns": COLUMNS[2:], "target": None})
    model = build(find("ardm"), spec, {"width": 16, "depth": 1}).eval()
    torch.nn.init.normal_(model.head.weight)
    rows = torch.tensor([[float(a), float(b)] for a in range(2) for b in range(4)])
    for first in (0, 1):
        known = torch.zeros(8, 2, dtype=torch.bool)
        codes, total = model.code(rows), torch.zeros(8)
        for cell in (first, 1 - first):
            chances = model.logits(rows, codes, known)[:, cell].log_softmax(1)
            total = total + chances.gather(1, codes[:, cell : cell + 1])[:, 0]
            known[:, cell] = True
        assert float(total.detach().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_tvae_s_likelihood_is_that_of_its_distributions() -> None:
    model = build(find("tvae"), SPEC, {"width": 8, "latent": 2})
    decoded = torch.randn(3, model.columns.width, generator=torch.Generator().manual_seed(1))
    spread = (0.5 * model.log_variance.weight[:, 0]).exp()
    x = Normal(decoded[:, 0].tanh(), spread[0]).log_prob(ROWS[:, 0])
    gap = Normal(decoded[:, 1].tanh(), spread[1]).log_prob(ROWS[:, 1].nan_to_num())
    expected = x + torch.where(ROWS[:, 1].isnan(), 0.0, gap)
    for start, stop, codes in ((2, 4, ROWS[:, 1].isnan()), (4, 6, ROWS[:, 2]), (6, 10, ROWS[:, 3])):
        expected = expected + Categorical(logits=decoded[:, start:stop]).log_prob(codes.long())
    torch.testing.assert_close(model.log_likelihood(ROWS, decoded), expected)


def test_ctgan_asks_for_rare_categories_as_often_as_logarithms_have_it() -> None:
    torch.manual_seed(0)
    model = build(find("ctgan"), SPEC, {"width": 8, "latent": 2, "pack": 2})
    counts = torch.zeros(model.columns.width)
    job = model.columns.discrete[2].start
    counts[job : job + 4] = torch.tensor([900.0, 90.0, 9.0, 0.0])
    counts[2:6] = 500.0
    which, code = model.wanted(30_000, counts, torch.device("cpu"))
    shares = torch.bincount(code[which == 2], minlength=4) / (which == 2).sum()
    logs = torch.tensor([901.0, 91.0, 10.0, 1.0]).log()
    assert (shares - logs / logs.sum()).abs().max() < 0.02 and shares[3] == 0
    rows = model.columns.one_hot(made_up(50, SPEC))
    which, code = model.wanted(40, rows.sum(0), torch.device("cpu"))
    found = model.matching(rows, which, code)
    assert found[torch.arange(40), model.index[which, code]].eq(1).all(), "rows are of what was asked for"


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two in three are f; of f the number is small and the job a, of m large and b."""
    random = np.random.default_rng(0)
    is_m = random.random(1500) < 1 / 3
    x = np.where(is_m, random.normal(50, 2, 1500), random.normal(10, 2, 1500))
    lines = [f"{v:.2f},{'b' if m else 'a'},{'m' if m else 'f'}" for v, m in zip(x, is_m, strict=True)]
    path = tmp_path_factory.mktemp("linked") / "t.csv"
    path.write_text("\n".join(["x,job,sex", *lines]) + "\n")
    return open_data(path, target="sex")


@pytest.mark.parametrize("name", ["ardm", "tvae", "ctgan"])
def test_rows_hang_together(name: str, linked: Dataset, tmp_path: Path) -> None:
    sizes = {
        "ardm": {"width": 64, "depth": 1, "bins": 48},
        "tvae": {"width": 64, "latent": 8},
        "ctgan": {"width": 64, "latent": 8},
    }
    options = {"ctgan": {"betas": (0.5, 0.9)}}.get(name, {})
    run = genloom.fit(name, linked, tmp_path / name, recipe="tiny", steps=700, batch_size=200, lr=2e-3, quiet=True,
                      ema=0.98, config=sizes[name], **options)  # fmt: skip
    rows = genloom.sample(run, 2000, seed=1)
    x, job, sex = rows.unbind(1)
    assert abs(float((sex == 1).float().mean()) - 1 / 3) < (0.12 if name == "ctgan" else 0.05)
    assert float((job == sex).float().mean()) > (0.93 if name == "tvae" else 0.97)
    on_its_side = float(((x > 1 / 3) == (sex == 1)).float().mean())  # of the quantile; by chance 5 in 9
    assert on_its_side > (0.85 if name == "tvae" else 0.95), "normal noise of tvae's crosses it"
    if name == "tvae":
        return
    asked = genloom.sample(run, 200, seed=2, label="m")
    assert (asked[:, 2] == 1).all() and float((asked[:, 1] == 1).float().mean()) > 0.95


def test_ardm_fills_in_what_is_not_given(linked: Dataset, tmp_path: Path) -> None:
    run = genloom.fit("ardm", linked, tmp_path / "run", recipe="tiny", steps=700, batch_size=200, lr=2e-3, quiet=True,
                      ema=0.98, config={"width": 64, "depth": 1, "bins": 48})  # fmt: skip
    part = tmp_path / "part.csv"
    part.write_text("x,job,sex\n" + "49.5,,\n,b,\n10.20,,f\n" * 20)
    rows = genloom.sample(run, 60, source=str(part))
    held = linked.held_out()
    assert held is not None and rows.shape == (60, 3) and not rows.isnan().any()
    assert float((rows[0::3, 1] == 1).float().mean()) > 0.9 and float((rows[0::3, 2] == 1).float().mean()) > 0.9
    assert (rows[1::3, 1] == 1).all() and float((rows[1::3, 0] > 1 / 3).float().mean()) > 0.9
    assert (rows[2::3, 2] == 0).all() and len(set(rows[2::3, 0].tolist())) == 1, "what is given stays"
    from genloom.generate import to_files

    (path,) = to_files(run, None, tmp_path / "out", source=str(part))
    lines = path.read_text().splitlines()
    assert path.name == "part.csv" and len(lines) == 61 and lines[1].startswith("49.5")


def test_the_weights_with_the_least_held_out_loss_are_kept(tmp_path: Path) -> None:
    """A wide network learns few rows by heart: what is published is from before."""
    random = np.random.default_rng(0)
    lines = [f"{x:.2f},{y:.2f},{'ab'[int(c > 0.5)]}" for x, y, c in random.random((120, 3))]
    (tmp_path / "few.csv").write_text("\n".join(["x,y,c", *lines]) + "\n")
    few = open_data(tmp_path / "few.csv", held_out=0.5)
    how = {"recipe": "tiny", "steps": 600, "batch_size": 40, "lr": 5e-3, "quiet": True, "ema": 0.9}
    runs = {
        keep: genloom.fit("ardm", few, tmp_path / keep, keep=keep, config={"width": 128, "dropout": 0.0}, **how)
        for keep in ("best", "last")
    }
    held = few.held_out()
    assert held is not None
    rows, losses = held.batch(np.arange(len(held))), {}
    for keep, run in runs.items():
        torch.manual_seed(0)
        losses[keep] = genloom.load(run).loss(rows, "")["nats"].mean().item()
        _, told = run.load_tensors("weights.safetensors")
        assert told["step"] < 300 if keep == "best" else told["step"] == 600
    assert losses["best"] < losses["last"] - 0.5
    last = (runs["best"].folder / "log.jsonl").read_text().splitlines()[-1]
    assert "least held-out loss" in last


def test_the_best_weights_are_kept_through_a_break(linked: Dataset, tmp_path: Path) -> None:
    how = {"recipe": "tiny", "batch_size": 40, "lr": 5e-3, "quiet": True}
    genloom.fit("ardm", linked, tmp_path / "broken", steps=30, **how)
    broken = genloom.fit("ardm", linked, tmp_path / "broken", steps=60, **how)
    found = broken.load_tensors("state/latest.safetensors")
    held = {k: v for k, v in found[0].items() if k.startswith("best.")}
    assert held and same_tensors(
        {f"best.{k}": v for k, v in broken.load_tensors("weights.safetensors")[0].items()}, held
    )


def test_a_model_of_two_losses_has_no_best(tmp_path: Path) -> None:
    with pytest.raises(genloom.UserError, match="leave --keep at last"):
        genloom.fit("gan", "digits", tmp_path / "run", recipe="tiny", keep="best", quiet=True)


@pytest.mark.parametrize("name", ["vae", "tvae"])
def test_the_best_decoder_is_kept_by_its_own_encoder_s_loss(name: str, linked: Dataset, tmp_path: Path) -> None:
    """Only what samples is averaged: held-out items are read by the encoder as it is now, not as it began."""
    data = linked if name == "tvae" else "digits"
    run = genloom.fit(name, data, tmp_path / "run", recipe="tiny", steps=120, keep="best", quiet=True)
    ticks = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    kept = run.load_tensors("state/latest.safetensors")[1]
    assert kept["best_step"] > 60 and "least held-out loss" in ticks[-1]["message"], "the loss still falls"


@pytest.mark.parametrize(
    ("name", "option"),
    [("ardm", o) for o in ("width", "depth", "bins", "dropout")]
    + [("tvae", o) for o in ("width", "latent", "emphasis")]
    + [("ctgan", o) for o in ("width", "latent", "pack", "penalty", "dropout", "temperature")]
    + [("gpt", o) for o in ("layers", "width", "heads", "head", "hidden", "band", "dropout", "lora", "eps")]
    + [("llama", o) for o in ("groups", "theta", "lora_alpha", "layers", "width", "heads")],
)
def test_options_that_no_model_can_have_are_one_sentence(name: str, option: str) -> None:
    spec = SPEC if name in ("ardm", "tvae", "ctgan") else Spec("text", (9,), extra={"vocabulary": 5})
    for value in (-1, 10**13, math.nan):
        with pytest.raises(UserError, match=f"--model.{option.replace('_', '-')} must be from ") as error:
            build(find(name), spec, {option: value})
        assert "\n" not in str(error.value)
    if option in ("bins", "width", "latent", "pack", "heads", "layers"):
        with pytest.raises(UserError, match=f"--model.{option} must be from 1 to .* not 0"):
            build(find(name), spec, {option: 0})
