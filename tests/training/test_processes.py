"""Several processes train what one process trains. The last test starts two; the others look into one of them."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from small import World, example, joint_world, shop, small_settings
from torch import Tensor

from ed2rec import terminal, workflow
from ed2rec.config import resolve
from ed2rec.environment import launched
from ed2rec.errors import ConfigError, RunError
from ed2rec.instructions.examples import Batch
from ed2rec.model import JointOutput, Share
from ed2rec.training.processes import Processes
from ed2rec.training.workspace import clear, go_on_from, record_of

ROWS = [
    [example([0, 1, 2, 3], user=2), example([5, 7])],
    [example([8, 3, 10], user=1, first=2)],
    [example([4] * 5, user=4)],
]


def step(world: World, batch: Batch, share: Share | None) -> tuple[JointOutput, dict[str, Tensor], Tensor]:
    """Losses, gradients and the random state after one pass in training mode."""
    model = world.model.train()
    model.share = share
    model.zero_grad()
    torch.manual_seed(7)
    out = model(batch)
    out.loss.backward()
    gradients = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
    }
    return out, gradients, torch.get_rng_state()


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_gradients_averaged_over_the_shares_are_those_of_the_whole_batch(count, moving):
    """Rows with 7, 3 and 12 supervised tokens, and for five processes two of them that have no row at all."""
    world = joint_world()
    world.model.moving = moving
    batch = world.batch(*ROWS)
    whole, expected, _ = step(world, batch, None)
    parts = [step(world, batch, Share(rank, count, rank)) for rank in range(count)]
    for name, value in whole.losses.items():
        shares = torch.stack([out.losses[name] for out, _, _ in parts])
        torch.testing.assert_close(shares.mean(), value)
        if name != "llm":
            assert torch.equal(shares, shares[:1].expand(count)), "what mixes entities is the whole batch's everywhere"
    for name, gradient in expected.items():
        torch.testing.assert_close(
            torch.stack([part[name] for _, part, _ in parts]).mean(0), gradient, rtol=1e-4, atol=1e-6
        )
    assert all(out.targets == whole.targets for out, _, _ in parts)


def test_processes_drop_differently_and_draw_the_same():
    """Two rows alike: their losses differ by what was dropped. Latents and L_ID's entities come from one stream."""
    world = joint_world(dropout=0.3)
    batch = world.batch(ROWS[0], ROWS[0])
    (one, _, after), (other, _, later) = (step(world, batch, Share(rank, 2, seed=rank)) for rank in (0, 1))
    dropped = {"llm", "index_item", "index_user"}
    assert {name for name in one.losses if one.losses[name] != other.losses[name]} == dropped & one.losses.keys()
    assert torch.equal(after, later)
    world.model.dropout, world.model.align = 0.0, 2
    (one, _, _), (other, _, _) = (step(world, batch, Share(rank, 2, seed=rank)) for rank in (0, 1))
    assert one.losses.keys() >= {"index_item"} and one.losses == other.losses


def test_one_process_agrees_with_itself():
    alone = Processes("cpu")
    assert (alone.rank, alone.count, alone.first) == (0, 1, True)
    assert alone.tell(lambda: 3) == 3 and alone.mean({"a": 2.0}, 5) == {"a": 2.0}
    alone.wait()


@pytest.fixture
def second_of_two(monkeypatch):
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == (1, 2)


def test_only_the_first_process_speaks(second_of_two, capsys):
    terminal.say("done")
    with terminal.progress() as progress:
        progress("training", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_baseline_wants_one_process_and_one_gpu_is_not_for_two(second_of_two, tmp_path):
    with pytest.raises(ConfigError, match="popularity is fitted by one process, not by 2"):
        workflow.train(tmp_path, tmp_path / "run", resolve(extra={"model": "popularity"}))
    with pytest.raises(ConfigError, match=r"training\.device=cuda:1 for 2 processes: leave it auto"):
        Processes("cuda:1")


def test_there_are_no_more_processes_than_gpus(second_of_two, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"2 processes on a machine with 1 GPU: .* training\.device=cpu"):
        Processes()


def test_a_training_goes_on_with_as_many_processes_as_it_began_with(tmp_path):
    settings, dataset = small_settings(), shop()
    clear(tmp_path / "w", record_of(settings, dataset, 2))
    (tmp_path / "w/checkpoint-1").mkdir()
    (tmp_path / "w/checkpoint-1/complete").touch()
    assert go_on_from(tmp_path / "w", record_of(settings, dataset, 2)).name == "checkpoint-1"
    with pytest.raises(RunError, match="'# processes 2', now '# processes 1'"):
        go_on_from(tmp_path / "w", record_of(settings, dataset, 1))


LAUNCHER = """
import os, sys
import ed2rec.training.pipeline  # once for both: most of a small training is the import of its libraries
from ed2rec.cli import run_command

children = []
for rank in "01":
    children.append(os.fork())
    if children[-1] == 0:
        code = 1
        try:
            os.environ.update(RANK=rank, LOCAL_RANK=rank)
            said = os.open(f"said-{rank}", os.O_WRONLY | os.O_CREAT)
            os.dup2(said, 1), os.dup2(said, 2)
            code = run_command(sys.argv[1:])
        finally:
            os._exit(code)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children) > 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the launcher of this test forks")
@pytest.mark.parametrize("more", [
    # The index made anew is fitted to fifteen items and may meet a near tie that 3e-7 of the states decide, in one
    # process too: with four seeds of nine it meets none. The adapters' index is not made anew.
    ("seed=3",),
    ("backbone.lora_rank=2", "backbone.lora_dropout=0", "training.gradient_checkpointing=true", "indexer.behaviour=0"),
    ("indexer.kind=lsh", "indexer.users=[4, 4]", "encoding.layer=-1", "training.max_share=1"),
], ids=["whole", "adapters", "hashes"])  # fmt: skip
def test_two_processes_take_the_course_of_one(tmp_path, more):
    """As `torchrun --nproc_per_node 2 -m ed2rec train …` starts them: with the same variables."""
    shop().save(tmp_path / "shop")
    settings = small_settings("training.dropout=0", *more)
    (tmp_path / "settings.yaml").write_text(settings.to_yaml())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    launch["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # the command line sets it, here after the import that reads it
    command = [sys.executable, "-c", LAUNCHER, "train", "shop", "--out", "two", "--config", "settings.yaml"]
    both = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **launch})
    one = workflow.train(tmp_path / "shop", tmp_path / "one", settings).path
    code = both.wait()
    said = [(tmp_path / f"said-{rank}").read_text() for rank in (0, 1)]
    assert code == 0, said
    assert "ed2 is in two" in said[0] and said[1] == ""
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["one", "said-0", "said-1", "settings.yaml", "shop", "two"]
    two = tmp_path / "two"
    for file in ("model/model.safetensors", "indexer.safetensors"):
        ours, theirs = load_file(one / file), load_file(two / file)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if name.startswith("item.quantiser"):
                # Fifteen texts span fourteen of sixteen directions: a unit that sees nothing but rounding has AdamW's
                # full steps all the same, and goes astray.
                assert ((theirs[name] - value).abs() > 1e-4).float().mean() <= 1 / settings.backbone.hidden, name
            else:
                torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-5)
    for kind in ("items", "users"):
        assert pl.read_parquet(one / f"index/{kind}.parquet").equals(pl.read_parquet(two / f"index/{kind}.parquet"))
    curves = [json.loads((run / "metrics.json").read_text())["history"] for run in (one, two)]
    churn = [entry["churn"]["codes"] for entry in curves[0] if "churn" in entry]
    assert len(churn) == (5 if "seed=3" in more else 4) and (max(churn) > 0) == ("backbone.lora_rank=2" not in more)
    assert sum("valid" in entry for entry in curves[0]) == 3
    assert_alike(*curves)


def assert_alike(one: object, other: object) -> None:
    """Equal but for rounding."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_alike(mine, theirs)
    elif isinstance(one, float):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    else:
        assert one == other
