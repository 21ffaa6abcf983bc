"""What can be set for the baselines: one group that all learned ones share, and one for what a model has of its own.

`--model NAME` starts from the preset of that name: RecBole's sizes, those of its paper, or what we found better, as its
first lines say; presets NAME-DATASET hold what a search found (`ed2 tune`). With a baseline, `--set epochs=1` is short
for `--set baseline.epochs=1`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ed2rec.setting_group import Group

FLOORS = ("popularity", "itemknn", "markov", "textknn")
"""Counted, not trained."""
LEARNED = (
    "fmlprec", "caser", "hgn", "gru4rec", "srgnn", "magnn", "bert4rec", "sasrec", "fdsa", "s3rec", "narm", "attrec",
)  # fmt: skip
"""Trained by gradient steps; each has a preset of its name."""


class BaselineSettings(Group):
    epochs: int = Field(default=200, ge=1)
    """Most passes over the training targets."""
    patience: int = Field(default=10, ge=1)
    """Training stops after so many epochs without a better validation NDCG@10."""
    batch: int = Field(default=128, ge=1)
    """Histories in one step: a user's whole history where the model learns from all of it, else one per target."""
    lr: float = Field(default=1e-3, gt=0, le=1)
    """Learning rate of AdamW."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """AdamW's decoupled weight decay: a step shrinks each weight by this times lr, so 1 is not much, 0.001 nothing."""
    width: int = Field(default=64, ge=2)
    """Width of the item embeddings."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout, where the model's paper has it."""
    tied: bool = True
    """Score with the item embeddings, in the models whose papers do; false: with a table of its own."""
    prior: float = Field(default=0.0, ge=0)
    """Weight of what titles and brands of the last items say about the next one, beside the model's log-probability
    (`prior.py`), also where validation chooses the best epoch; 0 as in the papers. Meant for loss=softmax, whose scores
    are logits."""
    prior_items: int = Field(default=2, ge=1)
    """How many of the last items the prior reads."""
    max_history: int = Field(default=50, ge=1, le=1000)
    """Items of history that are read, the latest ones."""
    loss: Literal["softmax", "own"] = "softmax"
    """softmax: cross-entropy over the whole catalogue; own: what the model's paper trains with."""
    negatives: int | None = Field(default=None, ge=1)
    """Sampled negatives per target where the loss has any; none: as many as in the model's paper (GRU4Rec's, which
    takes the other items of its batch: 1)."""
    bf16: bool | Literal["auto"] = "auto"
    """bfloat16 in the model, not in loss and ranking; auto: on a GPU that computes in it."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes the first accelerator."""


class TransformerSettings(Group):
    layers: int = Field(default=2, ge=1)
    """Transformer blocks."""
    heads: int = Field(default=2, ge=1)
    """Attention heads; must divide baseline.width."""
    inner: int = Field(default=256, ge=1)
    """Width of the feed-forward layers."""


class FdsaSettings(TransformerSettings):
    titles: bool = False
    """Read the words of titles too, beside categories and brands: those of five items or more."""


class Bert4RecSettings(TransformerSettings):
    masked: float = Field(default=0.2, gt=0, lt=1)
    """Share of a history's items that are hidden and asked for."""
    only_last: float = Field(default=0.5, ge=0, le=1)
    """Share of the histories in which only the last item is hidden, as when recommending."""


class S3RecSettings(TransformerSettings):
    masked: float = Field(default=0.2, gt=0, lt=1)
    """Share of a history's items that are hidden in pre-training."""
    pretraining: int = Field(default=100, ge=0)
    """Epochs of pre-training, before baseline.epochs and not among them: most of the time of a short run."""


class FmlpRecSettings(Group):
    layers: int = Field(default=2, ge=1)
    """Filter blocks."""
    inner: int = Field(default=256, ge=1)
    """Width of the feed-forward layers."""


class CaserSettings(Group):
    window: int = Field(default=5, ge=1)
    """Latest items that are looked at."""
    vertical: int = Field(default=4, ge=1)
    """Vertical filters."""
    horizontal: int = Field(default=16, ge=1)
    """Horizontal filters of each height."""


class HgnSettings(Group):
    window: int = Field(default=5, ge=1)
    """Latest items that are looked at."""


class RecurrentSettings(Group):
    hidden: int = Field(default=128, ge=1)
    """Width of the recurrent state."""
    layers: int = Field(default=1, ge=1)
    """Recurrent layers."""


class Gru4RecSettings(RecurrentSettings):
    dropout_state: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the recurrent state; baseline.dropout is that of the items."""


class NarmSettings(RecurrentSettings):
    dropout_context: float = Field(default=0.5, ge=0, lt=1)
    """Dropout of what the attention has gathered; baseline.dropout is that of the items."""


class SrGnnSettings(Group):
    steps: int = Field(default=1, ge=1)
    """Propagations over the graph of a history."""


class MaGnnSettings(Group):
    window: int = Field(default=5, ge=1)
    """Latest items, the short term; the items before them are the long term."""
    steps: int = Field(default=2, ge=1)
    """Propagations over the items of the window."""
    heads: int = Field(default=20, ge=1)
    """Attention heads over the long term."""
    units: int = Field(default=20, ge=1)
    """Slots of the memory."""


class AttRecSettings(Group):
    window: int = Field(default=5, ge=1)
    """Latest items that are looked at."""
    omega: float = Field(default=0.3, ge=0, le=1)
    """Weight of the long-term taste beside that of the window."""


class ItemKnnSettings(Group):
    neighbours: int = Field(default=100, ge=1)
    """Neighbours kept per item."""
    shrinkage: float = Field(default=50.0, ge=0)
    """Added to the denominator of the cosine: how little a similarity that few users speak for is trusted."""
    last: int = Field(default=5, ge=0)
    """Items of the history, the latest, whose neighbours are recommended; 0: all."""


class MarkovSettings(Group):
    smoothing: float = Field(default=1.0, gt=0)
    """Weight of popularity beside the transitions that were counted."""


class TextKnnSettings(Group):
    last: int = Field(default=3, ge=1)
    """Items of the history, the latest, whose neighbours are recommended."""
