"""What a benchmark says of its machine, and what the machine can do at best."""

import time
from typing import Any

import torch

from ed2rec.environment import accelerators, processor


def hardware(device: torch.device) -> dict[str, Any]:
    """Of the figures that were measured on this device."""
    found: dict[str, Any] = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if device.type == "cpu":
        return found
    known = [name for name in accelerators() if name.startswith(f"{device.type}:{device.index or 0}")]
    return found | {"accelerator": known[0] if known else str(device)}


def clock(device: torch.device) -> float:
    """Seconds, when everything that was asked of the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def matrix_peak(dtype: torch.dtype, device: torch.device, repetitions: int = 4) -> float:
    """Operations per second of a matrix product, the best of a few: 2048³, on an accelerator 8192³."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(repetitions):
        start = clock(device)
        a @ b
        times.append(clock(device) - start)
    return 2 * size**3 / min(times)
