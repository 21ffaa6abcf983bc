"""The command line: parse, call, print.

Exit codes: 0 done, 2 bad usage or input (one line on stderr), 1 a fault of ours (with its traceback), 130 interrupted.
Heavy libraries are imported inside the verbs, so that `ed2 --help` answers at once.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ed2rec.environment import hush, launched
from ed2rec.errors import ConfigError, Ed2Error

app = typer.Typer(
    name="ed2",
    help="Recommend with an LLM whose user and item indices are learned together with it (ED²).",
    epilog="Start with: ed2 demo. Every command shows an example in its --help.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Get public datasets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

# The class behind every usage fault; typer ships its own copy of click and names only this leaf of it.
UsageFault: type[Exception] = typer.BadParameter.__mro__[2]

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
PresetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--preset", metavar="NAME", help="Named settings; repeatable, the later on top. A wrong name lists all."
    ),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; repeatable.")]
EnsembleOption = Annotated[
    int | None, typer.Option(min=1, help="Rank by the mean probability over so many instructions.")
]
DatasetOption = Annotated[Path | None, typer.Option("--dataset", help="The run's dataset, if it has moved since.")]


class Split(StrEnum):
    TEST = "test"
    VALID = "valid"


class Inspection(StrEnum):
    STATS = "stats"
    SHOW = "show"


class Bench(StrEnum):
    DECODE = "decode"
    TRAIN = "train"
    INDEX = "index"
    PREPARE = "prepare"
    BASELINES = "baselines"


class Shape(StrEnum):
    TINY = "tiny"
    SMOLLM2 = "smollm2-135m"


TAKES = {Bench.DECODE: ("device", "shape"), Bench.TRAIN: ("device", "shape", "compile"), Bench.INDEX: ("device",),
         Bench.BASELINES: ("peers",)}  # fmt: skip


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        from ed2rec.environment import version as installed

        print(f"ed2rec {installed()}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="ml-100k, amazon-2018/<Category>, or smollm2-135m (an LLM).")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    source: Annotated[
        Path | None, typer.Option(help="An archive on this machine, checked like a download: no network.")
    ] = None,
) -> None:
    """Download a public dataset or LLM; sizes and checksums are verified.

    \b
    Example:
      ed2 data fetch ml-100k --out downloads/ml-100k
    """
    from ed2rec import terminal
    from ed2rec.data.fetch import fetch

    with terminal.progress() as progress:
        folder = fetch(name, out, source, progress)
    terminal.say(f"{name} is in {folder}")


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="The file or folder of the source.")],
    format: Annotated[str, typer.Option(help="amazon, atomic (RecBole), lcrec, csv or ml-100k.")],
    out: Annotated[Path, typer.Option(metavar="DATASET", help="Dataset folder to write.")],
    k_core: Annotated[
        int | None, typer.Option(min=0, help="Keep users and items with so many interactions (raw logs: 5, lcrec: 0).")
    ] = None,
) -> None:
    """Make a dataset folder from a log and its texts.

    \b
    Example:
      ed2 prepare downloads/ml-100k --format ml-100k --out datasets/ml-100k
    """
    from ed2rec.data.prepare import prepare as prepare_dataset
    from ed2rec.terminal import say

    facts = prepare_dataset(source, format, out, k_core).facts
    say(f"{out}: " + ", ".join(f"{count:,} {what}" for what, count in facts["counts"].items()))
    if refused := facts["dropped"]["texts_at_validation_and_test_positions"]:
        say(f"{refused:,} texts about validation and test items are left out")
    if without := facts["items_without_text"]:
        say(f"{without:,} items have no text")


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset folder.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder to write; a run there is replaced at the end.")],
    model: Annotated[
        str | None, typer.Option(help="ed2 (default) or a baseline, such as sasrec; a wrong name lists all.")
    ] = None,
    preset: PresetOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML settings, such as the config.yaml of a run.")] = None,
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was interrupted.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
) -> None:
    """Train a recommender on a dataset folder and save it as a run.

    \b
    Examples:
      ed2 train datasets/ml-100k --out runs/ml-100k --set training.epochs=5
      ed2 train datasets/ml-100k --out runs/no-user --preset small --preset wo-user
      ed2 train datasets/ml-100k --out runs/popular --model popularity
      ed2 train datasets/ml-100k --out runs/sasrec --model sasrec --set epochs=20
    """
    from ed2rec import runs, terminal, workflow
    from ed2rec.config import for_model, resolve

    given = {key: value for key, value in {"model": model, "seed": seed}.items() if value is not None}
    settings = resolve(for_model(model, preset, config, set_ or ()), set_ or (), config, given)
    if not resume and runs.complete_checkpoints(runs.workspace(out)):
        terminal.say(f"an unfinished training of {out} has checkpoints, which this one replaces when its first step is "
                     "due; --resume goes on from them instead")  # fmt: skip
    with terminal.progress() as progress:
        run = workflow.train(dataset, out, settings, resume=resume, progress=progress)
    for line in workflow.told(run):
        terminal.say(line)
    terminal.say(f"{run.model} is in {out}; next: ed2 evaluate {out}")


@app.command()
def tune(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset folder.")],
    model: Annotated[str, typer.Option(help="ed2 or a baseline; a wrong name lists all.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for trials.jsonl, study and best.yaml.")],
    trials: Annotated[int, typer.Option(metavar="N", help="Trainings, those before a --resume with them.")] = 20,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Most minutes of training and validation, likewise.")
    ] = None,
    preset: PresetOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML settings to start from, such as another best.yaml.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Fix one setting; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search and of every training in it.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a search, perhaps with a larger budget.")
    ] = False,
) -> None:
    """Search a model's settings by validation NDCG@10, on a budget that is the same for every model. What the presets
    and --config say is tried first.

    \b
    Examples:
      ed2 tune datasets/games --model fmlprec --out tuned/fmlprec --trials 20 --minutes 60
      ed2 tune datasets/games --model fmlprec --out tuned/fmlprec --trials 40 --minutes 60 --resume
      ed2 tune datasets/games --model ed2 --preset small --out tuned/ed2 --set training.epochs=6
    """
    from ed2rec import terminal
    from ed2rec.config import for_model, keys_set, resolve
    from ed2rec.spaces import space_of
    from ed2rec.trials import BEST, Limit, spent
    from ed2rec.tuning import tune as search

    presets = for_model(model, preset, config, set_ or ())
    start = resolve(presets, set_ or (), file=config, extra={"model": model, "seed": seed})
    space = space_of(model, keys_set(set_ or (), model))
    command = ["ed2", "tune", _portable(dataset), "--model", model, "--out", _portable(out), "--trials", str(trials)]
    command += [] if minutes is None else ["--minutes", f"{minutes:g}"]
    command += [word for name in preset or () for word in ("--preset", name)]
    command += [] if config is None else ["--config", _portable(config)]
    command += [word for text in set_ or () for word in ("--set", text)] + ["--seed", str(seed)]
    with terminal.progress() as progress:
        found = search(dataset, out, start, space, limit=Limit(trials, minutes), resume=resume,
                       command=shlex.join(command), progress=progress)  # fmt: skip
    terminal.print_trials(found.rows, found.best, f"{model} on {dataset.name}: {spent(found.rows):.0f} s of training")
    every = ", which is all that there is to try" if found.exhausted else ""
    terminal.say(f"{len(found.rows)} trials{every}; the best is in {out / BEST}; next: "
                 f"ed2 train {dataset} --out RUN --config {out / BEST}")  # fmt: skip


def _portable(path: Path) -> str:
    """As it was given; where that is a place on this machine, its last name."""
    return path.name if path.is_absolute() else str(path)


@app.command()
def evaluate(
    run: RunArgument,
    split: Annotated[Split, typer.Option(help="Which targets are ranked.")] = Split.TEST,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the metrics there; - is stdout.")] = None,
    rankings: Annotated[
        Path | None, typer.Option(metavar="FILE.parquet", help="Write every user's ranked items there.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page of metrics, curves and examples there.")
    ] = None,
    k: Annotated[int, typer.Option(min=10, help="Length of the rankings.")] = 10,
    wordings: Annotated[int, typer.Option(min=1, help="Instructions to average the metrics over.")] = 1,
    ensemble: EnsembleOption = None,
    exclude_history: Annotated[bool, typer.Option("--exclude-history", help="Leave out items of the history.")] = False,
    dataset: DatasetOption = None,
) -> None:
    """Rank the whole catalogue for every user's held-out item: HR@1,5,10 and NDCG@5,10.

    \b
    Examples:
      ed2 evaluate runs/ml-100k --json metrics.json --rankings rankings.parquet
      ed2 evaluate runs/ml-100k --wordings 4 --report report.html
    """
    from ed2rec import terminal, workflow
    from ed2rec.evaluation.ranking import conditions
    from ed2rec.files import check_file, replace_file
    from ed2rec.recommender import check_k
    from ed2rec.report import check_report
    from ed2rec.summary import write_page

    if report is not None:
        check_report(report)
    for file in (json, rankings, report):
        if file is not None and file != Path("-"):
            check_file(file)
    loaded = workflow.load(run, dataset)
    if k > 10:
        check_k(k, len(loaded.dataset.items))
    with terminal.progress() as progress:
        result = workflow.evaluate_run(
            loaded, split.value, k=k, wordings=wordings, ensemble=ensemble, exclude_history=exclude_history,
            progress=progress,
        )  # fmt: skip
    row = workflow.metrics_row(loaded, split.value, result, ensemble=ensemble, exclude_history=exclude_history)
    if rankings is not None:
        with replace_file(rankings) as file:
            result.rankings(loaded.dataset.users["user_id"], loaded.dataset.items["item_id"]).write_parquet(file)
    if report is not None:
        write_page(report, loaded, row, result)
    if json == Path("-"):
        terminal.print_json(row)
        return
    if json is not None:
        with replace_file(json) as file:
            file.write_text(terminal.as_json(row), encoding="utf-8")
    terminal.print_metrics([row], ", ".join([row["dataset"], split.value, f"{row['users']:,} users", *conditions(row)]))


@app.command()
def recommend(
    run: RunArgument,
    user: Annotated[str | None, typer.Option(metavar="ID", help="A user of the dataset.")] = None,
    history: Annotated[
        str | None, typer.Option(metavar="ID,ID,…", help="Item ids, the oldest first; none can hold a comma.")
    ] = None,
    query: Annotated[str | None, typer.Option(metavar="TEXT", help="What is looked for, in words.")] = None,
    item: Annotated[str | None, typer.Option(metavar="ID", help="List users who may take this item next.")] = None,
    k: Annotated[int | None, typer.Option(help="How many items, or users.", show_default="10, or all of fewer")] = None,
    ensemble: EnsembleOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    dataset: DatasetOption = None,
) -> None:
    """Recommend items to a user, after a history or for a query; or name likely users of an item.

    \b
    Examples:
      ed2 recommend runs/ml-100k --user 196
      ed2 recommend runs/ml-100k --history 242,302,377 --k 5 --json
      ed2 recommend runs/ml-100k --query "space adventure" --user 196
      ed2 recommend runs/ml-100k --item 242
    """
    from ed2rec import answers, terminal, workflow

    if item is not None and (user, history, query, ensemble) != (None, None, None, None):
        raise ConfigError("--item lists users: give it alone, without --user, --history, --query and --ensemble")
    item_ids = None if history is None else [part.strip() for part in history.split(",") if part.strip()]
    if item_ids == []:
        raise ConfigError("--history names no item: give item ids, the oldest first, as in --history 242,302,377")
    loaded = workflow.load(run, dataset)
    head = {"model": loaded.folder.model, "dataset": loaded.dataset.name}
    if item is not None:
        found = answers.likely_users(loaded, item, k)
        terminal.print_json({**head, **found.as_dict()}) if json else terminal.print_likely_users(found.as_dict())
        return
    answer = answers.recommend(loaded, user_id=user, item_ids=item_ids, query=query, k=k, ensemble=ensemble)
    if json:
        asked = {"user": user} if query is None else {"user": user, "query": query}
        terminal.print_json({**head, **asked, **answer.as_dict()})
        return
    shown = answer.history[-max(len(answer.items), 10) :]
    earlier = f" ({len(answer.history) - len(shown)} earlier)" if len(shown) < len(answer.history) else ""
    terminal.print_beside(
        (f"history{earlier}", [f"{item.title}  [{item.item_id}]" for item in shown]),
        ("recommended", [f"{rank}. {best.title}  [{best.item_id}]" for rank, best in enumerate(answer.items, start=1)]),
    )


@app.command()
def explain(
    run: RunArgument,
    user: Annotated[str, typer.Option(metavar="ID", help="A user of the dataset.")],
    k: Annotated[int | None, typer.Option(help="How many items.", show_default="5, or all of fewer")] = None,
    held_out: Annotated[bool, typer.Option("--held-out", help="Answer before the last item, and show it.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    dataset: DatasetOption = None,
) -> None:
    """Show what the model understands: titles it writes for what it recommends, the user's preference, a comment.

    \b
    Example:
      ed2 explain runs/ml-100k --user 196
    """
    from ed2rec import answers, terminal, workflow

    found = answers.explain(workflow.load(run, dataset), user, k, held_out=held_out)
    terminal.print_json(found.as_dict()) if json else terminal.print_explanation(found.as_dict())


@app.command()
def index(
    run: RunArgument,
    what: Annotated[Inspection, typer.Argument(help="stats, or show ITEM_ID.")],
    item_id: Annotated[str | None, typer.Argument(metavar="[ITEM_ID]", help="For show.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="With stats: draw first codes by category there (png, svg, pdf)."),
    ] = None,
    dataset: DatasetOption = None,
) -> None:
    """Look at a run's indices: codebook use, perplexity, collisions, churn; or one item's index and its neighbours.

    \b
    Examples:
      ed2 index runs/ml-100k stats
      ed2 index runs/ml-100k stats --picture first-codes.png
      ed2 index runs/ml-100k show 242
    """
    from ed2rec import inspection, terminal

    if (what is Inspection.SHOW) == (item_id is None):
        raise ConfigError("write either `ed2 index RUN stats` or `ed2 index RUN show ITEM_ID`")
    if picture is not None and what is Inspection.SHOW:
        raise ConfigError(f"--picture {picture} goes with `ed2 index RUN stats`")
    if item_id is None:
        stats = inspection.index_stats(run)
        if picture is not None:
            shares = inspection.draw_first_codes(run, picture, dataset)
            stead = ", for no item has a category" if shares.by == "brand" else ""
            terminal.say(f"{picture}: first codes of items by {shares.by}{stead}")
        terminal.print_json(stats) if json else terminal.print_index_stats(stats)
        return
    shown = inspection.show_item(run, item_id, dataset)
    terminal.print_json(shown) if json else terminal.print_item_index(shown)


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; an export there is replaced.")],
    dataset: DatasetOption = None,
) -> None:
    """Write a run's LLM as a plain Hugging Face folder, with every item's index string, for another program to serve.

    \b
    Example:
      ed2 export runs/ml-100k --out exports/ml-100k
    """
    from ed2rec import terminal
    from ed2rec.export import export as export_run

    terminal.say(f"{run} is in {export_run(run, out, dataset)} as a Hugging Face folder; see its README.md")


@app.command()
def bench(
    what: Annotated[Bench, typer.Argument(help="decode, train, index, prepare or baselines.")],
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures there; - is stdout.")] = None,
    peers: Annotated[
        Path | None,
        typer.Option(metavar="PYTHON", help="For baselines: a Python with Cornac and RecBole (docs/benchmarks.md)."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="For decode, train and index: auto, cpu, cuda, …", show_default="cpu")
    ] = None,
    shape: Annotated[
        Shape | None,
        typer.Option(help="For decode and train: of the LLM, whose weights are random.", show_default="tiny"),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="For train: with compiled layers, as training.compile.")
    ] = False,
) -> None:
    """Measure speed on this machine, as ratios within one run.

    \b
    Examples:
      ed2 bench decode --json decode.json
      ed2 bench train --device cuda --shape smollm2-135m --compile
      ed2 bench baselines --peers peers/bin/python
    """
    from importlib import import_module

    from ed2rec import terminal
    from ed2rec.files import check_file, replace_file

    if json is not None and json != Path("-"):
        check_file(json)
    more = {name: value for name, value in
            {"peers": peers, "device": device, "shape": shape, "compile": compile_}.items() if value}  # fmt: skip
    for name in (name for name in more if name not in TAKES.get(what, ())):
        takers = " and ".join(f"`ed2 bench {taker}`" for taker, options in TAKES.items() if name in options)
        given = f"--{name}" if more[name] is True else f"--{name} {more[name]}"
        raise ConfigError(f"{given} goes with {takers}")
    if peers is not None:
        more["python"] = more.pop("peers")
    with terminal.progress() as progress:
        figures: dict[str, Any] = import_module(f"benchmarks.{what.value}").run(progress, **more)
    if json is not None and json != Path("-"):
        with replace_file(json) as file:
            file.write_text(terminal.as_json(figures), encoding="utf-8")
    terminal.print_json(figures)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything the demo makes.")] = Path("ed2-demo"),
    source: Annotated[
        Path | None, typer.Option(help="A local ml-100k archive or folder (or the recbole wheel): no download.")
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Named settings; repeatable.", show_default="demo")
    ] = None,
    set_: SetOption = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Whose recommendations are shown.")] = None,
) -> None:
    """MovieLens-100K end to end: fetch, prepare, train, evaluate beside popularity, recommend, write report.html.

    \b
    Example:
      ed2 demo --out demo
    """
    from ed2rec import terminal
    from ed2rec.config import resolve
    from ed2rec.demo import run_demo

    settings = resolve(preset or "demo", set_ or ())
    with terminal.progress() as progress:
        result = run_demo(out, settings, source=source, user_id=user, progress=progress)
    terminal.print_metrics(result.rows, f"ml-100k, test, {result.users:,} users")
    terminal.print_example(result.example)
    terminal.say(f"{result.seconds:.0f} s in all. Open {result.report}")


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False) -> None:
    """Show versions, devices and caches: what is missing, and the command that mends it.

    \b
    Example:
      ed2 doctor
    """
    from ed2rec import terminal
    from ed2rec.doctor import examine

    found = examine()
    terminal.print_json(found.as_dict()) if json else terminal.print_findings(found)
    if not found.healthy:
        raise typer.Exit(2)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; only faults of our own leave as exceptions."""
    if launched()[1] > 1:  # else DDP warns, in every process, of parameters that it looked for and found
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    hush()
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="ed2", standalone_mode=False)
    except Ed2Error as error:
        return _complain(str(error))
    except UsageFault as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "ed2"
        return _complain(f"{error.format_message().rstrip('.')} (see: {command} --help)")  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        print("ed2: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def main() -> None:
    sys.exit(run_command())


def _complain(message: str) -> int:
    rank = launched()[0]  # of several processes any one may fail; none fails in silence
    print(f"ed2{f' (process {rank})' if rank else ''}: " + " ".join(message.split()), file=sys.stderr)
    return 2
