"""Train the digit classifier that ships in genloom/metrics/weights: `python benchmarks/train_digits.py`.

MNIST's 60,000 training images, random shifts, turns and scales, one-cycle AdamW under bf16 autocast, some minutes on
two cores. Prints the accuracy on the 10,000 test images, with the weights rounded to half precision as they ship.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from genloom.data import open_data
from genloom.metrics import digits


def augment(images: Tensor, g: torch.Generator) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by up to 12 %, shifted by up to 2.5 pixels."""
    r = torch.rand(4, len(images), generator=g) * 2 - 1
    angle, scale, shift = r[0] * math.radians(12), 1 + 0.12 * r[1], r[2:] * 2.5 / 14
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack([torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1)  # [B, 2, 3]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # zeros outside mean black, which is -1


def train(images: Tensor, labels: Tensor, epochs: int, batch: int = 256, seed: int = 0) -> digits.DigitNet:
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    net = digits.DigitNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = epochs * (len(images) // batch)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    started = time.perf_counter()
    for epoch in range(epochs):
        for rows in torch.randperm(len(images), generator=g)[: steps // epochs * batch].split(batch):
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(augment(images[rows], g))[1]
            loss = F.cross_entropy(logits.float(), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    return net.eval()


def save(net: digits.DigitNet) -> None:
    """Write the weights in half precision, without the batch counters."""
    state = {k: v.half().contiguous() for k, v in net.state_dict().items() if v.is_floating_point()}
    save_file(state, digits.WEIGHTS)


@torch.inference_mode()
def accuracy(net: digits.DigitNet, images: Tensor, labels: Tensor) -> float:
    right = [(net(x)[1].argmax(1) == y).sum() for x, y in zip(images.split(1000), labels.split(1000), strict=True)]
    return float(torch.stack(right).sum()) / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs
    fit, test = (open_data("mnist", split=split) for split in ("train", "test"))
    batch = fit.batch(np.arange(len(fit)))
    save(train(batch["image"], batch["label"], epochs))
    batch = test.batch(np.arange(len(test)))
    print(f"test accuracy {accuracy(digits.load(digits.WEIGHTS), batch['image'], batch['label']):.4f}")


if __name__ == "__main__":
    main()
