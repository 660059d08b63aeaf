"""GPT beside nanoGPT on the same machine, in one run.

python -m benchmarks.gpt step --official PATH       an iteration of nanoGPT's CPU recipe, taking turns
python -m benchmarks.gpt write --official PATH      256 tokens of a 6-layer, 384-wide model, one text and sixteen
python -m benchmarks.gpt learn --official PATH      its CPU recipe on Shakespeare's characters, then ours for the same time
python -m benchmarks.gpt answer --run RUN --folder EXPORTED    a prompt read and answered, beside transformers

PATH is a checkout of nanoGPT; without it only ours runs. RUN is `genloom import llama FILE.gguf`, EXPORTED what `genloom
export` makes of it, and transformers is installed beside genloom.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import genloom
from genloom.api import resolve_options
from genloom.core import Spec, build, find
from genloom.data import open_data
from genloom.generate import autocast
from genloom.machine import multiply_fast
from genloom.state import State
from genloom.text.decode import draw
from genloom.text.logits import Sampling
from genloom.train import step

SMALL: dict[str, Any] = {"layers": 4, "width": 128, "heads": 4, "context": 64}  # nanoGPT's CPU recipe
WIDE: dict[str, Any] = {"layers": 6, "width": 384, "heads": 6, "context": 256}
THEIRS: dict[str, Any] = {"bias": False, "gelu": "erf"}  # how its networks are made
CHARACTERS = 65  # of the text that nanoGPT learns


def official(path: str, sizes: dict[str, int], vocabulary: int) -> Any:
    sys.path.insert(0, path)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    return GPT(
        GPTConfig(
            block_size=sizes["context"],
            vocab_size=vocabulary,
            n_layer=sizes["layers"],
            n_head=sizes["heads"],
            n_embd=sizes["width"],
            bias=False,
        )
    )


def their_step(model: Any) -> Callable[[Tensor, Tensor, float], float]:
    optimiser = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")

    def run(x: Tensor, y: Tensor, lr: float) -> float:
        for group in optimiser.param_groups:
            group["lr"] = lr
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())

    return run


def our_step(precision: str, batch: int, compiled: bool = False) -> Callable[[Tensor], None]:
    cls = find("gpt")
    options = resolve_options(cls, "cpu", {"precision": precision, "batch_size": batch, "compile": compiled})
    options = replace(options, model={**options.model, **SMALL, **THEIRS})
    spec = Spec("text", (SMALL["context"] + 1,), extra={"vocabulary": CHARACTERS})
    state = State(build(cls, spec, options.model), options)
    return lambda ids: step(state, {"text": ids}, options, 0.1) and None


def compare_steps(path: str | None, rounds: int, batch: int = 12) -> None:
    ids = torch.randint(0, CHARACTERS, (batch, SMALL["context"] + 1))
    works: dict[str, Callable[[], object]] = {}
    if path:
        theirs = their_step(official(path, SMALL, CHARACTERS))
        works["nanoGPT"] = lambda: theirs(ids[:, :-1], ids[:, 1:].contiguous(), 1e-3)
    for compiled, precision in product((False, True), ("fp32", "bf16")):
        own = our_step(precision, batch, compiled)
        works[f"genloom {precision}{', --compile' * compiled}"] = lambda own=own: own(ids)  # type: ignore[misc]
    with FlopCounterMode(display=False) as counter:
        works["genloom fp32"]()
    print(f"{counter.get_total_flops() / 1e9:.2f} GFLOP an iteration")
    report(taking_turns(works, rounds), batch * SMALL["context"])


def compare_writing(path: str | None, rounds: int, length: int = 256) -> None:
    spec = Spec("text", (WIDE["context"] + 1,), extra={"vocabulary": CHARACTERS})
    model = build(find("gpt"), spec, {**WIDE, **THEIRS}).eval()
    theirs = official(path, WIDE, CHARACTERS).eval() if path else None
    for count in (1, 16):
        works: dict[str, Callable[[], object]] = {}
        if theirs is not None and count == 1:  # it writes sixteen no faster, token for token
            works["nanoGPT"] = lambda: theirs.generate(torch.zeros(1, 1, dtype=torch.long), length)
        for precision in ("fp32", "bf16"):

            def own(precision: str = precision, count: int = count) -> None:
                with autocast(model.device, precision):
                    for _ in draw(
                        model.network, [[0]] * count, Sampling(), context=256, limit=length, ends=frozenset()
                    ):
                        pass

            works[f"genloom {precision}"] = own
        print(f"{count} texts of {length} tokens:")
        report(taking_turns(works, rounds), count * length)


@torch.inference_mode()
def compare_answers(run: str, folder: str, rounds: int, prompt: int = 256, length: int = 64) -> None:
    """A prompt of so many tokens read, and so many written after it, greedily: the same ones by both."""
    from transformers import AutoModelForCausalLM  # type: ignore[import-not-found]

    model: Any = genloom.load(run)
    peers = {
        precision: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    ids = torch.randint(1000, 20_000, (1, prompt), generator=torch.Generator().manual_seed(0))

    def theirs(count: int, precision: str) -> list[int]:
        how = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
        whole = peers[precision].generate(ids, **how)
        return whole[0, prompt:].tolist()

    def ours(count: int, precision: str) -> list[int]:
        with autocast(model.device, precision):
            steps = draw(
                model.network, [ids[0].tolist()], Sampling(0.0), context=model.context, limit=count, ends=frozenset()
            )
            return [token for step in steps for token in step.tokens]

    print("the same tokens" if ours(16, "fp32") == theirs(16, "fp32") else "OTHER TOKENS")
    for precision in ("fp32", "bf16"):
        for count, what in ((1, f"{prompt} tokens read"), (length, f"{length} written after them")):
            works = {
                "transformers": lambda count=count, precision=precision: theirs(count, precision),
                f"genloom {precision}": lambda count=count, precision=precision: ours(count, precision),
            }
            print(f"{what}, {precision}:")
            report(taking_turns(works, rounds), prompt if count == 1 else length, "transformers")  # type: ignore[arg-type]


def taking_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after two calls to warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 2):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn > 1:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def report(seconds: dict[str, float], tokens: int, beside: str = "nanoGPT") -> None:
    peer = seconds.get(beside)
    for name, s in seconds.items():
        ratio = f"  {peer / s:.2f}x" if peer else ""
        print(f"  {name:<23} {1000 * s:8.2f} ms  {tokens / s:9,.0f} tokens/s{ratio}", flush=True)


def learn(path: str | None, model: str, minutes: float | None) -> None:
    """nanoGPT's recipe for its 2000 iterations, then ours for as long; nats a character on all of the held-out text."""
    data: Any = open_data("shakespeare", context=SMALL["context"])
    if path:
        peer = official(path, SMALL, data.spec.extra["vocabulary"])
        run, rng = their_step(peer), np.random.default_rng(0)
        tokens = torch.from_numpy(data.tokens.astype(np.int64))
        start = time.perf_counter()
        for i in range(2000):
            at = rng.integers(0, len(tokens) - SMALL["context"] - 1, 12)
            rows = torch.stack([tokens[a : a + SMALL["context"] + 1] for a in at])
            warm = (i + 1) / 101
            fall = 1e-4 + 0.5 * (1 + math.cos(math.pi * (i - 100) / 1900)) * 9e-4
            run(rows[:, :-1], rows[:, 1:].contiguous(), 1e-3 * warm if i < 100 else fall)
        minutes = (time.perf_counter() - start) / 60
        print(
            f"nanoGPT: {minutes * 60:.0f} s, {their_loss(peer, data.held_out()):.4f} nats a character held out",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        ours = genloom.fit(model, "shakespeare", Path(folder) / "run", recipe="cpu", minutes=minutes or 1.6)
        found = genloom.evaluate(ours, metrics=["nats", "bits"])
    for m in found["metrics"]:
        print(f"genloom {model}: {m['name']} {m['value']:.4f} ({m['low']:.4f} to {m['high']:.4f})")


@torch.no_grad()
def their_loss(peer: Any, held_out: Any) -> float:
    peer.eval()
    total, count = 0.0, 0
    for start in range(0, len(held_out), 64):
        ids = held_out.batch(np.arange(start, min(start + 64, len(held_out))))["text"]
        total += float(peer(ids[:, :-1], ids[:, 1:].contiguous())[1]) * len(ids)
        count += len(ids)
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "write", "learn", "answer"))
    parser.add_argument("--official", default=None)
    parser.add_argument("--run", default=None)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--model", default="gpt")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    if args.what != "learn":
        multiply_fast()
    if args.what == "step":
        compare_steps(args.official, args.rounds)
    elif args.what == "write":
        compare_writing(args.official, min(args.rounds, 3))
    elif args.what == "answer":
        compare_answers(args.run, args.folder, min(args.rounds, 3))
    else:
        learn(args.official, args.model, args.minutes)


if __name__ == "__main__":
    main()
