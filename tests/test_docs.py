"""Documentation that lies is worse than none: what README, docs and help pages say is run or looked up here."""

import ast
import csv
import re
import runpy
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from ed2rec import cli
from ed2rec.config import explain, presets, resolve

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path.exists()
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAPER = {
    *(f"Eq. {n}" for n in range(1, 26)), *(f"Table {n}" for n in range(1, 8)), *(f"Figure {n}" for n in range(1, 8)),
    *(f"Appendix {letter}" for letter in "ABCDEFGHIJK"),
}  # fmt: skip


def blocks(language: tuple[str, ...]) -> list[tuple[str, str]]:
    """(page, text) of every fenced block in one of the languages."""
    return [
        (page.name, text)
        for page in PAGES
        for kind, text in FENCE.findall(page.read_text(encoding="utf-8"))
        if kind in language
    ]


def command_lines() -> list[tuple[str, str]]:
    """Every line that calls ed2, from the pages and from the help pages themselves."""
    helps = [(f"ed2 {command.callback.__name__} --help", command.callback.__doc__ or "") for command in verbs()]
    shells = blocks(("sh", "bash", "console", "shell"))
    lines = [(where, line.strip().removeprefix("$ ")) for where, text in helps + shells for line in text.splitlines()]
    return [(where, line) for where, line in lines if line.startswith("ed2 ") and "…" not in line]


def verbs():
    return [*cli.app.registered_commands, *cli.data_app.registered_commands]


@pytest.mark.parametrize(("where", "line"), command_lines(), ids=lambda value: value)
def test_commands_in_the_documentation_parse(where, line):
    """Parsed by the real parser, options and choices included; nothing is executed."""
    words = shlex.split(line, comments=True)
    command, words = get_command(cli.app), words[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    stop = re.search(r"[<>|&\\]", " ".join(words))
    if not stop:
        command.make_context("ed2", list(words), resilient_parsing=bool({"--help", "--version"} & set(words)))


@pytest.mark.parametrize(("where", "line"), command_lines(), ids=lambda value: value)
def test_presets_and_settings_in_the_documentation_exist(where, line):
    words = shlex.split(line, comments=True)
    given = [value for option, value in pairwise(words) if option == "--set"]
    resolve([value for option, value in pairwise(words) if option == "--preset"], given)


@pytest.mark.parametrize(("page", "text"), blocks(("python", "py")))
def test_python_in_the_documentation_compiles_and_its_imports_exist(page, text):
    tree = compile(text, page, "exec", flags=0x0400)  # ast.PyCF_ONLY_AST
    imports = [line for line in text.splitlines() if re.match(r"(from ed2rec|import ed2rec)", line)]
    exec("\n".join(imports), {})
    assert tree.body


@pytest.mark.parametrize(("page", "text"), blocks(("yaml", "yml")))
def test_yaml_settings_in_the_documentation_resolve(page, text, tmp_path):
    (tmp_path / "block.yaml").write_text(text)
    if set(yaml.safe_load(text) or {}) <= {key.partition(".")[0] for key, _, _ in explain()}:
        resolve(file=tmp_path / "block.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_file_names_in_the_documentation_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]
    named = re.findall(r"`((?:ed2rec|tests|docs|benchmarks|experiments)/[\w/.-]+\.\w+)", text)
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_named_in_the_documentation_exist(page):
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text(encoding="utf-8"))
    missing = [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert not missing


def test_presets_say_in_their_first_line_what_they_are_for():
    from ed2rec.config import PRESETS

    firsts = {name: (PRESETS / f"{name}.yaml").read_text().splitlines()[0] for name in presets()}
    assert all(first.startswith("# ") for first in firsts.values()), firsts


def test_there_are_commands_to_check():
    assert len(command_lines()) >= len(verbs())


# Names: code, settings, files.


def names_in(file: Path) -> set[str]:
    """Functions, classes, methods and constants of a module: "search", "Decoder", "Decoder.search", "LIMITS"."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{part.name}" for part in inner if isinstance(part, ast.FunctionDef)}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def code_named_in(text: str) -> list[tuple[str, str]]:
    """(file, name) of everything written as `folder/file.py:name`."""
    return re.findall(r"`([\w/]+\.py):([A-Za-z_][\w.]*)`", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_named_in_the_documentation_exists(page):
    named = code_named_in(page.read_text(encoding="utf-8"))
    missing = [
        f"{file}:{name}" for file, name in named if not (ROOT / file).exists() or name not in names_in(ROOT / file)
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_named_in_the_documentation_exist(page):
    keys = [key for key, _, _ in explain()]
    groups = "|".join({key.partition(".")[0] for key in keys if "." in key})
    named = re.findall(rf"`((?:{groups})\.\w+)(=[^`]*)?`", page.read_text(encoding="utf-8"))
    assert not [key for key, _ in named if key not in keys and not key.endswith((".py", ".safetensors"))]
    resolve(None, [key + value for key, value in named if value])


def test_the_layout_in_the_readme_lists_every_file_of_the_package_and_no_other():
    layout = next(text for page, text in blocks(("text",)) if page == "README.md" and text.startswith("ed2rec/"))
    listed = sorted(re.findall(r"^ +([\w]+\.(?:py|html)) ", layout, re.MULTILINE))
    package = (path.name for path in (ROOT / "ed2rec").rglob("*") if path.suffix in (".py", ".html"))
    assert listed == sorted(name for name in package if not name.startswith("__"))


# The map of the paper.


def entries() -> list[tuple[str, str]]:
    """(what the entry is about, all of it) for every entry of docs/paper_map.md."""
    text = (ROOT / "docs/paper_map.md").read_text(encoding="utf-8")
    return [(entry.partition("\n")[0], entry) for entry in re.findall(r"^- (\*\*.*(?:\n  .*)*)", text, re.MULTILINE)]


def test_the_paper_map_has_every_equation_table_figure_and_appendix():
    bold = re.findall(r"\*\*(.+?)\*\*", "\n".join(head for head, _ in entries()))
    assert not PAPER - {name for label in bold for name in re.split(r", ", label)}


@pytest.mark.parametrize(("head", "entry"), entries(), ids=lambda value: value[:40])
def test_every_entry_of_the_paper_map_leads_to_code_or_says_that_there_is_none(head, entry):
    somewhere = code_named_in(entry) or re.search(r"Planned|planned|Not code|`[a-z]+\.\w+`|\]\(", entry)
    assert somewhere, head
    assert "Code: " not in entry or "Test: `tests/" in entry, f"{head}: code without a test"


# What is generated, and what is run.


def test_the_help_pages_in_docs_are_those_of_the_program():
    made = runpy.run_path(str(ROOT / "docs/make_cli.py"))["page"]()
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == made, "stale: run python docs/make_cli.py"


SMALL = {
    "backbone.hidden": 16, "backbone.heads": 2, "backbone.layers": 1, "backbone.intermediate": 32,
    "backbone.vocabulary": 300, "indexer.items": "[4, 4, 4]", "indexer.users": "[4, 4]", "indexer.code_width": 8,
    "indexer.warmup_epochs": 1, "training.epochs": 1, "training.validations": 1, "training.device": "cpu",
}  # fmt: skip


def write_table(path: Path, block: str, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The CSV block of the README, and more rows with the same columns; returns the block's own rows."""
    own = list(csv.DictReader(block.splitlines()))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(own[0]))
        writer.writeheader()
        writer.writerows(own + [{column: row.get(column, "") for column in own[0]} for row in rows])
    return own


def test_the_first_steps_of_the_readme_run_as_written(tmp_path, monkeypatch):
    """On a shop around the rows that the README shows, and with a smaller model; every other word is the README's."""
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Your own log\n")[2].partition("\n## ")[0]
    log, items = (text for kind, text in FENCE.findall(section) if kind == "csv")
    made = [{"item_id": f"part-{n}", "title": f"{'drum' if n % 2 else 'guitar'} part {n}"} for n in range(10)]
    ids = [row["item_id"] for row in write_table(Path("items.csv"), items, made) + made]
    shown = list(csv.DictReader(log.splitlines()))
    users = sorted({row["user_id"] for row in shown} | {f"user-{n}" for n in range(18)})
    taken = [
        (user, ids[(n + step) % len(ids)], 1_800_000_000 + step) for n, user in enumerate(users) for step in range(8)
    ]
    rows = [dict(zip(("user_id", "item_id", "timestamp"), row, strict=True)) for row in taken]
    write_table(Path("log.csv"), log, rows)
    commands = [
        shlex.split(line) for kind, text in FENCE.findall(section) if kind == "sh" for line in text.splitlines()
    ]
    assert {command[1] for command in commands} >= {"prepare", "train", "evaluate", "recommend", "index"}
    for _, *words in commands:
        small = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
        assert cli.run_command(words + small if words[0] == "train" and "--model" not in words else words) == 0, words
