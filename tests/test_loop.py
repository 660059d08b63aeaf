"""The loop as a user meets it: killed, interrupted, exploding, on a full disk, on two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import same_tensors
from safetensors.torch import load_file

import genloom
from genloom import core
from genloom.api import resolve_options
from genloom.data import open_data
from genloom.nn.muon import Muon
from genloom.state import Options, State
from genloom.train import step

FIT = ["fit", "gan", "digits", "--recipe", "tiny", "--quiet", "--seed", "4"]


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "genloom", *FIT, "--out", str(folder), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def step_of(folder: Path) -> int:
    from safetensors import safe_open

    try:
        with safe_open(folder / "state/latest.safetensors", "pt") as file:
            return int(json.loads(file.metadata()["genloom"])["step"])
    except Exception:
        return -1


def wait_for_step(folder: Path, at_least: int, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if step_of(folder) >= at_least:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the run never got so far")


def test_kill_9_and_the_same_command_gives_the_same_bits(tmp_path: Path, command) -> None:  # type: ignore[no-untyped-def]
    steps = ["--steps", "400", "--save-minutes", "0"]
    process = start(tmp_path / "killed", *steps)
    wait_for_step(tmp_path / "killed", 100, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left_at = step_of(tmp_path / "killed")
    assert 100 <= left_at < 400
    again = command(*FIT, "--out", tmp_path / "killed", *steps)
    assert again.returncode == 0, again.stderr
    whole = command(*FIT, "--out", tmp_path / "whole", *steps)
    assert whole.returncode == 0, whole.stderr
    a, b = (load_file(tmp_path / k / "state/latest.safetensors") for k in ("killed", "whole"))
    assert same_tensors(a, b)
    ticks = [json.loads(line) for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    steps_seen = [t["step"] for t in ticks if t["event"] == "tick"]
    assert steps_seen == sorted(set(steps_seen)) and steps_seen[-1] == 400


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path / "run", "--minutes", "2", "--save-minutes", "0")
    wait_for_step(tmp_path / "run", 1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    events = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    last = events[-1]
    assert last["event"] == "interrupt" and "same command" in last["message"]
    assert step_of(tmp_path / "run") == last["step"] > 0


class Fragile(core.Model):
    """Fails with a loss that is not finite at step 10, unless the rate has been halved `heals` times."""

    name, modality = "fragile", "image"
    card = core.Card("none", "none", 2026, "https://example.org", "breaks on purpose")
    recipes = {"tiny": core.Recipe(steps=30, batch_size=4, lr=1.0, ema=0.5)}
    bf16 = False

    def __init__(self, spec: core.Spec, *, heals: int = 1):
        super().__init__(spec)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.heals = heals
        self.moved = 0.0

    def loss(self, batch: core.Batch, phase: str) -> dict[str, torch.Tensor]:
        rate = abs(float(self.weight.detach()) - self.moved)
        self.moved = float(self.weight.detach())
        broken = self.steps == 10 and rate > 1.5 * 0.5**self.heals
        return {"all": self.weight * (torch.inf if broken else 1.0) * torch.ones(len(batch["image"]))}

    def after_step(self, progress: float) -> None:
        self.steps += 1

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> torch.Tensor:
        return self.item_noise(n, *self.spec.shape, seed=seed, start=start).clamp(-1, 1)


def test_nan_rolls_back_at_half_the_rate_and_says_so(tmp_path: Path) -> None:
    run = genloom.fit(Fragile, open_data("digits"), tmp_path / "run", quiet=True, config={"heals": 1})
    events = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events].count("rollback") == 1
    assert run.load_tensors("state/latest.safetensors")[1]["rate"] == 0.5


def test_nan_for_good_gives_up_clearly_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(genloom.UserError, match="not finite for the 4th time"):
        genloom.fit(Fragile, open_data("digits"), tmp_path / "run", quiet=True, config={"heals": 9})
    state, numbers = genloom.Run.open(tmp_path / "run").load_tensors("state/latest.safetensors")
    assert torch.isfinite(state["model.weight"]) and numbers["rollbacks"] == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_loses_nothing(small_disk: Path, command) -> None:  # type: ignore[no-untyped-def]
    out = small_disk / "run"
    words = ["fit", "gan", "digits", "--recipe", "tiny", "--quiet", "--out", out]
    assert command(*words, "--steps", 5).returncode == 0
    before = (out / "state/latest.safetensors").read_bytes()
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(bytes(max(free - 4096, 0)))
    full = command(*words, "--steps", 50)
    assert full.returncode == 2 and "disk is full" in full.stderr and "Traceback" not in full.stderr
    assert (out / "state/latest.safetensors").read_bytes() == before
    (small_disk / "filler").unlink()
    assert command(*words, "--steps", 50).returncode == 0


def test_two_fits_into_one_folder(tmp_path: Path, command) -> None:  # type: ignore[no-untyped-def]
    process = start(tmp_path / "run", "--steps", "1000000", "--save-minutes", "0")
    try:
        wait_for_step(tmp_path / "run", 0, process)
        second = command(*FIT, "--out", tmp_path / "run", "--steps", "1000000")
        assert second.returncode == 2 and "Another fit" in second.stderr
    finally:
        process.kill()
        process.communicate()


def test_accumulation_gives_the_whole_batch_s_gradient() -> None:
    data = open_data("digits")
    cls = core.find("vae")
    weights = []
    for pieces in (1, 4):
        options = resolve_options(cls, "tiny", {"accumulate": pieces, "batch_size": 16, "precision": "fp32"})
        torch.manual_seed(0)
        model = core.build(cls, data.spec, options.model)
        model.randn = lambda n, *shape: torch.zeros(n, *shape)  # type: ignore[method-assign]
        state = State(model, options)
        step(state, data.batch(np.arange(16)), options)
        weights.append({k: v.detach() for k, v in model.named_parameters()})
    for k in weights[0]:
        torch.testing.assert_close(weights[0][k], weights[1][k], rtol=1e-4, atol=1e-5)


def test_clipping_bounds_a_phase_s_gradient() -> None:
    data = open_data("digits")
    cls = core.find("vae")
    options = resolve_options(cls, "tiny", {"clip": 1e-9, "precision": "fp32", "batch_size": 8})
    state = State(core.build(cls, data.spec, options.model), options)
    step(state, data.batch(np.arange(8)), options)
    moments = [s["exp_avg"].norm() for several in state.optimisers.values() for o in several for s in o.state.values()]
    assert torch.stack(moments).norm() <= 1e-9


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"steps": -5}, {"lr": 0}, {"batch_size": 0}, {"ema": 1.0}, {"minutes": -1}, {"accumulate": 3}]
)
def test_options_that_make_no_sense(bad: dict[str, float]) -> None:
    with pytest.raises(genloom.UserError, match=f"--{next(iter(bad)).replace('_', '-')} must be"):
        Options(**bad)  # type: ignore[arg-type]


def test_rate_falls_to_zero_over_the_last_share() -> None:
    options = Options(lr=1.0, decay=0.25)
    assert [options.rate_at(p) for p in (0, 0.75, 0.875, 1)] == [1, 1, 0.5, 0]
    assert Options(lr=2.0).rate_at(1.0) == 2.0


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WORKER = """
import sys, torch
from genloom import core, parallel
from genloom.api import resolve_options
from genloom.data import open_data
from genloom.data.order import batches
from genloom.state import State
from genloom.train import step
from safetensors.torch import save_file

torch.set_num_threads(1)
parallel.setup()
name, dtype, out = sys.argv[1:]
if dtype == "float64":  # also where a model asks for float32
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
data, cls = open_data("mnist", limit=256), core.find(name)
options = resolve_options(cls, "tiny", {"batch_size": 16, "precision": "fp32", "lr": 1e-12, "ema": 0.9})
torch.manual_seed(0)
model = core.build(cls, data.spec, options.model)
state = State(model, options)
gradients = {}
for phase in state.phases:  # what the optimiser is given, at the first step
    def keep(optimiser, args, kwargs, phase=phase):
        mine = {id(p) for g in optimiser.param_groups for p in g["params"]}
        gradients.update({f"{phase.name}.{k}": p.grad.clone() for k, p in model.named_parameters() if id(p) in mine})
    for optimiser in state.optimisers[phase.moves]:
        optimiser.register_step_pre_hook(keep)
stream = batches(data, 16, seed=0, start=0, rank=parallel.rank(), world=parallel.world())
step(state, {k: v.to(torch.get_default_dtype()) if k == "image" else v for k, v in next(stream).items()}, options)
if parallel.rank() == 0:
    save_file(gradients, out)
parallel.finish()
"""


# Batch norm amplifies float32's rounding to 2e-5, in one process with its rows in another order too: float64 shows the sums.
@pytest.mark.parametrize(
    "name, dtype", [("wgan_gp", "float32"), ("gan", "float32"), ("flow", "float32"), ("dcgan", "float64")]
)
def test_two_processes_give_the_gradients_of_one(name: str, dtype: str, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    subprocess.run([sys.executable, script, name, dtype, tmp_path / "one"], check=True, env=ONE_THREAD)
    subprocess.run([*TORCHRUN, script, name, dtype, tmp_path / "two"], check=True, env=ONE_THREAD, capture_output=True)
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert one.keys() == two.keys() and one
    for k, gradient in one.items():
        torch.testing.assert_close(two[k], gradient, rtol=1e-6, atol=1e-6 * max(1.0, float(gradient.abs().max())))


def test_torchrun_fits_what_one_process_fits(tmp_path: Path, command) -> None:  # type: ignore[no-untyped-def]
    words = ["fit", "gan", "digits", "--recipe", "tiny", "--precision", "fp32", "--quiet", "--out"]
    for steps in (6, 12):  # the second call resumes
        done = subprocess.run(
            [*TORCHRUN, "-m", "genloom", *words, tmp_path / "two", "--steps", str(steps)],
            capture_output=True,
            text=True,
            env=ONE_THREAD,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    assert command(*words, tmp_path / "one", "--steps", 12).returncode == 0
    one, two = (load_file(tmp_path / k / "weights.safetensors") for k in ("one", "two"))
    for k, weight in one.items():
        torch.testing.assert_close(two[k], weight, rtol=1e-4, atol=1e-4)


# ── Muon ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_muon_steps_as_pytorch_s_does_which_multiplies_in_bf16() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(*shape)) for shape in ((8, 24), (24, 8), (8, 24), (16, 16))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    began = [p.detach().clone() for p in ours]
    muon = Muon(ours, 1e-2, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, 1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        muon.step()
        reference.step()
    for p, q, start in zip(ours, theirs, began, strict=True):
        assert float((p - q).norm().detach()) < 0.03 * float((q - start).norm().detach())


def test_muon_moves_a_convolution_as_the_matrix_that_it_is() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Parameter(torch.randn(6, 4, 3, 3).contiguous(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(convolution.detach().flatten(1).clone())
    muons = [Muon([p], 1e-2, weight_decay=0.1) for p in (convolution, matrix)]
    for _ in range(3):
        matrix.grad = torch.randn(6, 36)
        convolution.grad = matrix.grad.view(6, 4, 3, 3).clone()
        for muon in muons:
            muon.step()
    torch.testing.assert_close(convolution.detach().flatten(1), matrix.detach())
