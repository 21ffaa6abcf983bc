import errno
import json
import os
import re

import numpy as np
import polars as pl
import pytest

from ed2rec import runs
from ed2rec.config import resolve
from ed2rec.errors import Ed2Error, RunError

DATASET = {"path": "somewhere", "name": "shop", "entities": "e", "log": "l"}


def put(text):
    return lambda folder: (folder / "weights.bin").write_text(text)


def save(folder, write, metrics=None, **settings):
    chosen = resolve(extra={"model": "popularity", **settings})
    return runs.save(folder, chosen, metrics or {}, write, DATASET)


def refusal(call, *arguments) -> str:
    with pytest.raises(RunError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_saved_run_opens_with_everything_it_was_given(tmp_path):
    save(tmp_path / "run", put("a"), {"valid": {"NDCG@10": 0.1}}, seed=7)
    run = runs.open_run(tmp_path / "run")
    assert run.model == "popularity" and run.settings == resolve(extra={"model": "popularity", "seed": 7})
    assert run.metrics == {"valid": {"NDCG@10": 0.1}} and run.dataset == DATASET
    assert {"format", "seed", "ed2rec", "python", "versions", "hardware", "commit", "files"} <= set(run.environment)
    assert run.environment["seed"] == 7 and run.environment["versions"]["polars"] == pl.__version__
    assert leftovers(tmp_path) == []


def test_metrics_of_any_number_type_are_kept_and_nan_becomes_null(tmp_path):
    save(tmp_path / "run", put("a"), {"a": np.float32(0.5), "b": (np.int64(2), float("nan")), "c": np.arange(2)})
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == {"a": 0.5, "b": [2, None], "c": [0, 1]}


def test_a_new_run_replaces_the_old_one_whole(tmp_path):
    save(tmp_path / "run", lambda folder: (folder / "old.bin").write_text("a"))
    save(tmp_path / "run", put("new"))
    assert (tmp_path / "run/weights.bin").read_text() == "new" and not (tmp_path / "run/old.bin").exists()
    assert leftovers(tmp_path) == []


def full_disk(folder):
    (folder / "weights.bin").write_text("half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def full_disk_in_rust(folder):
    raise pl.exceptions.ComputeError("could not write: No space left on device (os error 28)")


@pytest.mark.parametrize("write", [full_disk, full_disk_in_rust])
def test_a_full_disk_is_one_line_and_costs_nothing(tmp_path, write):
    save(tmp_path / "run", put("old"))
    assert "No space left on device" in refusal(save, tmp_path / "run", write)
    assert runs.open_run(tmp_path / "run") and (tmp_path / "run/weights.bin").read_text() == "old"
    assert "No space left on device" in refusal(save, tmp_path / "other", write)
    assert not (tmp_path / "other").exists() and leftovers(tmp_path) == []


def test_a_fault_of_ours_keeps_its_type_and_costs_nothing_either(tmp_path):
    save(tmp_path / "run", put("old"))

    def broken(folder):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save(tmp_path / "run", broken)
    assert (tmp_path / "run/weights.bin").read_text() == "old" and leftovers(tmp_path) == []


@pytest.mark.parametrize("failing", range(1, 3))
def test_whichever_rename_fails_the_old_run_is_still_there(tmp_path, monkeypatch, failing):
    save(tmp_path / "run", put("old"))
    rename, calls = os.rename, []

    def refuse(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    assert "Input/output error" in refusal(save, tmp_path / "run", put("new"))
    assert (tmp_path / "run/weights.bin").read_text() == "old" and leftovers(tmp_path) == []


def test_a_replacement_that_stopped_between_its_renames_is_undone_on_opening(tmp_path):
    save(tmp_path / "run", put("old"))
    os.rename(tmp_path / "run", tmp_path / ".run.old")  # what a power cut leaves
    assert runs.open_run(tmp_path / "run").model == "popularity"
    assert leftovers(tmp_path) == []


def test_what_an_interrupted_save_left_is_swept_up_by_the_next(tmp_path):
    (tmp_path / ".run.new").mkdir()
    (tmp_path / ".run.new/huge.bin").write_text("x")
    save(tmp_path / "run", put("a"))
    assert leftovers(tmp_path) == [] and not (tmp_path / "run/huge.bin").exists()


def test_files_that_are_no_run_are_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    assert "are left alone" in refusal(save, tmp_path / "thesis", put("a"))
    assert "is a file" in refusal(save, tmp_path / "thesis/chapter.txt", put("a"))
    assert (tmp_path / "thesis/chapter.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", put("a"))


@pytest.mark.parametrize("text", ["{}", "[1]", "not JSON", '{"files": {"orders.csv": 1}}'])
def test_an_environment_json_of_somebody_else_makes_no_run(tmp_path, text):
    (tmp_path / "web").mkdir()
    (tmp_path / "web/environment.json").write_text(text)
    (tmp_path / "web/orders.csv").write_text("order,item")
    assert "(environment.json), they are left alone" in refusal(save, tmp_path / "web", put("a"))
    assert sorted(path.name for path in (tmp_path / "web").iterdir()) == ["environment.json", "orders.csv"]


def test_a_run_gives_way_with_what_our_commands_put_beside_it_but_not_with_other_files(tmp_path):
    save(tmp_path / "run", put("old"))
    for name in ("report.html", "rankings.parquet", "test.json", "first-codes.PNG", ".DS_Store"):
        (tmp_path / "run" / name).touch()
    save(tmp_path / "run", put("new"))
    assert (tmp_path / "run/weights.bin").read_text() == "new" and not (tmp_path / "run/report.html").exists()
    (tmp_path / "run/thesis").mkdir()
    (tmp_path / "run/thesis/figure.png").write_text("mine")
    assert "(thesis/figure.png), they are left alone" in refusal(runs.check_target, tmp_path / "run")
    assert (tmp_path / "run/thesis/figure.png").exists()


def test_a_run_whose_folder_is_a_link_stays_on_the_disk_that_the_link_names(tmp_path):
    disk, home = tmp_path / "disk", tmp_path / "home"
    disk.mkdir()
    home.mkdir()
    (home / "shop").symlink_to(disk / "shop")  # which is not there yet
    for text in ("first", "second", "third"):
        save(home / "shop", put(text))
        assert (home / "shop").is_symlink() and (disk / "shop/weights.bin").read_text() == text
    assert leftovers(home) == leftovers(disk) == []
    assert runs.workspace(home / "shop") == disk / ".shop.training"
    os.rename(disk / "shop", disk / ".shop.old")  # what a power cut leaves
    assert runs.open_run(home / "shop").path == disk / "shop"


def test_a_target_that_cannot_be_written_is_found_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot write into" in refusal(runs.check_target, tmp_path / "deep/run")


def test_an_absent_run_an_unfinished_one_and_something_else_are_told_apart(tmp_path):
    assert "no run at" in refusal(runs.open_run, tmp_path / "run")
    (checkpoint := runs.workspace(tmp_path / "run") / "checkpoint-4").mkdir(parents=True)
    said = refusal(runs.open_run, tmp_path / "run")
    assert "no complete checkpoint" in said and "train it again" in said and "--resume" not in said
    (checkpoint / runs.COMPLETE).touch()
    assert "has not finished" in refusal(runs.open_run, tmp_path / "run") and "--resume" in refusal(
        runs.open_run, tmp_path / "run"
    )
    (tmp_path / "photos").mkdir()
    assert "is no run, or half of one" in refusal(runs.open_run, tmp_path / "photos")


def test_a_dataset_folder_and_a_run_that_does_not_know_its_dataset_are_no_runs(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/dataset.json").write_text("{}")
    assert "is a dataset folder, not a run" in refusal(runs.open_run, tmp_path / "shop")
    save(tmp_path / "run", put("a"))
    (tmp_path / "run/environment.json").write_text('{"format": 1}')
    assert "does not say what was trained on" in refusal(runs.open_run, tmp_path / "run")


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("environment.json", {"dataset": {}}, "does not say what was trained on"),
        ("environment.json", {"files": None}, "does not say which files there are"),
        ("environment.json", {"model": "sasrec"}, "says popularity, but sasrec was trained"),
        ("metrics.json", {"history": 4}, "a history that is no list"),
    ],
)
def test_a_run_that_somebody_edited_is_refused_in_one_line(tmp_path, file, change, said):
    save(tmp_path / "run", put("a"))
    path = tmp_path / "run" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert said in refusal(runs.open_run, tmp_path / "run")


def test_a_full_disk_is_told_from_other_faults_whoever_wrote():
    full = [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left (os error 28)"),
            RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")]  # fmt: skip
    assert all(runs.disk_is_full(error) for error in full)
    assert not any(
        runs.disk_is_full(error) for error in (OSError(errno.ENOENT, "absent"), RuntimeError("shape"), KeyError(1))
    )


def test_a_run_of_another_format_says_which_version_wrote_it(tmp_path):
    save(tmp_path / "run", put("a"))
    file = tmp_path / "run/environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99, "ed2rec": "7.0"}))
    assert re.search(
        "format 99, this version reads format 1.*install ed2rec 7.0", refusal(runs.open_run, tmp_path / "run")
    )


@pytest.mark.parametrize("name", ["weights.bin", "config.yaml", "metrics.json", "environment.json"])
def test_a_run_that_lacks_a_file_is_refused(tmp_path, name):
    save(tmp_path / "run", put("a"))
    (tmp_path / "run" / name).unlink()
    assert name in refusal(runs.open_run, tmp_path / "run")


@pytest.mark.parametrize("name", ["weights.bin", "metrics.json", "environment.json"])
def test_a_truncated_copy_is_refused(tmp_path, name):
    save(tmp_path / "run", put("a" * 100), {"some": "metrics"})
    file = tmp_path / "run" / name
    file.write_bytes(file.read_bytes()[:10])
    assert name in refusal(runs.open_run, tmp_path / "run")


def test_a_run_whose_settings_this_version_does_not_know_is_refused_with_the_setting(tmp_path):
    save(tmp_path / "run", put("a"))
    file = tmp_path / "run/config.yaml"
    file.write_text(file.read_text() + "wings: 2\n")
    assert "wings" in refusal(runs.open_run, tmp_path / "run")


def test_folders_with_dots_and_trailing_slashes_are_the_same_run(tmp_path, monkeypatch):
    save(tmp_path / "run", put("a"))
    monkeypatch.chdir(tmp_path / "run")
    assert runs.open_run(type(tmp_path)(".")).path == tmp_path / "run"
    assert issubclass(RunError, Ed2Error)


def test_who_may_read_the_settings_may_read_the_weights(tmp_path):
    def secretive(folder):
        (folder / "weights.bin").write_text("a")
        (folder / "weights.bin").chmod(0o600)

    save(tmp_path / "run", secretive)
    assert len({path.stat().st_mode for path in (tmp_path / "run").iterdir()}) == 1
