"""What this machine offers, and how to make the most of it."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Sequence[T], piece: int = 1) -> Iterator[R]:
    """The work done on each item, in order, by as many threads as there are cores: for libraries that let go of the GIL.

    `piece`: items that a thread takes at a time, more of them the shorter the work. When one fails, what has not begun is
    left, and the first error is raised.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pieces = [items[start : start + piece] for start in range(0, len(items), piece)]
        for done in pool.map(lambda some: [work(item) for item in some], pieces):
            yield from done


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks: gradients and activations of megabytes come and go, and mapping their pages
    anew costs more than filling them. Elsewhere than on glibc, do nothing."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def multiply_fast() -> None:
    """Multiply float32 matrices on a CPU by oneDNN where that keeps their precision.

    PyTorch multiplies them by MKL, which leaves half of an AMD core's vector width unused. oneDNN is asked for by
    allowing it bf16 products; without hardware to make them faster (AMX) it stays at float32, at twice MKL's rate. One
    small product tells which it does, so the answer is the same in every process of a machine.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # PyTorch 2.9 or newer
    if matmul is None or not torch.backends.mkldnn.is_available() or matmul.fp32_precision == "bf16":
        return
    asked, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    a = torch.linspace(-1, 1, 64 * 256, dtype=torch.float32).sin().view(64, 256)
    exact = a.double() @ a.T.double()
    if float((a @ a.T - exact).norm() / exact.norm()) > 1e-5:  # bf16 products err by 3e-3
        matmul.fp32_precision = asked


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def in_double(values: torch.Tensor) -> torch.Tensor:
    """In float64 on their device, or on the CPU where it has none, as Apple's GPUs have not."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def memory_mb(device: torch.device) -> float:
    """The most memory that this process has held, in MB: the GPU's on a GPU, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def memory_free() -> int | None:
    """Bytes of memory that a process may still take here, its container's limit heeded; None where nothing tells."""
    found = _available()
    with suppress(OSError, ValueError):  # control groups, version 2; "max" is no number
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    if not found:
        with suppress(OSError, ValueError, AttributeError):
            found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return max(0, min(found)) if found else None


def available_mb(device: torch.device) -> float | None:
    """The memory in MB that a process can still have there; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e6
    return next((free / 1e6 for free in _available()), None)


def _available() -> list[int]:
    """Bytes of memory that Linux can give a process; nothing where it does not say."""
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return []


def taken_by_others(seconds: float = 0.1, told: Path = Path("/proc/stat")) -> float:
    """The share of the processors that other programs use while this one waits so long; 0 where nothing tells."""

    def counted() -> tuple[int, int]:
        times = [int(x) for x in told.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
        return sum(times), times[3] + times[4]  # idle, and waiting for a disk

    with suppress(OSError, ValueError, IndexError):
        before = counted()
        time.sleep(seconds)
        total, idle = (b - a for a, b in zip(before, counted(), strict=True))
        return 1 - idle / total if total > 0 else 0.0
    return 0.0
