"""Documentation that lies is worse than none: what README, docs and help pages say is run or looked up here."""

import re
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
    preset = next((value for option, value in pairwise(words) if option == "--preset"), None)
    resolve(preset, given)


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
