"""The log of a training that may be interrupted."""

import json

from ed2rec.training.history import History


def entries(*steps: int) -> list[dict[str, float]]:
    return [{"step": step, "loss": step / 3} for step in steps]


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path):
    first = History(tmp_path / "history.jsonl")
    for entry in entries(1, 2, 2, 5):
        first.add(entry)
    assert first.entries == entries(1, 2, 2, 5) == History(tmp_path / "history.jsonl", step=5).entries


def test_opened_at_a_step_it_forgets_what_came_after_it_for_good(tmp_path):
    path = tmp_path / "history.jsonl"
    first = History(path)
    for entry in entries(1, 2, 3, 4):
        first.add(entry)
    second = History(path, step=2)
    assert second.entries == entries(1, 2)
    second.add({"step": 3, "loss": 0.0})
    assert History(path, step=9).entries == [*entries(1, 2), {"step": 3, "loss": 0.0}]


def test_a_line_that_was_being_written_is_left_out(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    history = History(path, step=5)
    assert history.entries == [{"step": 1}]
    history.add({"step": 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_new_training_starts_empty(tmp_path):
    assert History(tmp_path / "history.jsonl").entries == []
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]
