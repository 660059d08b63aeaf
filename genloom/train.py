"""The loop. It owns time: data order, accumulation, precision, clipping, EMA, checkpoints, logs, ranks.

Only this file calls `backward()` and `step()`. Step i draws its batch and its noise from (seed, i) alone, so a run that
is killed and resumed is bit for bit the run that was not.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Phase, mix
from genloom.data.base import Dataset, sentences
from genloom.data.order import batches, chosen
from genloom.errors import UserError
from genloom.generate import autocast, draw
from genloom.machine import memory_mb, taken_by_others
from genloom.monitor import Monitor
from genloom.run import STATE, WEIGHTS, Run
from genloom.state import Options, State
from genloom.watch import Watch

LOOKS = 60  # over the length of a run: each is a line of the log and a frame of the film
LOOKING = 0.1  # of the time, at most, is spent on looks
ROLLBACKS = 3
BUSY = 0.4  # of the processors, used by others: threads that wait for each other then lose more than they gain
BESIDE = "Other programs use {:.0%} of this machine's processors: with OMP_NUM_THREADS=1 before the command this may train faster."


# ── one step ─────────────────────────────────────────────────────────────────────────────────────────────────────
def step(state: State, batch: Batch, options: Options, progress: float = 0.0) -> dict[str, Tensor]:
    """All phases that are due on one batch, then the schedule and the average. Returns the losses by name."""
    torch.manual_seed(state.privacy.seed("losses", state.step) if state.privacy else mix(options.seed, state.step, 1))
    losses: dict[str, Tensor] = {}
    for phase in state.phases:
        if phase.due(state.step, progress):
            losses |= update(state, phase, batch, options, progress)
    state.model.after_step(progress)
    update_average(state, options.ema)
    state.step += 1
    return losses


def update(state: State, phase: Phase, batch: Batch, options: Options, progress: float = 0.0) -> dict[str, Tensor]:
    """One phase: freeze the rest, forward, backward, average over ranks, clip, step."""
    moved, several = state.moved[phase.moves], state.optimisers[phase.moves]
    privacy = state.privacy if state.privacy and state.privacy.sees(phase.name) else None
    with frozen(state.frozen[phase.moves]):
        if privacy:
            with autocast(state.model.device, state.precision):
                losses = privacy.fill(state.model, moved, batch, phase.name, state.step)
        else:
            losses = descend(state, phase, batch, options)
    parallel.average_gradients(moved)
    for group in chain.from_iterable(o.param_groups for o in several):
        group["lr"] = options.rate_at(progress) * phase.rate_at(progress) * state.rate
    if (clip := phase.clip or options.clip) is not None and not privacy:  # else each item's was clipped
        for optimiser in several:
            state.scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(moved, clip)
    for optimiser in several:
        state.scaler.step(optimiser)
        optimiser.zero_grad()
    state.scaler.update()
    return losses


def descend(state: State, phase: Phase, batch: Batch, options: Options) -> dict[str, Tensor]:
    """Forward and backward, in pieces; under privacy on items of nobody. Returns the mean losses."""
    losses: dict[str, Tensor] = {}
    if state.privacy is not None:
        batch = state.privacy.nobody(state.model.spec)
    for piece in zip(*(v.chunk(options.accumulate) for v in batch.values()), strict=True):
        with autocast(state.model.device, state.precision):
            terms = state.loss(dict(zip(batch, piece, strict=True)), phase.name)
        means = {k: v.float().mean() / options.accumulate for k, v in terms.items()}
        state.scaler.scale(torch.stack(list(means.values())).sum()).backward()
        losses = {k: losses.get(k, 0.0) + v.detach() for k, v in means.items()}
    return losses


@contextmanager
def frozen(rest: Iterable[nn.Parameter]) -> Iterator[None]:
    """No gradients for these, so no work is done for them."""
    for p in rest:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in rest:
            p.requires_grad_(True)


@torch.no_grad()
def update_average(state: State, decay: float) -> None:
    """EMA of what samples; the decay ramps up, so that the average soon forgets the initialisation."""
    mine, theirs = state.averaged
    torch._foreach_lerp_(mine, theirs, 1 - min(decay, (1 + state.step) / (10 + state.step)))
    for a, b in zip(state.average.buffers(), state.model.buffers(), strict=True):
        a.copy_(b)


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Loop:
    """One fit: steps until the budget is spent; looks at itself now and then, and keeps itself on disk."""

    def __init__(self, state: State, data: Dataset, options: Options, run: Run):
        self.state, self.data, self.options, self.run = state, data, options, run
        self.monitor: Monitor | None = None
        self.stopped_by: str | None = None
        self.sums: dict[str, tuple[Any, int]] = {}  # of each loss since the last look, and how many
        self.cpu = -time.process_time()  # seconds that earlier calls used, less those that this process had used before
        self.pause = 1.0  # seconds from one look to the next, at least
        device, count, held_out = state.model.device, state.model.looks_at, data.held_out()
        self.real = move(some(data, count), device)
        self.held_out = move(some(held_out, count), device) if held_out is not None else None
        # held-out items of a private run belong to somebody too
        self.keeps = options.keep == "best" and self.held_out is not None and state.privacy is None
        self.kind = data.spec.modality
        self.watch = Watch(self.real[self.kind].cpu()) if self.kind in ("image", "video") else None

    def go(self, quiet: bool = False) -> None:
        """Train to the end of the budget, resuming what the folder holds. Raises UserError when the run cannot go on."""
        if parallel.any_rank(self.run.has_state()):  # asked together, before any rank writes
            self.state.restore(*self.run.load_tensors(STATE))
            self.cpu += self.state.cpu
        else:
            self.save()  # so that there is always a good state to go back to
        state, minutes, first_step = self.state, self.options.minutes, self.state.step
        steps = self.options.steps if minutes is None else None
        monitor: Monitor | nullcontext[None] = nullcontext()
        if parallel.main():
            rate = float(self.data.spec.extra.get("rate", 1.0))
            monitor = Monitor(self.run.folder, steps, minutes, quiet, resume_at=first_step, rate=rate)
        with monitor as self.monitor, self._stoppable():
            event, words = ("resume", f"Going on from step {first_step}") if first_step else ("start", "Training")
            self._say(event, f"{words} on {state.model.device} in {state.precision}.")
            if state.model.device.type == "cpu" and torch.get_num_threads() > 1 and (busy := taken_by_others()) > BUSY:
                self._say("busy", BESIDE.format(busy))
            for sentence in sentences(self.data.summary):
                self._say("data", sentence)
            while not self._train():
                self._roll_back()
            self.save()
            self._say_end(first_step)

    def _train(self) -> bool:
        """Steps until done or stopped; False as soon as a look finds that training has broken down."""
        state, options = self.state, self.options
        looked, saved, clock = (state.step, state.seconds), state.seconds, time.perf_counter()
        progress = looked_at = self._progress()
        with closing(self._batches()) as stream:
            while progress < 1 and not parallel.any_rank(self.stopped_by is not None):
                self._count(step(state, move(next(stream), state.model.device), options, progress))
                now, before = time.perf_counter(), progress
                state.seconds, clock = parallel.from_main(state.seconds + now - clock), now
                progress = self._progress()
                if self.keeps and int(progress * LOOKS) > int(before * LOOKS):
                    state.hear(sum(self._unseen().values()))
                if self.monitor:
                    self.monitor.advance(state.step)
                waited = state.seconds - looked[1]
                if waited > self.pause and (waited > 60 or int(progress * LOOKS) > int(looked_at * LOOKS)):
                    if not self._look(looked):
                        return False
                    self.pause = max(1.0, parallel.from_main(time.perf_counter() - clock) / LOOKING)
                    looked, looked_at = (state.step, state.seconds), progress
                    if state.seconds - saved >= 60 * options.save_minutes:
                        self.save()
                        saved = state.seconds
        return looked[0] == state.step or self._look(looked)

    def _batches(self) -> Generator[Batch, None, None]:
        state, options = self.state, self.options
        if state.privacy is not None:
            rows, seed = partial(state.privacy.rows, len(self.data)), partial(state.privacy.seed, "data")
            return chosen(self.data, rows, seed, state.step)
        order = {"seed": options.seed, "start": state.step, "rank": parallel.rank(), "world": parallel.world()}
        return batches(self.data, options.batch_size, **order)

    def _progress(self) -> float:
        """Share of the budget spent, in [0, 1]."""
        steps, minutes = self.options.steps, self.options.minutes
        return min(1.0, self.state.step / steps if minutes is None else self.state.seconds / (60 * minutes))

    # looking
    def _count(self, losses: dict[str, Tensor]) -> None:
        for k, v in losses.items():
            total, count = self.sums.get(k, (0.0, 0))
            self.sums[k] = (total + v, count + 1)

    def _look(self, since: tuple[int, float]) -> bool:
        """Log, sample and watch; False when a loss or a weight is not finite."""
        losses = {k: float(parallel.mean(total / count)) for k, (total, count) in self.sums.items()}
        self.sums = {}
        norms = torch.stack(torch._foreach_norm(list(self.state.model.parameters())))
        if not np.isfinite(list(losses.values())).all() or not torch.isfinite(norms).all():
            return False
        if self.monitor:
            average, seed = self.state.average, self.options.seed
            grid = draw(average, average.grid(), seed=seed, precision=self.state.precision, **average.looks_with)
            seen, advice = self._watch(grid, losses)
            sheet = average.sheet(grid, seed=seed)
            self.monitor.tick(self._record(since, losses, seen), sheet)
            for sentence in advice:
                self._say("advice", sentence)
        return True

    def _record(self, since: tuple[int, float], losses: dict[str, float], seen: dict[str, float]) -> dict[str, Any]:
        state, progress = self.state, self._progress()
        images = (state.step - since[0]) * self.options.batch_size
        return {
            "event": "tick",
            "step": state.step,
            "seconds": round(state.seconds, 3),
            "progress": round(progress, 5),
            "rate": round(images / max(state.seconds - since[1], 1e-9), 2),
            "losses": losses,
            "lr": self.options.rate_at(progress) * state.rate,
            "cpu_seconds": round(self.cpu + time.process_time(), 1),
            "memory_mb": round(memory_mb(state.model.device)),
            "watch": seen,
        } | ({"epsilon": round(state.privacy.spent(state.step), 4)} if state.privacy else {})

    @torch.no_grad()
    def _watch(self, grid: Any, losses: dict[str, float]) -> tuple[dict[str, float], list[str]]:
        if self.watch is None:
            return self._unseen(), []
        model, device = self.state.model.eval(), self.state.model.device
        labels = {"label": model.item_labels(len(grid), None, 0)} if model.spec.classes else {}
        real, fake = model.critic(self.real), model.critic({self.kind: grid.to(device), **labels})
        held_out = model.critic(self.held_out) if self.held_out is not None else None
        model.train()
        seen, advice = self.watch.look(grid, real, held_out, fake, losses, progress=self._progress())
        return seen | (self._unseen() if self.kind == "video" and real is None else {}), advice

    def _unseen(self) -> dict[str, float]:
        """The losses of the averaged model on items that it never saw."""
        if self.held_out is None:
            return {}
        average = self.state.complete()
        torch.manual_seed(mix(self.options.seed, 2))  # the same noise at each look; each step has its own
        with autocast(average.device, self.state.precision):
            terms = average(self.held_out, self.state.phases[0].name)
        return {f"held-out {k}": float(v.float().mean()) for k, v in terms.items()}

    # keeping
    def save(self) -> None:
        self.state.cpu = self.cpu + time.process_time()
        if parallel.main():
            self.run.save_tensors(STATE, self.state.tensors(), self.state.numbers())
            step = self.state.best_step if self.state.best else self.state.step
            self.run.save_tensors(WEIGHTS, self.state.published(), {"step": step})
        parallel.barrier()

    def _roll_back(self) -> None:
        state, broken = self.state, self.state.step
        rate, count = state.rate / 2, state.rollbacks + 1
        if state.privacy is not None:  # to do steps again costs privacy that nobody counted
            raise UserError(f"A loss was not finite by step {broken} of a private run: fit again with a lower --lr.")
        if count > ROLLBACKS:
            raise UserError(
                f"A loss was not finite for the {count}th time, by step {broken}: training does not hold. The last good state "
                "is kept; fit into another folder with a lower --lr, with --clip 1, or with --precision fp32."
            )
        state.restore(*self.run.load_tensors(STATE))
        state.rate, state.rollbacks = rate, count
        self.save()
        self._say(
            "rollback",
            f"A loss was not finite by step {broken}: back to step {state.step}, at half the rate (try {count} of {ROLLBACKS}).",
        )

    # being watched, and stopped
    def _say(self, event: str, message: str) -> None:
        if self.monitor:
            self.monitor.say(event, message, self.state.step)

    def _say_end(self, first_step: int) -> None:
        state = self.state
        if state.step == first_step and self._progress() >= 1:
            self._say("done", f"Already finished at step {state.step}: go on with more --steps or --minutes.")
        elif self.stopped_by:
            self._say("interrupt", f"Stopped at step {state.step}, all is saved: the same command goes on from here.")
        else:
            kept = f" The weights of step {state.best_step} are kept: the least held-out loss." * bool(state.best)
            self._say("done", f"Done: {state.step} steps in {state.seconds:.0f} s.{kept}")

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the run after this step, saved; a second one ends it at once."""

        def handle(number: int, _frame: Any) -> None:
            if self.stopped_by:
                raise KeyboardInterrupt
            self.stopped_by = signal.Signals(number).name

        ours = threading.current_thread() is threading.main_thread()  # else signals are its owner's
        old = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)} if ours else {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def move(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device, non_blocking=True) for k, v in batch.items()}


def some(data: Dataset, count: int) -> Batch:
    """Up to `count` items, evenly spaced."""
    return data.batch(np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(np.int64)))
