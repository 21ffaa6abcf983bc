"""Where we are: versions, processor, accelerators, commit. What a run records and `ed2 doctor` prints."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "transformers", "tokenizers", "accelerate", "peft", "safetensors", "gguf", "polars", "pydantic", "numpy",
    "scipy", "scikit-learn", "matplotlib", "typer", "rich",
)  # fmt: skip


def version() -> str:
    """Of ed2rec as installed; "unknown" in a source tree that is not installed."""
    return versions(("ed2rec",))["ed2rec"] or "unknown"


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed versions, None where a package is missing. Imports nothing."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def hush() -> None:
    """Before libraries are imported: bitsandbytes, where it is installed, asks on new processors for a package that
    nothing here needs."""
    getLogger("bitsandbytes").setLevel(ERROR)


def launched() -> tuple[int, int]:
    """(number of this process, number of processes) as `accelerate launch` and `torchrun` say; (0, 1) without them."""
    if "LOCAL_RANK" not in os.environ:
        return 0, 1
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def describe() -> dict[str, Any]:
    """Everything that decides what a run computes, apart from settings and data."""
    return {"ed2rec": version(), "python": platform.python_version(), "versions": versions(), "hardware": hardware(),
            "commit": commit()}  # fmt: skip


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, accelerators (asked only where torch is loaded)."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": memory_gib(),
        "accelerators": accelerators() if "torch" in sys.modules else [],
    }


def accelerators() -> list[str]:
    """Names of what torch can compute on besides the processor."""
    import torch

    if torch.cuda.is_available():
        return [f"cuda:{n} {torch.cuda.get_device_name(n)}" for n in range(torch.cuda.device_count())]
    return ["mps"] if torch.backends.mps.is_available() else []


def processor_has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16 itself (emulated it is slower than float32)."""
    flags = _cpuinfo("flags") or _cpuinfo("Features") or ""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


def commit() -> str | None:
    """The commit of the source tree that ed2rec is imported from, with "+" where it has changes; None outside git."""
    here = Path(__file__).parent
    try:
        options: dict[str, Any] = {"cwd": here, "capture_output": True, "text": True, "timeout": 10, "check": True}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--", "."], **options).stdout.strip()
        # A wheel installed inside somebody's repository is not of that repository.
        tracked = subprocess.run(["git", "ls-files", "--", "errors.py"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "") if tracked else None


def processor() -> str:
    """Its name, as runs and benchmarks state it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.partition(":")[0].strip() == field:
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return None


def memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def cache_folder() -> Path:
    """What can be computed again: $ED2_CACHE, else ed2rec in $XDG_CACHE_HOME or ~/.cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ED2_CACHE") or home / "ed2rec")
