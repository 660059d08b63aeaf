"""Does quality hold under bf16? Each family on MNIST for the same steps and seed in both precisions.

python -m benchmarks.precision [MODEL …] [--steps N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import genloom

STEPS = {"gan": 4000, "dcgan": 2500, "wgan_gp": 2500, "infogan": 2500, "vae": 5000, "cvae": 5000, "flow": 2500}
STEPS |= {"stylegan2": 1500, "biggan": 900}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(STEPS))
    parser.add_argument("--steps", type=int, default=None)
    args = parser.parse_args()
    for model in args.models:
        steps = args.steps or STEPS[model]
        for precision in ("fp32", "bf16"):
            with tempfile.TemporaryDirectory() as folder:
                run = genloom.fit(
                    model,
                    "mnist",
                    Path(folder) / "run",
                    recipe="cpu",
                    steps=steps,
                    precision=precision,
                    quiet=True,
                )
                found = genloom.evaluate(run, metrics=["fd"])
            fd = found["metrics"][0]
            print(
                f"{model:<9} {steps} steps {precision}: fd-digits {fd['value']:.2f} ({fd['low']:.2f} to "
                f"{fd['high']:.2f}), {found['classes']['confident']:.1%} confident",
                flush=True,
            )


if __name__ == "__main__":
    main()
