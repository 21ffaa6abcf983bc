"""What `ed2 tune` may choose: the values of search.yaml, model → setting → values, checked against the settings.

space = space_of("fmlprec", fixed={"baseline.lr"})
holding(space, settings)                # with the values that the settings have already
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ed2rec.config import explain, groups_of
from ed2rec.errors import ConfigError
from ed2rec.settings import Settings

FILE = Path(__file__).parent / "search.yaml"

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Range:
    """low … high, both included; whole numbers where both are. log: drawn evenly in the logarithm."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = Mapping[str, tuple[Value, ...] | Range]
"""Dotted key of a setting → what it may be."""


def space_of(model: str, fixed: Collection[str] = (), file: Path = FILE) -> Space:
    """The model's space without the settings in `fixed`. ConfigError where nothing is left to choose."""
    spaces = yaml.safe_load(file.read_text(encoding="utf-8"))
    if model not in spaces:
        raise ConfigError(f"there is nothing to search for {model}; there is for: {', '.join(spaces)}")
    known = {key for key, _, _ in explain()}
    space = {}
    for key, values in spaces[model].items():
        if key not in known or key.split(".")[0] not in groups_of(model):
            raise ConfigError(f"{file.name}: {model} has no setting {key!r}")
        if key not in fixed:
            space[key] = _read(values, f"{file.name}: {model}: {key}")
    if not space:
        raise ConfigError(f"--set fixes all that is searched for {model} ({', '.join(fixed)}): leave one of them out")
    return space


def holding(space: Space, settings: Settings) -> Space:
    """The space, widened where the settings' own value is outside: a search starts from it."""
    wide: dict[str, tuple[Value, ...] | Range] = {}
    for key, values in space.items():
        own = value_of(settings, key)
        if isinstance(values, Range):
            wide[key] = Range(min(values.low, own), max(values.high, own), values.log)
        else:
            wide[key] = values if own in values else (own, *values)
    return wide


def value_of(settings: Settings, key: str) -> Any:
    found: Any = settings
    for name in key.split("."):
        found = getattr(found, name)
    return found


def combinations(space: Space) -> list[dict[str, Value]] | None:
    """All of a space; None where a range of real numbers makes it endless, or it is too large to list."""
    choices = []
    for values in space.values():
        if isinstance(values, Range):
            if not values.whole:
                return None
            values = tuple(range(int(values.low), int(values.high) + 1))
        choices.append(values)
    if math.prod(map(len, choices)) > 100_000:
        return None
    return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*choices)]


def as_plain(space: Space) -> dict[str, Any]:
    """For YAML and JSON."""
    return {key: vars(values) if isinstance(values, Range) else list(values) for key, values in space.items()}


def _read(values: Any, where: str) -> tuple[Value, ...] | Range:
    if isinstance(values, dict) and {"low", "high"} <= set(values) <= {"low", "high", "log"}:
        found = Range(**values)
        if found.low < found.high and (found.low > 0 or not found.log):
            return found
    elif isinstance(values, list) and values and all(isinstance(v, Value) for v in values):
        return tuple(values)
    raise ConfigError(f"{where} = {values!r}, allowed: a list of values, or {{low, high, log}} with low < high")
