"""`ed2 doctor`: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ed2rec import environment

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. state: ok; note, works but could be better; missing, something will fail.
    mend: the command or step that helps, "" where nothing is wrong."""

    what: str
    state: State
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Findings:
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        return all(finding.state != "missing" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {"healthy": self.healthy, "findings": [asdict(finding) for finding in self.findings]}


def examine() -> Findings:
    """Look at everything; a check that itself fails is a finding, never an exception."""
    checks: list[Callable[[], list[Finding]]] = [_python, _packages, _processor, _accelerators, _caches, _disk]
    return Findings([finding for check in checks for finding in _guarded(check)])


def cache_folders() -> dict[str, Path]:
    """Where ed2rec and Hugging Face keep what can be computed or fetched again."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return {
        "ed2rec cache": environment.cache_folder(),
        "Hugging Face cache": Path(os.environ.get("HF_HOME") or home / "huggingface"),
    }


def _guarded(check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except Exception as error:
        what = check.__name__.lstrip("_")
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return [Finding(what, "missing", reason, "pip install --force-reinstall ed2rec")]


def _python() -> list[Finding]:
    running = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    return [
        Finding("ed2rec", "ok", environment.version()),
        Finding("python", "ok" if fine else "missing", running, "" if fine else "install Python 3.11 or later"),
    ]


def _packages() -> list[Finding]:
    """What ed2rec's own metadata asks for; without metadata (a bare source tree) only what is installed is shown."""
    needed = _requirements()
    found = []
    for name, version in environment.versions().items():
        at_least = needed.get(name, "")
        if version is None:
            found.append(Finding(name, "missing", "not installed", f"pip install '{name}{at_least}'"))
        elif at_least and _numbers(version) < _numbers(at_least):
            found.append(Finding(name, "missing", f"{version}, needed {at_least}", f"pip install '{name}{at_least}'"))
        else:
            found.append(Finding(name, "ok", version))
    return found


def _processor() -> list[Finding]:
    hardware = environment.hardware()
    native = environment.processor_has_bf16()
    cores = hardware["cores"]
    threads = os.environ.get("OMP_NUM_THREADS", "")
    found = [
        Finding("processor", "ok", f"{hardware['processor']}, {cores} cores, {hardware['memory_gib']} GiB"),
        Finding("bf16 on the processor", "ok", "native" if native else "not native, float32 is used"),
    ]
    if threads.isdigit() and 0 < int(threads) < cores:
        found.append(Finding("threads", "note", f"OMP_NUM_THREADS={threads} of {cores} cores", "unset OMP_NUM_THREADS"))
    return found


def _accelerators() -> list[Finding]:
    import torch

    devices = environment.accelerators()
    if devices:
        bf16 = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else False
        return [Finding("accelerator", "ok", f"{', '.join(devices)}; bf16 {'yes' if bf16 else 'no'}")]
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        return [Finding("accelerator", "note", "a GPU, but torch is built without CUDA", "pip install -U torch")]
    return [Finding("accelerator", "ok", "none, the processor is used")]


def _caches() -> list[Finding]:
    found = []
    for what, folder in cache_folders().items():
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if there.is_dir() and os.access(there, os.W_OK):
            found.append(Finding(what, "ok", f"{folder} ({_size(folder) if there == folder else 'empty'})"))
        else:
            variable = "ED2_CACHE" if what.startswith("ed2") else "HF_HOME"
            found.append(Finding(what, "missing", f"{folder} cannot be written", f"export {variable}=FOLDER"))
    return found


def _disk() -> list[Finding]:
    found = []
    for what, folder in {"free disk here": Path.cwd(), "free temporary disk": Path(tempfile.gettempdir())}.items():
        free = shutil.disk_usage(folder).free / 2**30
        mend = "" if free > 2 else f"free some space in {folder}"
        found.append(Finding(what, "ok" if free > 2 else "note", f"{free:.1f} GiB", mend))
    return found


def _requirements() -> dict[str, str]:
    """Package -> ">=version" from the installed metadata, extras left out."""
    try:
        lines = metadata.requires("ed2rec") or []
    except metadata.PackageNotFoundError:
        return {}
    pairs = (line.partition(">=") for line in lines if "extra ==" not in line)
    return {name.strip(): f">={least.strip()}" for name, sign, least in pairs if sign}


def _numbers(version: str) -> tuple[int, ...]:
    release = version.removeprefix(">=").partition("+")[0].split(".")[:3]
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in release)


def _size(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return f"{size / 2**20:,.0f} MiB"
