"""`ed2 bench index`: how many entities a second the index generator encodes, re-indexes and trains on."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.decode import CODES
from benchmarks.machine import clock, hardware, matrix_peak
from ed2rec.device import choose_device
from ed2rec.indexers.refresh import build, refresh
from ed2rec.indexers.variational import LOSS_WEIGHTS, VariationalQuantiser

ENCODERS: dict[str, tuple[int, ...]] = {"one linear map": (), "appendix G": (2048, 1024, 512, 256, 128)}


def run(
    progress: Callable[[str, int, int, str], None] | None = None,
    entities: int = 16_859,
    width: int = 576,
    rounds: int = 5,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Entities per second and share of the matrix peak, for the default encoder and for appendix G's; under a minute.

    width: of the text embedding (576: SmolLM2-135M). Random embeddings around 300 centres.
    """
    place = choose_device(device, "--device")
    torch.manual_seed(seed)
    x = torch.randn(300, width)[torch.randint(0, 300, (entities,))] + 0.5 * torch.randn(entities, width)
    x = x.to(place)
    figures: dict[str, Any] = {
        "benchmark": "index",
        "hardware": hardware(place),
        "setting": {"entities": entities, "embedding_width": width, "sizes": list(CODES), "rounds": rounds},
    }
    for turn, (name, hidden) in enumerate(ENCODERS.items()):
        quantiser = VariationalQuantiser(width, hidden, 64, CODES).to(place)
        quantiser.initialise(x, seed)
        table = build(quantiser, x)
        work: dict[str, tuple[Callable[[], object], int, float]] = {
            "index": (partial(quantiser.codes, x), entities, _forward(quantiser)),
            "refresh": (partial(refresh, quantiser, x, table), entities, _forward(quantiser)),
            "train": (partial(_step, quantiser, x[:1024]), 1024, 3 * _forward(quantiser, decoder=True)),
        }
        found: dict[str, list[tuple[float, float]]] = {what: [] for what in work}
        for _ in range(rounds + 1):
            peak = matrix_peak(torch.float32, place)
            for what, (task, count, flop) in work.items():
                start = clock(place)
                task()
                rate = count / (clock(place) - start)
                found[what].append((rate, rate * flop / peak))
        figures[name] = {
            what: {
                "entities_per_second": round(statistics.median(rate for rate, _ in rows[1:])),
                "share_of_peak": round(statistics.median(share for _, share in rows[1:]), 3),
            }
            for what, rows in found.items()
        }
        if progress:
            progress("indexing", turn + 1, len(ENCODERS), name)
    return figures


def _forward(quantiser: VariationalQuantiser, decoder: bool = False) -> float:
    """Operations of the matrix products per entity: encoder (and decoder), and the distances to all codewords."""
    parts = [quantiser.encoder, quantiser.decoder] if decoder else [quantiser.encoder]
    layers = sum(weight.numel() for part in parts for weight in part.parameters() if weight.ndim == 2)
    return 2.0 * (layers + sum(64 * size for size in CODES))


def _step(quantiser: VariationalQuantiser, x: torch.Tensor) -> None:
    quantiser.zero_grad()
    losses = quantiser.losses(quantiser(x), x)
    torch.stack([weight * losses[name] for name, weight in LOSS_WEIGHTS.items() if weight]).sum().backward()
