import json

import pytest

from ed2rec import terminal
from ed2rec.evaluation.metrics import reported
from ed2rec.report import Example


def test_progress_in_a_log_file_is_a_line_every_tenth_and_none_on_stdout(capsys):
    with terminal.progress() as progress:
        for done in range(1, 101):
            progress("training", done, 100, f"loss {done}")
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 11
    assert err.splitlines()[-1] == "training: 100 of 100  loss 100"


def test_the_best_of_each_column_stands_out_and_titles_are_not_markup(capsys):
    terminal.print_metrics([{"model": "[red]a", **reported([1])}, {"model": "b", **reported([9])}], "shop")
    assert "[red]a" in capsys.readouterr().out


def test_json_turns_what_is_not_a_number_into_null():
    assert json.loads(terminal.as_json({"a": float("nan"), "b": 1.5})) == {"a": None, "b": 1.5}


def test_an_example_marks_the_item_that_was_taken(capsys):
    terminal.print_example(Example("u1", [f"[{n}]" for n in range(30)], ["x", "y"], "y", 2))
    out = capsys.readouterr().out
    assert "(20 earlier)" in out and "2. y  ● taken next" in out and "[29]" in out and "[19]" not in out


@pytest.mark.parametrize("churn", [[], [{"step": 3, "a": 0.25}]])
def test_index_statistics_are_a_row_per_level(capsys, churn):
    kind = {"sizes": [4, 8], "used": [4, 7], "perplexity": [3.5, 6.25], "entities": 10, "colliding": 2,
            "collision_rate": 0.2, "largest_group": 2, "version": 1, "churn": churn, "generator": {}}  # fmt: skip
    terminal.print_index_stats({"items": kind})
    out = capsys.readouterr().out
    assert "before the suffix 2 share their codes (20.00%, at most 2 together)" in out and "twins" not in out
    assert ("25.0%" in out) == bool(churn)
    generator = {"entities": 10, "colliding": 5, "largest_group": 4, "kappa": [198.04, 45.0]}
    terminal.print_index_stats({"items": {**kind, "generator": generator}})
    out = capsys.readouterr().out
    assert "before twins are moved apart 5 share their codes (50.00%, at most 4 together)" in out
    assert "198.0" in out and "45.0" in out


def test_a_sparkline_is_drawn_from_zero_to_the_highest_of_all_lines():
    assert terminal.sparkline([0.0, 0.35, 0.7], 0.7) == "▁▅█" and terminal.sparkline([0.0, 0.1], 0.7) == "▁▂"
    assert terminal.sparkline([], 0.0) == "" and terminal.sparkline([0.0, 0.0], 0.0) == "▁▁"


def test_several_wordings_have_a_spread_and_a_row_each(capsys):
    parts = [{"instruction": text, **reported([rank])} for text, rank in (("ask {user}", 1), ("tell {user}", 30))]
    row = {"model": "ed2", **reported([1]), "std": dict.fromkeys(reported([1]), 0.0123), "per_instruction": parts}
    terminal.print_metrics([row], "shop")
    out = capsys.readouterr().out
    assert out.count("1.0000 ± 0.0123") == 5 and "ask {user}" in out and "tell {user}" in out
