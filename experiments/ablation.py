"""ED² against itself without one part (paper, Table 2, as far as the parts exist): mean and 95 % interval over seeds.

    python -m experiments.ablation datasets/industrial --preset small --seeds 3 --out runs/ablation
    python -m experiments.ablation datasets/industrial --variants static "w/o user" --out runs/ablation   # only these

Every variant has the same warm-up, the same number of steps and the same choice of the best state (validation NDCG@10
in the last `frozen_tail` of the steps). Results go to OUT/results.jsonl, one line per run; runs that are there are not
made again, so an interrupted experiment goes on, and two processes may share the work (`--variants`).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ed2rec import workflow
from ed2rec.config import resolve
from ed2rec.evaluation.metrics import REPORTED
from ed2rec.evaluation.significance import over_seeds

VARIANTS: dict[str, tuple[str, ...]] = {
    "ED2": (),
    "static": ("training.refreshes=0",),
    "w/o user": ("indexer.users=[]",),
    "w/o m-GTR": ("regulator.beta1=0", "regulator.beta2=0"),
    "w/o similarity task": ("training.neighbours=0",),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds):
        for variant in given.variants:
            if not any(row["variant"] == variant and row["seed"] == seed for row in results(given.out)):
                row = measure(given.dataset, given.out, variant, seed, given.preset, given.overrides)
                with (given.out / "results.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print(table(results(given.out)))


def measure(dataset: Path, out: Path, variant: str, seed: int, preset: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Train and evaluate one variant with one seed; its run stays in OUT."""
    settings = resolve(preset, [*overrides, *VARIANTS[variant]], extra={"seed": seed})
    folder = out / f"{variant.replace('/', '').replace(' ', '-')}-{seed}"
    workflow.train(dataset, folder, settings)
    run = workflow.load(folder)
    row: dict[str, Any] = {"variant": variant, "seed": seed, "preset": preset, "overrides": list(overrides)}
    for name, split, exclude in (("valid", "valid", False), ("test", "test", False), ("test, new only", "test", True)):
        row[name] = workflow.evaluate_run(run, split, exclude_history=exclude).metrics
    return row


def results(out: Path) -> list[dict[str, Any]]:
    file = out / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: test metrics, mean ± half the 95 % interval over the seeds; then validation, and history excluded."""
    lines = ["| variant | seeds | " + " | ".join(REPORTED) + " | valid NDCG@10 | new only NDCG@10 | new only HR@10 |"]
    lines.append("|---" * (len(REPORTED) + 5) + "|")
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        if not own:
            continue
        cells = [_cell([row["test"][name] for row in own]) for name in REPORTED]
        cells.append(_cell([row["valid"]["NDCG@10"] for row in own]))
        cells += [_cell([row["test, new only"][name] for row in own]) for name in ("NDCG@10", "HR@10")]
        lines.append(f"| {variant} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}"
    found = over_seeds(values)
    return f"{found.mean:.4f} ± {(found.high - found.low) / 2:.4f}"


if __name__ == "__main__":
    main()
