"""Where tensors live, and in which type they are computed."""

from __future__ import annotations

from typing import Literal

import torch

from ed2rec.errors import ConfigError


def computing_type(setting: bool | Literal["auto"], device: torch.device) -> torch.dtype | None:
    """torch.bfloat16 where it is asked for, or where `auto` finds hardware that computes in it; None: float32."""
    if setting == "auto":
        if device.type == "cuda":
            setting = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            setting = device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if setting else None


def choose_device(setting: str, key: str = "training.device") -> torch.device:
    """auto: the first accelerator, else the processor. ConfigError, naming the key, for a device that is not here."""
    if setting != "auto":
        try:
            device = torch.device(setting)
            torch.empty(0, device=device)  # named rightly, but is it there?
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"{key} = {setting!r} is not here ({reason}): give auto, cpu or one that "
                              "`ed2 doctor` lists") from None  # fmt: skip
        return device
    return (torch.accelerator.is_available() and torch.accelerator.current_accelerator()) or torch.device("cpu")
