"""The runs that a table or a figure is made of: asked for on the command line, made once, kept, and found again.

Every experiment takes the same arguments:

    python -m experiments.table2 datasets/industrial --out runs/tables --preset small --seeds 3
    python -m experiments.table2 --toy --out runs/toy              a made-up dataset, in seconds

`--dataset` may stand before the folder, and `--models` is another word for `--variants`.

OUT holds a run folder per variant and seed, and one JSON line per finished run. What is there with the same settings,
dataset and seed is not made again, whichever experiment made it, and a training that was interrupted goes on from its
last checkpoint. So an experiment may be stopped at any time, and several processes may share one OUT (`--variants`).

`--set` stands above every preset that a row starts from, its model's among them, and below the difference that makes
a row of an ablation. A key without its group (`--set epochs=1`) is looked for in the groups of each row's model; rows
that do not have it are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from ed2rec import runs, terminal, workflow
from ed2rec.config import Settings, check_presets, differences, nearest, preset_names, resolve, what_is_read
from ed2rec.data.dataset import Dataset
from ed2rec.environment import commit, hardware, hush
from ed2rec.errors import ConfigError, Ed2Error, RunError
from ed2rec.trials import add_row, whole_rows
from experiments import toy

Row = dict[str, Any]
Measure = Callable[[workflow.LoadedRun], dict[str, Any]]
SHELF = Path("datasets")


@dataclass(frozen=True)
class Variant:
    """One row. preset, settings ("group.key=value"): what makes it, on top of everything else.

    below: the preset is the base that a model starts from (its own, or the one that a search found) and stands below
    `--set`, where the preset of an ablation is the difference that must stay whatever is set.
    """

    name: str
    preset: str | None = None
    settings: tuple[str, ...] = ()
    below: bool = False


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    dataset: Path
    out: Path
    presets: list[str]
    overrides: list[str]
    seeds: list[int]
    variants: list[Variant]
    asked: list[str]  # names of the variants to be made; the others are shown where they are there
    name: str  # of the dataset
    counts: dict[str, int]  # users, items, interactions
    data: str  # fingerprint of all its tables
    items: pl.DataFrame = field(repr=False, compare=False)  # its catalogue
    left_out: dict[str, str] = field(default_factory=dict)  # variant → why it could not be made
    resolved: dict[tuple[Variant, int], Settings] = field(default_factory=dict, init=False, repr=False, compare=False)

    def settings(self, variant: Variant, seed: int) -> Settings:
        """Base presets, the variant's where it stands below, `--set`, then what makes the variant; read once.

        ConfigError where they do not go together: "epochs=1" with a model that is not trained, another model's preset.
        """
        if (variant, seed) not in self.resolved:
            own = [variant.preset] if variant.preset else []
            base, top = ([*self.presets, *own], []) if variant.below else (self.presets, own)
            changes = {key: value for preset in top for key, value in differences(preset).items()}
            settings = resolve(base, [*self.overrides, *variant.settings], extra={**changes, "seed": seed})
            check_presets(preset_names(self.presets), settings.model)
            self.resolved[variant, seed] = settings
        return self.resolved[variant, seed]

    def refusals(self) -> dict[str, ConfigError]:
        """variant → why it cannot have what is set; the others may be made."""
        found = {}
        for variant in self.variants:
            try:
                self.settings(variant, self.seeds[0])
            except ConfigError as error:
                found[variant.name] = error
        return found


def ask(
    about: str,
    variants: Sequence[Variant],
    arguments: Sequence[str] | None,
    *,
    preset: str = "small",
    seeds: int = 3,
    toy_seeds: int = 2,
) -> Request:
    """Parse the arguments that all experiments share. about: the module's docstring; preset, seeds: the defaults."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "dataset", type=Path, nargs="?", metavar="DATASET", help=f"a dataset folder, or its name in {SHELF}"
    )
    parser.add_argument("--dataset", type=Path, dest="folder", metavar="DATASET", help="the same")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs, results, Markdown and PNG")
    parser.add_argument("--preset", action="append", help=f"base settings; repeatable ({preset})")
    parser.add_argument("--seeds", type=int, help=f"how many, from 0 on ({seeds})")
    parser.add_argument("--variants", "--models", nargs="+", metavar="NAME", help="make only these: " + ", ".join(
        f'"{variant.name}"' for variant in variants).replace("%", "%%"))  # fmt: skip
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--toy", action="store_true", help="a made-up dataset and a tiny model")
    given = parser.parse_args(arguments)
    names = [variant.name for variant in variants]
    if unknown := [name for name in given.variants or () if name not in names]:
        raise ConfigError(f"no variant {unknown[0]!r}{nearest(unknown[0], names)}; there are: {', '.join(names)}")
    if given.seeds is not None and given.seeds < 1:
        raise ConfigError(f"--seeds {given.seeds}: at least one")
    folders = [folder for folder in (given.dataset, given.folder) if folder is not None]
    if len(folders) != (0 if given.toy else 1):
        raise ConfigError("give either a dataset folder or --toy")
    if given.toy:
        folders, given.overrides = [given.out / "toy-dataset"], [*toy.SETTINGS, *given.overrides]
        if not folders[0].exists():
            _make_folder(given.out)
            toy.shop().save(folders[0])
    elif not folders[0].exists() and (SHELF / folders[0]).exists():
        folders = [SHELF / folders[0]]
    if set_model := [text for text in given.overrides if text.split("=")[0] == "model"]:
        raise ConfigError(f"--set {set_model[0]}: a row says itself which model it has; leave it out")
    dataset = Dataset.load(folders[0])
    _make_folder(given.out)
    return Request(
        dataset=folders[0],
        out=given.out,
        presets=given.preset or ([] if given.toy else [preset]),
        overrides=given.overrides,
        seeds=list(range((toy_seeds if given.toy else seeds) if given.seeds is None else given.seeds)),
        variants=list(variants),
        asked=given.variants or names,
        name=dataset.name,
        counts=dataset.counts(),
        data=dataset.checksum(),
        items=dataset.items,
    )


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be a folder: {error.strerror}") from None


def collect(request: Request, measure: Measure | None = None, file: str = "results.jsonl") -> list[Row]:
    """Make what is asked for and missing; then every row that is there, in the order of variants and seeds.

    measure: run → what its row holds besides variant, seed, settings and machine (`evaluated`). A variant that refuses
    (a setting that it does not have, a model without its texts, an index that collapses) is left out with its reason,
    for settings before anything is trained; where all do, the first reason is raised. Whoever cannot have the settings
    and was not asked for is not shown either.
    """
    measure, path, refusals = measure or evaluated, request.out / file, request.refusals()
    if len(named := [name for name in request.asked if name in refusals]) == len(request.asked):
        raise refusals[named[0]]
    for name in named:
        _leave_out(request, name, refusals[name])
    variants = [variant for variant in request.variants if variant.name not in refusals]
    refused: list[Ed2Error] = []
    for seed in request.seeds:
        for variant in variants:
            # Read anew each time: another process may have made it meanwhile.
            if variant.name in request.asked and _key(request, variant, seed) not in _finished(path):
                try:
                    _make(request, variant, seed, measure, path)
                except Ed2Error as error:
                    refused.append(error)
                    _leave_out(request, variant.name, error, f", seed {seed}")
    finished = _finished(path)
    found = [(variant, finished.get(_key(request, variant, seed))) for variant in variants for seed in request.seeds]
    rows = [{**row, "variant": variant.name} for variant, row in found if row is not None]
    if refused and not rows:
        raise refused[0]
    return rows


def evaluated(run: workflow.LoadedRun) -> dict[str, Any]:
    """Validation, test, and test with the history left out of the ranking."""
    parts = (("valid", "valid", False), ("test", "test", False), ("test, new only", "test", True))
    return {name: workflow.evaluate_run(run, split, exclude_history=new).metrics for name, split, new in parts}  # type: ignore[arg-type]


def run_folder(request: Request, variant: Variant, seed: int) -> Path:
    """Where the run of a variant is: named after it, and after its settings, so that none takes another's place."""
    plain = variant.name.replace("²", "2").replace("/", "")
    name = "".join(letter if letter.isalnum() else "-" for letter in plain)
    return request.out / f"{name}-{seed}-{_key(request, variant, seed)[:8]}"


def command(main: Callable[[], object]) -> None:
    """Run a driver; what a user can cause becomes one line on stderr and exit code 2."""
    hush()
    try:
        main()
    except Ed2Error as error:
        print(f"ed2: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("ed2: interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)


def _leave_out(request: Request, name: str, error: Ed2Error, where: str = "") -> None:
    request.left_out.setdefault(name, " ".join(str(error).split()))
    terminal.say(f"{name}{where}, left out: {request.left_out[name]}")


def _make(request: Request, variant: Variant, seed: int, measure: Measure, path: Path) -> None:
    settings, folder, start = request.settings(variant, seed), run_folder(request, variant, seed), time.perf_counter()
    with terminal.progress() as progress:
        if not _complete(folder, settings):
            train = partial(workflow.train, request.dataset, folder, settings, progress=progress)
            resume = bool(runs.complete_checkpoints(runs.workspace(folder)))
            try:
                train(resume=resume)
            except RunError as error:
                if not resume:
                    raise
                terminal.say(f"{variant.name}, seed {seed}, begun anew: {error}")
                train(resume=False)
    trained = time.perf_counter() - start
    run = workflow.load(folder, request.dataset)
    row = {
        "variant": variant.name, "seed": seed, "dataset": request.name, "key": _key(request, variant, seed),
        "run": folder.name, "sizes": {"items": settings.indexer.items, "users": settings.indexer.users},
        "steps": run.folder.metrics.get("steps"), **measure(run),
        "train_seconds": round(trained, 1), "hardware": hardware(), "commit": commit(),
    }  # fmt: skip
    add_row(path, row)
    terminal.say(f"{variant.name}, seed {seed}: {time.perf_counter() - start:.0f} s")


def _complete(folder: Path, settings: Settings) -> bool:
    """Whether the run is there: stopped after its training, or made for another measurement."""
    try:
        return what_is_read(runs.open_run(folder).settings) == what_is_read(settings)
    except RunError:
        return False


def _finished(path: Path) -> dict[str, Row]:
    """key → row of every run that is there; the first of a key that two processes made. The file stays as it is, for
    another process may be writing."""
    return {row["key"]: row for row in reversed(whole_rows(path))}


def _key(request: Request, variant: Variant, seed: int) -> str:
    """The same for the same model, settings that it reads, seed and dataset: two names for one thing share one."""
    read = json.dumps(what_is_read(request.settings(variant, seed))) + request.data
    return hashlib.sha256(read.encode()).hexdigest()[:32]


def by_variant(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each variant that has any."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row)
    return found
