"""Who may import whom: each line may import itself and the lines above it, never what stands below."""

import ast
import importlib
import pkgutil
from importlib.util import resolve_name
from pathlib import Path

import pytest

import ed2rec

ROOT = Path(ed2rec.__file__).parent
LINES = """
errors setting_group baseline_settings settings config spaces environment device
data
recommender ensemble encoding adaptation backbone files prior
evaluation indexers
vocabulary trie
instructions decoding
regulator model
runs generative telling training
baselines
workflow answers
trials
tuning
charts report inspection doctor export
summary serving terminal
demo
cli
"""
RANK = {part: rank for rank, line in enumerate(LINES.strip().splitlines()) for part in line.split()}
FILES = sorted(ROOT.rglob("*.py"))


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def parts_imported(tree: ast.AST, package: str) -> set[str]:
    """The parts of ed2rec that a module's imports name, relative ones and those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    split = [name.split(".") for name in names]
    return {parts[1] for parts in split if parts[0] == "ed2rec" and len(parts) > 1} & RANK.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file):
    part = part_of(file)
    if part in ("__init__", "__main__"):
        return
    assert part in RANK, f"say in tests/test_layers.py where {part} belongs"
    package = ".".join(("ed2rec", *file.relative_to(ROOT).parts[:-1]))
    imported = parts_imported(ast.parse(file.read_text(encoding="utf-8")), package)
    below = {name for name in imported if RANK[name] > RANK[part]}
    assert not below, f"{part} must not import {', '.join(sorted(below))}"


def test_the_check_sees_absolute_relative_and_hidden_imports():
    tree = ast.parse(
        "import ed2rec.cli\nfrom ..runs import save\nfrom ed2rec import demo\ndef f():\n from . import dataset"
    )
    assert parts_imported(tree, "ed2rec.data") == {"cli", "runs", "demo", "data"}


def test_all_files_were_looked_at():
    assert len(FILES) > 30
    assert {part_of(file) for file in FILES} >= {"cli", "data", "evaluation", "runs"}


@pytest.mark.parametrize("name", sorted(module.name for module in pkgutil.walk_packages([str(ROOT)], "ed2rec.")))
def test_every_module_can_be_imported(name):
    if name != "ed2rec.__main__":
        importlib.import_module(name)


def test_the_public_names_are_those_listed_and_all_exist():
    assert ed2rec.__all__ == sorted(ed2rec.__all__)
    assert set(ed2rec.__all__) == set(ed2rec._HOME)
    for name in ed2rec.__all__:
        assert getattr(ed2rec, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ed2rec.nonsense
