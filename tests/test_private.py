"""Private training is sound: the step, the clipping, the account, the key, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import same_tensors
from torch import Tensor

import genloom
import genloom.seal
import genloom.train
from genloom import core, private
from genloom.api import resolve_options
from genloom.core import Spec
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.errors import UserError
from genloom.private import Privacy, clipped
from genloom.state import State, parameters
from genloom.train import descend, frozen, update

pytest.importorskip("opacus")
HINGE = {"objective": "hinge", "gamma": 0.0}
KINDS = {"vae": {}, "cvae": {}, "flow": {}, "gan": HINGE, "cgan": HINGE, "gpt": {}, "llama": {}, "tvae": {}, "ardm": {}}
DP = {"recipe": "tiny", "quiet": True, "dp_epsilon": 8.0, "batch_size": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    verses = tmp_path_factory.mktemp("text") / "verses.txt"
    verses.write_text("".join(f"{i} bottles of beer on the wall\n" for i in range(200)))
    table = open_data("credit", schema=schema(tmp_path_factory.mktemp("table") / "schema.json"))
    return {"image": open_data("digits"), "text": open_data(verses, context=16, tokenizer="byte"), "table": table}


def schema(path: Path) -> Path:
    """What may be known of loans before one is looked at."""
    told = [
        {"name": "Age", "kind": "number", "low": 18, "high": 100},
        {"name": "Income", "kind": "number", "low": 0, "high": 1000, "missing": True},
        {"name": "Status", "kind": "category", "values": ["good", "bad"]},
        {"name": "Home", "kind": "category", "values": ["owner", "rent", "parents", "other"], "missing": True},
    ]
    path.write_text(json.dumps(told))
    return path


def tiny(name: str, data: dict[str, Dataset], **overrides: Any) -> tuple[State, Dataset, Any]:
    cls = core.find(name)
    dataset = data[cls.modality]
    overrides = {"batch_size": 8, "weight_decay": 0.0, "clip": None, "precision": "fp32", **overrides}
    options = resolve_options(cls, "tiny", overrides, KINDS[name])
    torch.manual_seed(0)
    return State(core.build(cls, dataset.spec, options.model), options), dataset, options


def gradients(state: State) -> dict[str, Tensor]:
    return {k: p.grad.clone() for k, p in state.model.named_parameters() if p.grad is not None}


# ── the step ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", KINDS)
def test_without_noise_and_clipping_the_step_is_the_plain_step(name: str, data: dict[str, Dataset]) -> None:
    state, dataset, options = tiny(name, data)
    found = private.check(state.model, dataset, replace(options, dp_epsilon=8.0), learnt=False)
    phase = next(p for p in state.phases if p.name not in found.free)
    batch, moved = dataset.batch(np.arange(8)), state.moved[phase.moves]
    privacy = Privacy(float("inf"), 0.0, 0.1, 1e-5, 10, 8, **vars(found))
    rows = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(8)] if found.alone else [batch]
    plain: dict[str, Tensor] = {}
    with frozen(state.frozen[phase.moves]):
        torch.manual_seed(7)
        for piece in rows:  # done one after another, items draw their noise one after another
            losses = descend(state, phase, piece, options)
        plain = {k: g / len(rows) for k, g in gradients(state).items()}
        torch.manual_seed(7)
        told = privacy.fill(state.model, moved, batch, phase.name, 0)
    mine = gradients(state)
    assert mine.keys() == plain.keys() and plain
    for key in plain:
        torch.testing.assert_close(mine[key], plain[key], rtol=1e-4, atol=1e-5, msg=key)
    if not found.alone:
        torch.testing.assert_close(told, losses, rtol=1e-4, atol=1e-5)


def test_the_loop_takes_the_private_step(data: dict[str, Dataset]) -> None:
    after = []
    for private_ in (False, True):
        state, dataset, options = tiny("vae", data)
        if private_:
            state.privacy = Privacy(float("inf"), 0.0, 0.1, 1e-5, 10, 8)
        torch.manual_seed(7)
        update(state, state.phases[0], dataset.batch(np.arange(8)), options)
        after.append(torch.cat([p.detach().flatten() for p in state.model.parameters()]))
    assert float((after[0] - after[1]).abs().max()) <= 2e-5


@pytest.mark.parametrize("name", ["vae", "flow", "gpt"])
def test_item_by_item_and_together_are_the_same(name: str, data: dict[str, Dataset]) -> None:
    state, dataset, _ = tiny(name, data)
    moved = parameters(state.model, ())
    for row in range(3):
        batch = dataset.batch(np.array([row]))
        torch.manual_seed(row)
        a, terms_a = private.together(state.model, moved, batch, "all")
        torch.manual_seed(row)
        b, terms_b = private.one_by_one(state.model, moved, batch, "all")
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(terms_a, terms_b)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("alone", [False, True])
def test_one_item_moves_the_sum_by_no_more_than_clipping_allows(
    name: str, alone: bool, data: dict[str, Dataset]
) -> None:
    state, dataset, options = tiny(name, data)
    found = private.check(state.model, dataset, replace(options, dp_epsilon=8.0), learnt=False)
    phase = next(p for p in state.phases if p.name not in found.free)
    moved = parameters(state.model, phase.moves)
    batch, clip, alone = dataset.batch(np.arange(6)), 0.01, alone or found.alone
    other = {k: torch.cat([v[:-1], dataset.batch(np.array([99]))[k]]) for k, v in batch.items()}
    absurd = {k: torch.cat([v[:-1], 1e4 * v[-1:]]) if v.is_floating_point() else v for k, v in batch.items()}
    less = {k: v[:-1] for k, v in batch.items()}
    sums = []
    for b in (batch, other, absurd, less):
        torch.manual_seed(3)
        total, _ = clipped(state.model, moved, b, phase.name, clip, alone=alone)
        sums.append(torch.cat([t.flatten() for t in total]))
    assert 0 < float(sums[0].norm()) <= 6 * clip * (1 + 1e-4)
    assert float((sums[0] - sums[1]).norm()) <= 2 * clip * (1 + 1e-3)
    assert float((sums[0] - sums[2]).norm()) <= 2 * clip * (1 + 1e-3)
    if alone:  # the same random numbers for the items that stay
        assert float((sums[0] - sums[3]).norm()) <= clip * (1 + 1e-3)


def test_an_item_that_is_not_finite_counts_as_nothing(data: dict[str, Dataset]) -> None:
    state, dataset, _ = tiny("vae", data)
    moved = parameters(state.model, ())
    batch = dataset.batch(np.arange(4))
    batch["image"][2] = torch.nan
    total, _ = clipped(state.model, moved, batch, "all", 1.0)
    assert all(t.isfinite().all() for t in total) and sum(float(t.norm()) for t in total) > 0


def test_noise_has_the_size_that_was_promised_and_comes_from_the_key(data: dict[str, Dataset]) -> None:
    state, _, _ = tiny("vae", data)
    moved = parameters(state.model, ())
    drawn = []
    for key, step in ((b"a" * 32, 5), (b"a" * 32, 5), (b"a" * 32, 6), (b"b" * 32, 5)):
        Privacy(0.5, 3.0, 0.1, 1e-5, 10, 8, key).fill(state.model, moved, {}, "all", step)  # nobody was drawn
        drawn.append(torch.cat([p.grad.flatten() for p in moved if p.grad is not None]))
    assert float(drawn[0].std()) == pytest.approx(0.5 * 3.0 / 8, rel=0.03) and abs(float(drawn[0].mean())) < 0.01
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])
    for what in ("data", "losses"):
        seeds = [Privacy(1, 1, 0.1, 1e-5, 10, 8, k * 32).seed(what, step) for k in (b"k", b"l") for step in (1, 2)]
        assert len(set(seeds)) == 4
    rows = [Privacy(1, 1, 0.1, 1e-5, 10, 8, b"k" * 32).rows(1000, step) for step in range(40)]
    assert np.mean([len(r) for r in rows]) == pytest.approx(100, abs=6) and len({len(r) for r in rows}) > 10


# ── the account ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_epsilon_is_what_opacus_says_and_the_key_goes_when_all_is_done(
    data: dict[str, Dataset], tmp_path: Path
) -> None:
    from opacus.accountants import RDPAccountant

    run = genloom.fit("vae", data["image"], tmp_path / "run", steps=6, **DP)
    told = json.loads((run.folder / "run.json").read_text())["privacy"]
    account = RDPAccountant()
    for _ in range(6):
        account.step(noise_multiplier=told["noise"], sample_rate=16 / len(data["image"]))
    assert told["epsilon"] == pytest.approx(account.get_epsilon(1e-5), rel=1e-9) and 7.9 < told["epsilon"] <= 8
    assert not (run.folder / "state/noise.key").exists()
    ticks = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert ticks[-2]["epsilon"] == pytest.approx(told["epsilon"], abs=1e-3)
    card = (run.folder / "README.md").read_text()
    assert "1e-05)-differential privacy for each item" in card and "does not cover the files" in card
    assert genloom.seal.verify(run.folder) == []
    with pytest.raises(UserError, match="chosen for 6 steps"):
        genloom.fit("vae", data["image"], run.folder, steps=7, **DP)
    genloom.fit("vae", data["image"], run.folder, steps=6, **DP)  # already finished: says so


@pytest.mark.parametrize("name", ["gan", "gpt"])
def test_resume_is_bit_exact_and_needs_the_key(
    name: str, data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "new_key", lambda: b"k" * 32)
    dataset = data[core.find(name).modality]
    options = DP | {"config": KINDS[name], "decay": 0.0}
    straight = genloom.fit(name, dataset, tmp_path / "straight", steps=6, **options)

    stopped = genloom.train.Loop._progress
    monkeypatch.setattr(genloom.train.Loop, "_progress", lambda loop: 1.0 if loop.state.step >= 3 else stopped(loop))
    genloom.fit(name, dataset, tmp_path / "halves", steps=6, **options)  # as if it had been stopped there
    monkeypatch.setattr(genloom.train.Loop, "_progress", stopped)
    key = tmp_path / "halves/state/noise.key"
    assert key.stat().st_mode & 0o077 == 0 and len(key.read_bytes()) == 32
    half = json.loads((tmp_path / "halves/run.json").read_text())["privacy"]
    kept = key.read_bytes()
    key.unlink()
    with pytest.raises(UserError, match=r"noise\.key of this private run is gone"):
        genloom.fit(name, dataset, tmp_path / "halves", steps=6, **options)
    key.write_bytes(kept)
    halves = genloom.fit(name, dataset, tmp_path / "halves", steps=6, **options)
    a, b = (r.load_tensors("state/latest.safetensors")[0] for r in (straight, halves))
    assert same_tensors(a, b)
    told = [r.info["privacy"] for r in (straight, halves)]
    assert told[0] == told[1] and half["steps"] == 3 and 0 < half["epsilon"] < told[0]["epsilon"]


def test_a_run_that_is_killed_claims_no_less_than_it_spent(
    data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(genloom.train.Loop, "_look", killed)
    with pytest.raises(RuntimeError):
        genloom.fit("vae", data["image"], tmp_path / "run", steps=4, **DP)
    told = json.loads((tmp_path / "run/run.json").read_text())["privacy"]
    assert told["steps"] == 4 and 7.9 < told["epsilon"] <= 8


def test_the_key_cannot_be_guessed() -> None:
    assert len({private.new_key() for _ in range(4)}) == 4


def test_nothing_that_is_drawn_can_be_known_from_the_seed(
    data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one seed: other items, other augmentations, other noise inside the loss."""
    seen: list[list[Any]] = []
    real, plain = private.Privacy.fill, torch.manual_seed

    def fill(self: Privacy, model: Any, moved: Any, batch: Any, phase: str, step: int) -> Any:
        seen[-1] += [batch["image"].sum().item(), torch.initial_seed()]
        return real(self, model, moved, batch, phase, step)

    monkeypatch.setattr(private.Privacy, "fill", fill)
    for name in ("a", "b"):
        seen.append([])
        genloom.fit("vae", data["image"], tmp_path / name, steps=2, seed=5, **DP)
    assert torch.manual_seed is plain and len(seen[0]) == 4 and not set(seen[0]) & set(seen[1])


def test_a_word_is_in_one_window_at_all_times(data: dict[str, Dataset]) -> None:
    text = data["text"]
    rows = np.arange(len(text))
    moving = [text.batch(rows, seed=seed)["text"] for seed in (1, 2)]
    still = [text.still().batch(rows, seed=seed)["text"] for seed in (1, 2)]
    assert not torch.equal(*moving) and torch.equal(*still)
    whole = torch.cat([still[0][:, :-1].flatten(), still[0][-1, -1:]])
    assert torch.equal(whole, torch.from_numpy(np.asarray(text.tokens[: len(whole)]).astype(np.int64)))  # type: ignore[attr-defined]


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("name", "options", "config", "said"),
    [
        ("gan", {}, {}, "gradient penalty"),
        ("gan", {}, {"gamma": 0.0}, "all see the data"),
        ("gan", {}, {"objective": "relativistic_average", "gamma": 0.0}, "not of one item"),
        ("gan", {}, HINGE | {"augment": "ada"}, "augmentation that adapts"),
        ("dcgan", {}, {}, "batch normalisation"),
        ("sngan", {}, {}, "batch normalisation"),
        ("wgan_gp", {}, {}, "gradient penalty"),
        ("vae", {"accumulate": 2}, {}, "accumulate"),
        ("vae", {"minutes": 1.0}, {}, "--steps"),
        ("vae", {"batch_size": 2000}, {}, "must be below"),
        ("vae", {"dp_delta": 0.01}, {}, "--dp-delta"),
        ("vae", {"precision": "fp16"}, {}, "fp16"),
        ("vae", {"dp_epsilon": 0.05}, {}, "no noise is enough for ε = 0.05: give --dp-epsilon"),
        ("vae", {"dp_epsilon": None, "dp_clip": 1.0}, {}, "--dp-epsilon too"),
        ("vae", {"dp_epsilon": -1.0}, {}, "--dp-epsilon must be more than 0"),
    ],
)
def test_what_is_not_sound_is_refused_before_anything_is_written(
    name: str, options: dict[str, Any], config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    digits = open_data("mnist", limit=64) if name in ("dcgan", "sngan", "wgan_gp") else open_data("digits")
    with pytest.raises(UserError, match=said):
        genloom.fit(name, digits, tmp_path / "run", config=config, **{**DP, **options})
    assert not (tmp_path / "run").exists()


def test_models_that_keep_items_and_tokenizers_that_were_learnt_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "verses.txt"
    path.write_text("".join(f"{i} bottles of beer on the wall\n" for i in range(200)))
    with pytest.raises(UserError, match=r"--data\.tokenizer byte"):
        genloom.fit("gpt", path, tmp_path / "run", **DP)
    with pytest.raises(UserError, match="keeps items"):
        sounds = open_data("speech", rate=8000, seconds=0.3)
        genloom.fit("melgan", sounds, tmp_path / "run", **DP)
    with pytest.raises(UserError, match=r"--data\.schema FILE"):
        genloom.fit("ardm", "credit", tmp_path / "run", **DP)
    told = {"schema": schema(tmp_path / "schema.json")}
    run = genloom.fit("ardm", "credit", tmp_path / "run", data_options=told, steps=3, **DP)
    assert 0 < run.info["privacy"]["epsilon"] <= 8


def test_a_start_from_other_weights_is_said(data: dict[str, Dataset], tmp_path: Path) -> None:
    public = genloom.fit("vae", data["image"], tmp_path / "public", recipe="tiny", quiet=True, steps=2)
    run = genloom.fit("vae", data["image"], tmp_path / "run", init=public, steps=2, **DP)
    assert "whose own data this does not cover" in (run.folder / "README.md").read_text()


# ── what it is for ───────────────────────────────────────────────────────────────────────────────────────────────
class Half(Dataset):
    """Two hundred digits of MNIST, the first or the next."""

    name, spec = "half", Spec("image", (1, 28, 28))

    def __init__(self, which: int):
        self.whole, self.first, self.fingerprint = open_data("mnist", limit=400), 200 * which, f"{which:02x}"
        self.summary: dict[str, Any] = {}

    def __len__(self) -> int:
        return 200

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> core.Batch:
        return {"image": self.whole.batch(np.asarray(indices) + self.first)["image"]}


def told_apart(run: genloom.Run, members: Dataset, others: Dataset) -> float:
    """The chance that an item that was learnt from has a lower loss than one that was not."""
    state, _ = run.load_tensors("state/latest.safetensors")
    model = core.build(core.find("vae"), run.spec, run.info["config"])
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    losses = []
    for data in (members, others):
        torch.manual_seed(0)
        with torch.no_grad():
            draws = [sum(model.loss(data.batch(np.arange(200)), "all").values()) for _ in range(8)]
        losses.append(torch.stack(draws).mean(0))  # type: ignore[arg-type]
    return float((losses[0][:, None] < losses[1][None]).float().mean())


def test_whether_an_item_was_learnt_from_can_no_longer_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "new_key", lambda: b"k" * 32)
    members, others = Half(0), Half(1)
    options = {"recipe": "tiny", "quiet": True, "batch_size": 40, "config": {"width": 256, "latent": 16}}
    open_ = genloom.fit("vae", members, tmp_path / "open", steps=600, lr=2e-3, **options)
    closed = genloom.fit("vae", members, tmp_path / "closed", steps=60, lr=2e-3, dp_epsilon=8.0, **options)
    assert told_apart(open_, members, others) > 0.7
    assert abs(told_apart(closed, members, others) - 0.5) <= 0.05
