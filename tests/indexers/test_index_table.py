"""IndexTable: its health, its file, and the promise that every Indexer keeps."""

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from ed2rec.errors import RunError
from ed2rec.indexers.contract import Indexer, IndexTable
from ed2rec.indexers.lsh import RandomHyperplanes
from ed2rec.indexers.refresh import build, refresh
from ed2rec.indexers.variational import VariationalQuantiser

TABLE = IndexTable(np.array([[0, 1], [0, 1], [0, 2], [3, 1]]), np.array([0, 1, -1, -1]), sizes=(4, 8), version=3)


def test_health_counts_codes_and_collisions():
    health = TABLE.health
    assert health.used == (2, 2)
    # Shares at both levels are 3/4 and 1/4: perplexity = (3/4)^-(3/4) * (1/4)^-(1/4) = 4 / 3^(3/4).
    assert health.perplexity == pytest.approx((4 / 3**0.75,) * 2)
    assert (health.colliding, health.largest_group, health.collision_rate) == (2, 2, 2 / 4)


@pytest.mark.parametrize(
    ("codes", "suffix", "complaint"),
    [
        ([[0, 8]], [-1], "outside"),
        ([[-1, 0]], [-1], "outside"),
        ([[0, 1], [0, 1]], [-1, -1], "same index"),
        ([[0, 1, 2]], [-1], "do not fit"),
        ([[0, 1]], [-1, -1], "do not fit"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(codes, suffix, complaint):
    with pytest.raises(ValueError, match=complaint):
        IndexTable(np.array(codes), np.array(suffix), sizes=(4, 8))


def test_a_table_survives_its_file_in_any_order_of_ids(tmp_path):
    path = tmp_path / "items.parquet"
    TABLE.save(path, ["w", "x", "y", "z"])
    assert [file.name for file in tmp_path.iterdir()] == ["items.parquet"]
    assert pl.read_parquet(path).columns == ["id", "codes", "suffix", "version", "sizes"]
    same, turned = IndexTable.load(path), IndexTable.load(path, ["z", "y", "x", "w"])
    np.testing.assert_array_equal(same.codes, TABLE.codes)
    np.testing.assert_array_equal(turned.codes, TABLE.codes[::-1])
    np.testing.assert_array_equal(turned.suffix, TABLE.suffix[::-1])
    assert (same.sizes, same.version) == ((4, 8), 3)


@pytest.mark.parametrize("content", [None, b"not parquet", "other columns", "other ids", "empty"])
def test_a_file_that_is_no_such_table_gets_one_line(tmp_path, content):
    path = tmp_path / "items.parquet"
    if content == "other columns":
        pl.DataFrame({"id": ["a"]}).write_parquet(path)
    elif content == "other ids":
        TABLE.save(path, ["w", "x", "y", "z"])
    elif content == "empty":
        pl.DataFrame({"id": [], "codes": [], "suffix": [], "version": [], "sizes": []}).write_parquet(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError) as caught:
        IndexTable.load(path, ["w", "other"])
    assert "\n" not in str(caught.value) and "items.parquet" in str(caught.value) and "ed2 train" in str(caught.value)


def test_a_failed_save_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "items.parquet"
    TABLE.save(path, ["w", "x", "y", "z"])
    old = path.read_bytes()

    def full_disk(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full_disk)
    with pytest.raises(OSError, match="No space left"):
        TABLE.save(path, ["a", "b", "c", "d"])
    assert path.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


class IndexerContract:
    """What every Indexer promises; a member says how to make one for 12-dimensional embeddings."""

    def make(self) -> Indexer:
        raise NotImplementedError

    @pytest.fixture
    def embeddings(self):
        return torch.randn(90, 12, generator=torch.Generator().manual_seed(0))

    @pytest.fixture
    def indexer(self, embeddings):
        torch.manual_seed(0)
        indexer = self.make()
        indexer.initialise(embeddings, seed=0)
        return indexer

    def test_codes_lie_within_the_sizes(self, indexer, embeddings):
        codes = indexer.codes(embeddings)
        assert codes.shape == (90, len(indexer.sizes)) and codes.dtype == torch.int64
        assert (codes >= 0).all() and (codes < torch.tensor(indexer.sizes)).all()

    def test_codes_depend_on_nothing_but_the_embedding(self, indexer, embeddings):
        codes = indexer.codes(embeddings)
        torch.manual_seed(99)
        assert torch.equal(indexer.codes(embeddings), codes)
        order = torch.randperm(90)
        assert torch.equal(indexer.codes(embeddings[order]), codes[order])
        assert torch.equal(torch.cat([indexer.codes(row[None]) for row in embeddings]), codes)

    def test_the_same_seed_starts_the_same_indexer(self, indexer, embeddings):
        torch.manual_seed(0)
        again = self.make()
        again.initialise(embeddings, seed=0)
        assert torch.equal(again.codes(embeddings), indexer.codes(embeddings))

    def test_a_walk_without_memory_is_the_argmax_of_its_logits(self, indexer, embeddings):
        codes, logits = indexer.walk(embeddings)
        assert torch.equal(codes, indexer.codes(embeddings))
        assert torch.equal(codes, torch.stack([level.argmax(-1) for level in logits], 1))

    def test_a_walk_with_infinite_margins_keeps_everything(self, indexer, embeddings):
        keep = torch.stack([torch.randint(size, (90,)) for size in indexer.sizes], 1)
        assert torch.equal(indexer.walk(embeddings, keep, [float("inf")] * len(indexer.sizes))[0], keep)

    def test_tables_are_built_and_refreshed_from_it(self, indexer, embeddings):
        table = build(indexer, embeddings)
        again, churn = refresh(indexer, embeddings, table)
        np.testing.assert_array_equal(again.codes, table.codes)
        assert churn.total == 0 and again.version == table.version + 1

    def test_its_weights_are_all_of_its_state(self, indexer, embeddings):
        other = self.make()
        assert isinstance(indexer, nn.Module) and isinstance(other, nn.Module)
        other.load_state_dict(indexer.state_dict())
        assert torch.equal(other.codes(embeddings), indexer.codes(embeddings))


class TestVariationalQuantiser(IndexerContract):
    def make(self):
        return VariationalQuantiser(12, code_width=6, sizes=(4, 8, 8))


class TestVariationalQuantiserWithHiddenLayersAndCosines(IndexerContract):
    def make(self):
        return VariationalQuantiser(12, hidden=(10, 8), code_width=6, sizes=(8, 8), distance="cosine")


class TestRandomHyperplanes(IndexerContract):
    def make(self):
        return RandomHyperplanes(12, bits=3, levels=4)
