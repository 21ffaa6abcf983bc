"""`ed2 bench baselines`: what it reports and how it speaks with the peers. None is installed here, no time asserted."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import baselines, memory, peers
from benchmarks.train import GAMES
from ed2rec.data.dataset import Histories
from ed2rec.errors import ConfigError

PYTHON = Path(sys.executable)


def fake_peer(folder, monkeypatch, body):
    """Stands where benchmarks/peers.py would be run."""
    script = folder / "peer.py"
    script.write_text(body)
    monkeypatch.setattr(peers, "__file__", str(script))


def test_without_peers_ours_is_measured_and_the_figures_say_how_to_add_them():
    found = baselines.run(users=40, items=30, rounds=1, models=("gru4rec",), ranked_users=50)
    assert found["peers"] == baselines.HOW and found["setting"]["users"] == 40
    assert set(found["gru4rec"]) == {"ed2rec"}
    ours = found["gru4rec"]["ed2rec"]
    assert set(ours) == {"targets_per_epoch", "epochs_per_second", "targets_per_second", "users_per_second"}
    histories = baselines.made_up(40, 30)
    assert ours["targets_per_epoch"] == len(histories.flat) - 3 * 40  # two held out, and the first follows nothing
    assert all(value > 0 for value in ours.values())
    assert found["ranking_memory"]["users"] == 50 and found["ranking_memory"]["gru4rec_mib"] >= 0


@pytest.mark.parametrize("name", peers.MODELS)
def test_an_epoch_of_ours_trains_and_counts_its_targets(name):
    histories = baselines.made_up(30, 20)
    ours = baselines.Ours(name, histories, 20)
    before = {key: value.clone() for key, value in ours.learned.model.state_dict().items()}
    first = ours.ask("train")["targets"]
    assert any(not value.equal(before[key]) for key, value in ours.learned.model.state_dict().items())
    assert ours.next_items == len(histories.flat) - 3 * 30
    # BERT4Rec hides one item of each row at least, and has a row for each next item.
    assert first > ours.next_items if name == "bert4rec" else first == ours.next_items
    assert ours.ask("rank")["users"] == 30


def test_figures_of_a_peer_are_medians_and_ratios_within_a_round():
    trained = {"ed2rec": [{"seconds": s, "targets": 60} for s in (1.0, 2.0, 4.0)],
               "cornac": [{"seconds": s, "targets": 30} for s in (3.0, 4.0, 20.0)]}  # fmt: skip
    ranked = {tool: [{"seconds": 0.5, "users": 10}] * 3 for tool in trained}
    found = baselines._summary("cornac", trained, ranked)
    assert found["targets_per_epoch"] == 30 and found["epochs_per_second"] == 0.25
    assert found["targets_per_second"] == 7.5 and found["users_per_second"] == 20
    assert found["ours_times_faster"] == {"epochs": 3.0, "targets": 6.0, "users": 1.0}


def test_beside_cornac_s_gru4rec_ours_is_measured_with_as_narrow_a_state_too():
    rows = {tool: [{"seconds": s, "targets": 60}] * 3
            for tool, s in (("ed2rec", 1.0), (baselines.SAME_SIZE, 0.5), ("cornac", 2.0))}  # fmt: skip
    ranked = {tool: [{"seconds": 0.5, "users": 10}] * 3 for tool in rows}
    found = baselines._summary(baselines.SAME_SIZE, rows, ranked)
    assert found["times_faster_than_cornac"] == {"epochs": 4.0, "targets": 4.0, "users": 1.0}
    assert baselines._summary("cornac", rows, ranked)["ours_times_faster"]["targets"] == 2.0
    narrow, usual = (baselines.model_of("gru4rec", 20, {**baselines.SIZES, "hidden": h}).gru.hidden_size
                     for h in (64, 128))  # fmt: skip
    assert (narrow, usual) == (64, 128)


def test_peers_are_asked_in_turn_with_equal_sizes_and_the_first_round_is_not_counted(tmp_path, monkeypatch):
    fake_peer(tmp_path, monkeypatch, """
import json, os, sys
with open(os.path.join(os.path.dirname(__file__), sys.argv[1] + ".json"), "w") as file:
    file.write(sys.argv[4])
turn = 0
for line in sys.stdin:
    turn += line == "train\\n"
    what = {"targets": 100 * turn} if line == "train\\n" else {"users": 7}
    print(json.dumps({"seconds": 2.0, **what}), flush=True)
""")  # fmt: skip
    histories = baselines.made_up(30, 20)
    baselines.write_histories(tmp_path / "log.npz", histories)
    found = baselines.compare("sasrec", histories, 20, tmp_path / "log.npz", PYTHON, rounds=2)
    assert list(found) == ["ed2rec", "cornac", "recbole"]
    assert found["recbole"]["targets_per_epoch"] == 250 and found["cornac"]["users_per_second"] == 3.5
    assert set(found["cornac"]["ours_times_faster"]) == {"epochs", "targets", "users"}
    given = json.loads((tmp_path / "cornac.json").read_text())
    assert given["batch"] == round(128 * (len(histories.flat) - 90) / 30) and given["samples"] == 20
    assert {key: given[key] for key in baselines.SIZES} == baselines.SIZES


def test_a_peer_that_gives_up_is_quoted(tmp_path, monkeypatch):
    fake_peer(tmp_path, monkeypatch, "raise SystemExit('it lacks scipy')")
    with pytest.raises(ConfigError, match=r"^cornac stopped: it lacks scipy$"):
        baselines.compare("gru4rec", baselines.made_up(20, 20), 20, tmp_path / "log.npz", PYTHON, rounds=1)


def test_a_python_that_is_none_or_has_no_peers_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no Python"):
        baselines.peer_versions(tmp_path / "python")
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {PYTHON} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(ConfigError, match="lacks a peer"):
        baselines.peer_versions(bare)


def test_the_log_comes_back_as_it_was_written(tmp_path):
    baselines.write_histories(tmp_path / "log.npz", Histories.from_lists([[5, 3], [], [3, 3, 8]]))
    user, item, order = peers.read_log(tmp_path / "log.npz")
    assert (user.tolist(), item.tolist(), order.tolist()) == ([0, 0, 2, 2, 2], [5, 3, 3, 3, 8], [0, 1, 0, 1, 2])
    peers.write_atomic(tmp_path / "log" / "log.inter", (user, item, order))
    lines = (tmp_path / "log" / "log.inter").read_text().splitlines()
    assert lines[0] == "user_id:token\titem_id:token\ttimestamp:float"
    assert lines[1:] == ["u0\ti5\t0", "u0\ti3\t1", "u2\ti3\t0", "u2\ti3\t1", "u2\ti8\t2"]


def test_the_peers_script_imports_nothing_of_ours():
    tree = ast.parse(Path(peers.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names and not {name for name in names if name.split(".")[0] in ("ed2rec", "benchmarks")}


@pytest.mark.parametrize("peer", peers.NEEDED)
def test_the_peers_script_says_in_one_line_what_its_python_lacks(peer):
    done = subprocess.run([sys.executable, "-I", "-S", peers.__file__, peer, "sasrec", "log.npz", "{}"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert f" lacks {', '.join(peers.NEEDED[peer])}: docs/benchmarks.md" in done.stderr


def test_histories_as_long_as_those_of_games_have_its_lengths():
    lengths = baselines.as_long_as_games(20_000, 50).lengths - 2
    share = np.bincount(lengths, minlength=61)[3:40] / 20_000
    assert np.abs(share - np.array(GAMES[:-1]) / sum(GAMES)).max() < 0.015
    assert set(lengths[lengths >= 40]) == {60}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="other systems' peaks are told by getrusage")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it():
    ballast = np.ones(3 * 2**27, np.uint8)  # 384 MiB, all touched
    alone = "from benchmarks.memory import peak; print(peak())"
    peak = int(subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True).stdout)
    assert ballast.nbytes < memory.peak() - 2**27 and peak < memory.peak() - 2**28
