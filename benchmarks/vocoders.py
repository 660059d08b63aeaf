"""MelGAN and HiFi-GAN beside their authors' code on the same machine, in one run, with equal weights.

python -m benchmarks.vocoders melgan --official PATH     a checkout of descriptinc/melgan-neurips
python -m benchmarks.vocoders hifigan --official PATH    a checkout of jik876/hifi-gan

10 s of sound at batch 1, by turns: the authors' way as their README has it and with weight norm removed, ours in fp32
and bf16, in a stream of pieces, and what ONNX Runtime makes of ours, in fp32 and int8. Without --official only ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize, remove_weight_norm
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import matmul_gflops
from genloom.core import find
from genloom.generate import Pace, cut
from genloom.machine import has_fast_bf16, keep_freed_memory, multiply_fast

SECONDS = 10


class Stub(ModuleType):
    """Stands for what the authors' code imports and does not use here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_options: None


def official(name: str, path: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The authors' generator with fresh weights, and its configuration."""
    sys.path.insert(0, path)
    for module in ("librosa", "librosa.filters", "matplotlib", "matplotlib.pylab"):
        sys.modules.setdefault(module, Stub(module))
    if name == "melgan":
        from mel2wav.modules import Generator  # type: ignore[import-not-found]

        return Generator(80, 32, 3), {}
    from env import AttrDict  # type: ignore[import-not-found]
    from models import Generator  # type: ignore[import-not-found]

    config = json.loads((Path(path) / "config_v1.json").read_text())
    return Generator(AttrDict(config)), config


def plain(net: torch.nn.Module) -> torch.nn.Module:
    """The same with each weight as one tensor."""
    for module in list(net.modules()):
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
    return net


def by_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median seconds of each, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if i:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


class Fused(torch.nn.Module):
    """The generator alone, its weights made once: what is exported."""

    def __init__(self, generator: torch.nn.Module):
        super().__init__()
        self.generator = generator
        for module in list(generator.modules()):
            if parametrize.is_parametrized(module):
                parametrize.remove_parametrizations(module, "weight")

    def forward(self, mel: Tensor) -> Tensor:
        return self.generator(mel)


def onnx_ways(model: Any, mel: Tensor, folder: Path) -> dict[str, Callable[[], Any]]:
    """ONNX Runtime on the exported generator, in fp32 and with int8 weights; nothing where it is not installed."""
    try:
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        return {}
    exported, whole, small = (folder / f"{name}.onnx" for name in ("exported", "whole", "int8"))
    torch.onnx.export(Fused(model.generator).eval(), (mel,), str(exported), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(whole)  # with what is constant worked out, as quantising wants it
    onnxruntime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    ways = {}
    quantize_dynamic(str(whole), str(small), weight_type=QuantType.QUInt8, op_types_to_quantize=["Conv", "MatMul"])
    for name, path in (("onnxruntime fp32", whole), ("onnxruntime int8", small)):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        given = {session.get_inputs()[0].name: mel.numpy()}
        ways[name] = lambda session=session, given=given: torch.from_numpy(session.run(None, given)[0])
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["melgan", "hifigan"])
    parser.add_argument("--official")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    multiply_fast()
    torch.manual_seed(0)
    cls: Any = find(args.model)
    if args.official:
        shipped, config = official(args.model, args.official)
        bare, _ = official(args.model, args.official)
        bare.load_state_dict(shipped.state_dict())
        model = cls.from_reference(shipped.state_dict(), config)
        bare = plain(bare).eval()
        shipped.eval()
    else:
        from genloom.core import Spec, build

        model = build(cls, Spec("audio", (1, 16_384), extra={"rate": 22_050}), {}).eval()
    mel = torch.randn(1, 80, SECONDS * model.mel.rate // model.mel.hop) - 3
    peers = (
        {"official, as shipped": lambda: shipped(mel), "official, weight norm removed": lambda: bare(mel)}
        if args.official
        else {}
    )

    def half() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model.vocode(mel)

    pace = Pace()

    def streamed() -> Tensor:
        return torch.cat([*pace.keep(model.stream(cut(mel, lambda: pace.frames)))], 2)

    ways: dict[str, Callable[[], Any]] = {
        **({"official, with our memory": lambda: bare(mel)} if args.official else {}),
        "ours": lambda: model.vocode(mel),
        **({"ours, bf16": half} if has_fast_bf16(torch.device("cpu")) else {}),
        "ours, streamed": streamed,
    }
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        wave = model.vocode(mel)
        with FlopCounterMode(display=False) as counter:
            model.generator(mel)
        floor = counter.get_total_flops() / matmul_gflops() / 1e9
        error = {name: float((way().float() - wave).abs().max()) for name, way in (peers | ways).items()}
        times = by_turns(peers, args.rounds)  # before the process keeps what is freed, as a run of ours does
        keep_freed_memory()
        times |= by_turns(ways, args.rounds)
        latency = of_a_piece(model, mel[..., : pace.frames])
        ways = onnx_ways(model, mel, Path(folder))  # last: exporting makes the weights whole
        error |= {name: float((way() - wave).abs().max()) for name, way in ways.items()}
        times |= by_turns(ways, args.rounds)
    length = mel.shape[2] * model.mel.hop / model.mel.rate
    print(
        f"{args.model}, {length:.1f} s of sound, {args.threads} threads; loudest sample {float(wave.abs().max()):.3g}"
    )
    print(
        f"floor: {counter.get_total_flops() / length / 1e9:.1f} GFLOP a second of sound: real-time factor {floor / length:.3f}"
    )
    for name, seconds in times.items():
        print(
            f"{name:<32} real-time factor {seconds / length:.3f}  {times['ours'] / seconds:5.2f}x ours  error {error[name]:.1e}"
        )
    print(
        f"a piece of {pace.frames} frames ({pace.frames * model.mel.hop / model.mel.rate * 1e3:.0f} ms) takes "
        f"{latency * 1e3:.0f} ms"
    )


def of_a_piece(model: Any, piece: Tensor, count: int = 9) -> float:
    """The median seconds from a piece to what is made of it."""
    times, stream = [], model.stream(iter([piece] * (count + 1)))
    for _ in range(count):
        start = time.perf_counter()
        next(stream)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
