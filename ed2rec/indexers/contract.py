"""IndexTable, the indices of all entities at one moment, and the promise of every Indexer.

Shape letters: K entities, B batch, M levels, N_m codes at level m, E text-embedding width.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from polars.exceptions import PolarsError
from torch import Tensor

from ed2rec.errors import RunError


class Indexer(Protocol):
    """Turns embeddings into codes. Codes may collide; `collisions` deals with that.

    Deterministic: the same state and the same embedding give the same codes, whatever the seed or the batch.
    """

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level, (N_1, …, N_M)."""

    def initialise(self, embeddings: Tensor, seed: int = 0) -> None:
        """Start from the data. embeddings: (K, E) float, row k is entity number k, K >= 1."""

    def codes(self, x_BE: Tensor) -> Tensor:
        """(B, E) -> (B, M) int64; column m lies in 0..N_m-1."""

    def walk(
        self, x_BE: Tensor, keep_BM: Tensor | None = None, margins: Sequence[float] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Codes (B, M) and the logits M x (B, N_m) along them, whose argmax they are; no gradient.

        Hysteresis: with `keep_BM`, code m stays unless another one's logit is more than margins[m] greater, and the
        deeper levels follow the codes so chosen.
        """


@dataclass(frozen=True)
class Health:
    """How well codes use their codebooks. Level-wise tuples have M entries.

    perplexity_m = exp(-sum_n p_n log p_n) for the shares p_n of the codes at level m: N_m at best, 1 when collapsed.
    """

    entities: int
    used: tuple[int, ...]  # codes that at least one entity carries
    perplexity: tuple[float, ...]
    colliding: int  # entities that share their M codes with another one, before the suffix
    largest_group: int  # most entities with the same M codes

    @classmethod
    def of(cls, codes: np.ndarray, sizes: Sequence[int]) -> "Health":
        """codes: (K, M), of a table or of anything that may become one."""
        counts = [np.bincount(column, minlength=size) for column, size in zip(codes.T, sizes, strict=True)]
        groups = np.unique(codes, axis=0, return_counts=True)[1]
        return cls(
            entities=len(codes),
            used=tuple(int((count > 0).sum()) for count in counts),
            perplexity=tuple(_perplexity(count) for count in counts),
            colliding=int(groups[groups > 1].sum()),
            largest_group=int(groups.max(initial=0)),
        )

    @property
    def collision_rate(self) -> float:
        return self.colliding / max(self.entities, 1)


@dataclass(frozen=True, eq=False)
class IndexTable:
    """The indices of all entities at one moment.

    codes    (K, M) int32, row k is entity number k, 0 <= codes[k, m] < sizes[m]
    suffix   (K,) int32: position inside the group of entities with the same codes, -1 where the codes are unique
    sizes    codes per level
    version  0 for the first table of an indexer, one more at every refresh

    codes and suffix together are unique (App. K). Raises ValueError where the arrays contradict each other.
    """

    codes: np.ndarray
    suffix: np.ndarray
    sizes: tuple[int, ...]
    version: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", np.ascontiguousarray(self.codes, dtype=np.int32))
        object.__setattr__(self, "suffix", np.ascontiguousarray(self.suffix, dtype=np.int32))
        object.__setattr__(self, "sizes", tuple(int(size) for size in self.sizes))
        if self.codes.ndim != 2 or self.codes.shape[1] != len(self.sizes) or self.suffix.shape != (len(self.codes),):
            raise ValueError(f"codes {self.codes.shape} and suffix {self.suffix.shape} do not fit sizes {self.sizes}")
        if len(self.codes) and (self.codes.min() < 0 or (self.codes.max(axis=0) >= self.sizes).any()):
            raise ValueError(f"codes outside 0..size-1; sizes are {self.sizes}, highest {self.codes.max(axis=0)}")
        if len(np.unique(np.column_stack([self.codes, self.suffix]), axis=0)) < len(self.codes):
            raise ValueError("two entities have the same index")

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def levels(self) -> int:
        return len(self.sizes)

    @property
    def health(self) -> Health:
        return Health.of(self.codes, self.sizes)

    def save(self, path: Path | str, ids: Sequence[str]) -> None:
        """Write one row per entity (id, codes, suffix, version, sizes) as Parquet, atomically.

        ids: the source's strings in the order of the entity numbers.
        """
        if len(ids) != len(self):
            raise ValueError(f"{len(ids)} ids for a table of {len(self)} entities")
        frame = pl.DataFrame(
            {
                "id": pl.Series(list(ids), dtype=pl.String),
                "codes": pl.Series(self.codes, dtype=pl.Array(pl.Int32, self.levels)).arr.to_list(),
                "suffix": self.suffix,
                "version": pl.repeat(self.version, len(self), dtype=pl.Int32, eager=True),
                "sizes": pl.Series([list(self.sizes)] * len(self), dtype=pl.List(pl.Int32)),
            }
        )
        path = Path(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            frame.write_parquet(temporary)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str, ids: Sequence[str] | None = None) -> "IndexTable":
        """Read what `save` wrote. With `ids`, the rows must be exactly these ids and come back in their order.

        Raises RunError: missing or unreadable file, other columns, or other entities than `ids`.
        """
        try:
            frame = pl.read_parquet(path, columns=["id", "codes", "suffix", "version", "sizes"])
            if frame.is_empty():
                raise ValueError("no rows")
            if ids is not None:
                frame = _in_order(frame, ids)
            codes = np.array(frame["codes"].to_list(), dtype=np.int32)
            return cls(codes, frame["suffix"].to_numpy(), tuple(frame["sizes"][0]), int(frame["version"][0]))
        except (OSError, PolarsError, ValueError) as fault:
            reason = str(fault).splitlines()[0]
            raise RunError(f"{path} is not an index table ({reason}); train the run again: ed2 train") from fault


def _in_order(frame: pl.DataFrame, ids: Sequence[str]) -> pl.DataFrame:
    wanted = pl.DataFrame({"id": pl.Series(list(ids), dtype=pl.String)})
    frame = wanted.join(frame, on="id", how="left", maintain_order="left", validate="1:1")
    missing = frame.filter(pl.col("codes").is_null())["id"]
    if len(missing):
        raise ValueError(f"{len(missing)} of {len(ids)} entities are not in it, for example {missing[0]!r}")
    return frame


def _perplexity(count: np.ndarray) -> float:
    share = count[count > 0] / max(count.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum()))
