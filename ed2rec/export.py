"""A run's LLM for another program to serve: a plain Hugging Face folder, and beside it what constrains its answers.

config.json, model.safetensors, tokenizer.json, …   the LLM, adapters merged in, and the extended tokenizer
items.jsonl      an item a line: item_id, title, index (the one answer that means it), token_ids
users.jsonl      a user a line, where there is a user index: user_id, index, token_ids
example.json     one prompt, and what ed2rec answers to it: whoever gets the same has set everything up rightly
index/           the tables as in the run
export.json      what is in the folder, by which it is known as an export that may be replaced
README.md        the same for whoever gets the folder without this page
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ed2rec import answers, runs, workflow
from ed2rec.data.folders import check_replaceable, replace_folder
from ed2rec.errors import RunError

MARKER = "export.json"
README = """# {dataset}: an LLM that recommends by writing the index of an item

Exported by ed2rec {version}. Any program that loads a causal language model of `transformers` can load this folder;
`trust_remote_code` is not needed. {items:,} items, {users} users with an index of their own.

- `items.jsonl`: item_id, title, `index` (the answer that means this item) and its `token_ids`
- `users.jsonl`, if it is there: the same for users; the user of a prompt without one is `<ua_unk>`
- `example.json`: a prompt and what ed2rec answers to it
- `export.json`: the version and the files of this folder; an export replaces a folder of such files only
- `index/`: the same indices as codes, in Parquet

## Asking

A prompt is a list of token ids: the beginning-of-sequence token if the tokenizer has one, then the instruction
`{wording}` with the user's `token_ids` at {{user}} and those of the history at {{history}}: its last {history} items,
the oldest first. Send ids: the words are tokenised piece by piece, and a text put together may be cut otherwise.

The answer is an index of {levels} tokens (one more where items share all of them). It must be constrained to the
`index` strings of `items.jsonl`, or items come out that do not exist. No end-of-sequence token was trained behind it.

Scores in `example.json` are sums of log-probabilities, {over}, without renormalising over the strings that are allowed.
An engine that renormalises over these, as constrained decoding usually does, ranks differently where branches are
thin; the best ranking comes from a beam search ({beam} beams here) scored as above.
{prior}"""

PRIOR = """
The run that this comes from adds to these scores what the texts of the last items say (its `decoding.prior`). That is
not part of the LLM, and neither of this folder nor of `example.json`.
"""


def export(run: Path, out: Path, dataset_folder: Path | None = None) -> Path:
    """Write the folder, whole or not at all. RunError for a run without an LLM, DataError for a target that holds
    something else."""
    folder = runs.open_run(run)
    if not (folder.path / "model").is_dir():
        raise RunError(f"{run} is a {folder.model} run, which has no LLM to export: give a run of ed2")
    check_replaceable(Path(out), MARKER, _files)
    loaded = workflow.load(run, dataset_folder)
    with replace_folder(Path(out), MARKER, _files) as new:
        shutil.copytree(folder.path / "model", new, dirs_exist_ok=True)
        shutil.copytree(folder.path / "index", new / "index")
        _write(loaded, new)
    return Path(out)


def _files(said: Any) -> list[str]:
    """The files beside an export.json of ours."""
    return list(said["files"]) if said["ed2rec"] else []


def _write(run: workflow.LoadedRun, folder: Path) -> None:
    from ed2rec.environment import version
    from ed2rec.generative import GenerativeRecommender
    from ed2rec.instructions.examples import prompt
    from ed2rec.instructions.sequential import before

    model, dataset = run.recommender, run.dataset
    if not isinstance(model, GenerativeRecommender):
        raise TypeError(f"a run with model/ loads as {type(model).__name__}")
    vocabulary, index = model.decoder.vocabulary, model.index
    names = vocabulary.tokens()

    def spelled(row: np.ndarray) -> dict[str, Any]:
        ids = row[row >= 0].tolist()
        return {"index": "".join(names[number - vocabulary.text_size] for number in ids), "token_ids": ids}

    items = [
        {"item_id": item.item_id, "title": item.title, **spelled(row)}
        for item, row in zip(answers.items_of(dataset, range(len(index.items))), index.items, strict=True)
    ]
    _write_lines(folder / "items.jsonl", items)
    users = [
        {"user_id": user, **spelled(row)}
        for user, row in zip(dataset.users["user_id"].to_list(), index.users, strict=False)
    ]
    if users:
        _write_lines(folder / "users.jsonl", users)
    user_id = dataset.users["user_id"][0]
    alone = replace(run, recommender=model.without_prior())  # as whoever serves the LLM can see it
    answer = answers.recommend(alone, user_id=user_id, k=min(5, len(items)))
    asked = prompt(model.asked[0], before(0, dataset.histories[0][-model.max_history :]), index)
    by_id = {item["item_id"]: item for item in items}
    example = {
        "instruction": model.wordings[0],
        "user_id": user_id,
        "history": [item.item_id for item in answer.history[-model.max_history :]],
        "prompt_token_ids": asked.tolist(),
        "answers": [
            {**by_id[item.item_id], "score": score} for item, score in zip(answer.items, answer.scores, strict=True)
        ],
    }
    (folder / "example.json").write_text(json.dumps(example, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    over = {"level": "normalised over all codes of a level", "vocabulary": "normalised over all tokens"}
    text = README.format(
        dataset=dataset.name, version=version(), items=len(items), users=f"{len(users):,}" if users else "no",
        wording=model.wordings[0], history=model.max_history, levels=vocabulary.levels("item"),
        over=over[model.decoder.normalise], beam=model.beam, prior="" if model.prior is None else PRIOR,
    )  # fmt: skip
    (folder / "README.md").write_text(text, encoding="utf-8")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    (folder / MARKER).write_text(json.dumps({"ed2rec": version(), "files": files}, indent=2) + "\n", encoding="utf-8")


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
