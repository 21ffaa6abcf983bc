"""The real data come out with the counts of the paper (Table 6) and of the data's own description."""

import json

import numpy as np
import pytest
from shared import shared

from ed2rec.data.prepare import prepare
from ed2rec.data.splits import leave_one_out
from ed2rec.data.texts import item_texts, user_texts


@pytest.mark.parametrize(
    ("name", "format", "k_core", "users", "items", "interactions"),
    [
        ("games", "lcrec", None, 50_546, 16_859, 452_989),
        ("instruments", "lcrec", None, 24_772, 9_922, 206_153),
        ("industrial", "lcrec", None, 2_364, 2_227, 16_039),
        ("raw", "amazon", 5, 1_429, 900, 10_261),
    ],
)
def test_counts_are_exact(tmp_path, name, format, k_core, users, items, interactions):
    counts = prepare(shared(name), format, tmp_path / "out", k_core).facts["counts"]
    assert counts == {"users": users, "items": items, "interactions": interactions}


def test_no_real_review_of_a_validation_or_test_item_reaches_the_dataset(tmp_path):
    folder = shared("instruments")
    dataset = prepare(folder, "lcrec", tmp_path / "out")
    logs = json.loads((folder / "Instruments.inter.json").read_text())
    reviews = json.loads((folder / "Instruments.review.json").read_text())
    late = {key for key in reviews if int(key.strip("()").split(",")[1]) in logs[key.strip("()").split(",")[0]][-2:]}
    assert len(late) == dataset.facts["dropped"]["texts_at_validation_and_test_positions"] == 623
    kept = dataset.interactions.filter(
        (dataset.interactions["comment"] != "") | (dataset.interactions["summary"] != "")
    )
    assert len(kept) == len(reviews) - 623 == 5_551
    assert not late & {f"({user}, {item})" for user, item in zip(kept["user_id"], kept["item_id"], strict=True)}


def test_histories_are_the_lists_of_the_source_and_texts_are_there(tmp_path):
    folder = shared("industrial")
    dataset = prepare(folder, "lcrec", tmp_path / "out")
    logs = json.loads((folder / "Industrial.inter.json").read_text())
    assert [dataset.histories[u].tolist() for u in range(2_364)] == list(logs.values())
    split = leave_one_out(dataset.histories, dataset.users["user_id"])
    assert all(item_texts(dataset)) and all(user_texts(dataset, split.train.lengths))
    assert np.array_equal(split.test.histories.lengths, dataset.histories.lengths - 1)
