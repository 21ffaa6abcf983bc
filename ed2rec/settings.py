"""What can be set: groups of values with their defaults, ranges and meanings, one line and one docstring each.

The docstring under a field is its documentation (`config.explain`); its name is what `--set group.name=value` takes.
The defaults suit a small LLM trained from scratch on two cores; presets/ holds what differs elsewhere.
"""

from __future__ import annotations

from typing import Literal

import yaml
from pydantic import Field, PositiveInt

from ed2rec import baseline_settings as baselines
from ed2rec.setting_group import Group


class DataSettings(Group):
    max_history: int = Field(default=20, ge=1, le=1000)
    """Items of history shown to the model, the latest ones."""
    max_characters: int = Field(default=512, ge=16)
    """Longest text of an item or user that is read; the rest is cut."""


class BackboneSettings(Group):
    name: str = "tiny"
    """tiny (built here from the corpus), or a Hugging Face name or folder (`ed2 data fetch smollm2-135m` makes one)."""
    layers: int | None = Field(default=None, ge=1)
    """Keep the first so many layers; none keeps all (tiny: 4). The presets small and medium have 2, which is tiny's."""
    prune_vocabulary: bool = True
    """Keep only the tokens that the corpus and the instructions use (pretrained backbones)."""
    vocabulary: int = Field(default=4096, ge=300)
    """Word pieces that tiny learns from the corpus."""
    hidden: int = Field(default=128, ge=8)
    """Width of tiny."""
    heads: int = Field(default=4, ge=1)
    """Attention heads of tiny; must divide its width."""
    intermediate: int = Field(default=384, ge=8)
    """Width of tiny's feed-forward layers."""
    untie: bool = True
    """Give the head rows of its own where it shares the embedding's: a tied head favours what the history shows."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of the LoRA adapters; 0 trains all weights (LC-Rec: 8)."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """Adapters are scaled by lora_alpha / lora_rank (LC-Rec: 32)."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout before the adapters (LC-Rec: 0.05)."""
    lora_targets: tuple[str, ...] = ("all-linear",)
    """Linear layers that get adapters, by the last part of their name, such as [q_proj, v_proj]; all-linear: all."""
    load_in_4bit: bool = False
    """Hold the frozen weights in four bits: needs lora_rank > 0 and the extra ed2rec[gpu]; slow on a CPU."""


class EncodingSettings(Group):
    pooling: Literal["mean", "last"] = "mean"
    """How token states become one text embedding (Eq. 2: mean)."""
    layer: int | None = None
    """Whose states are pooled: 0 the token embeddings, -1 the last layer; none: 0 for tiny (untrained), else -1."""
    whiten: bool = True
    """Centre and whiten the embeddings: mean-pooled causal states share one large direction."""
    max_tokens: int = Field(default=128, ge=4)
    """Tokens of a text that the backbone reads."""
    cache: str | None = None
    """Folder of the embedding cache; none: $ED2_CACHE, else ed2rec in $XDG_CACHE_HOME or ~/.cache."""


class IndexerSettings(Group):
    kind: Literal["hvqae", "lsh"] = "hvqae"
    """What makes the indices: hvqae, the generator that learns along, or lsh, random hyperplanes (appendix I; sizes are
    then equal powers of two). With refreshes, lsh hashes the texts as the LLM reads them at that moment."""
    items: tuple[PositiveInt, ...] = Field(default=(256, 256, 256, 256), min_length=1, max_length=15)
    """Codes per level of the item index."""
    users: tuple[PositiveInt, ...] = Field(default=(256, 256, 256, 256), max_length=15)
    """Codes per level of the user index; empty leaves the user branch out."""
    code_width: int = Field(default=64, ge=2)
    """Width of a codeword (appendix G: 64)."""
    hidden: tuple[int, ...] = ()
    """Widths of the encoder between text embedding and codeword, mirrored by the decoder; none: one linear map."""
    latent: Literal["vmf", "gaussian", "none"] = "vmf"
    """Distribution of the latent at each level (Eq. 3: von Mises-Fisher)."""
    separate: bool = True
    """Move entities with the same codes apart at the last level where a code is free; the rest gets a suffix."""
    user_reads: Literal["half", "all"] = "half"
    """What the user index of training is made from: the first half of a user's training items, so that it cannot give
    the later ones, its targets, away; or all of them. A profile that the source states is read as it is.
    Recommendations always use all."""
    warmup_epochs: int = Field(default=10, ge=0)
    """Passes over all entities before the LLM joins."""
    warmup_lr: float = Field(default=1e-3, gt=0, le=1)
    """Learning rate while the indexer trains alone."""
    behaviour: float = Field(default=1.0, ge=0)
    """Weight, beside a text's 1, of what the LLM has learned from behaviour about an item (the states from which it
    asks for it). Where the index begins to move it is made anew from both; 0: from texts alone, always."""
    lr: float = Field(default=1e-4, ge=0, le=1)
    """Learning rate of the indexer in joint training; 0 freezes it: a static index, with lsh too."""
    min_perplexity: float = Field(default=0.02, ge=0, lt=1)
    """Training stops where a level uses less than this share of its codes: 0 is all entities on one code (and turns the
    check off), 1 all codes alike."""


class TrainingSettings(Group):
    epochs: float = Field(default=10, gt=0)
    """Passes over the training targets in joint training; a part of one is a random part, whose shares of the tasks are
    only about those of `tasks.share`."""
    batch_tokens: int = Field(default=4096, ge=64)
    """Tokens in one step, after packing."""
    lr: float = Field(default=1e-3, gt=0, le=1)
    """Peak learning rate of the LLM."""
    weight_decay: float = Field(default=0.05, ge=0, le=10)
    """AdamW's decoupled weight decay."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability spread over the level's codes."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout on embeddings and residuals."""
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on attention weights."""
    user_dropout: float = Field(default=0.3, ge=0, le=1)
    """How often an example's user index is replaced by the unknown user."""
    neighbours: float = Field(default=1.0, ge=0)
    """Walks of the similarity task per item of the catalogue and epoch, as many as fit beside real histories, which
    have at least half of the tokens; 0 leaves the task out, as the paper does."""
    instruction: Literal["open", "question"] = "open"
    """open: wordings that end with the history; question: the paper's and more, asked behind it (needs dense=false)."""
    dense: bool = True
    """Supervise every history position in one pass; false trains one example per prefix."""
    pack: bool = True
    """Fill each sequence with several examples; false pads."""
    fixed_start: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps, at the start, in which the LLM learns the warm-up's index before that begins to move; less
    than 1 together with frozen_tail, unless the index is static."""
    refreshes: int = Field(default=2, ge=0)
    """How often the index tables are recomputed in joint training; 0 keeps the warm-up's: a static index."""
    frozen_tail: float = Field(default=0.7, ge=0, le=1)
    """Share of the steps, at the end, in which the index no longer moves."""
    margin: float = Field(default=1.0, ge=0)
    """How much better, in logits, another code has to be before an entity moves (hysteresis)."""
    max_share: float = Field(default=0.05, ge=0, le=1)
    """Largest share of entities that may move in one refresh, those with the largest gain first."""
    gradient: Literal["input_st", "none"] = "input_st"
    """Whether the recommendation loss reaches the indexer through history and user tokens."""
    validations: int = Field(default=8, ge=0)
    """How often the validation NDCG is measured on the way."""
    validation_users: int = Field(default=1000, ge=1)
    """Users in those measurements, the first ones; the final figure takes all."""
    checkpoints: int = Field(default=4, ge=0)
    """How often the state is saved on the way, so that --resume can go on from there."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third slower."""
    compile: bool = False
    """Compile the LLM's layers for training (torch.compile): about a minute once, then faster steps on a GPU, which a
    deep, narrow LLM keeps waiting otherwise."""
    bf16: bool | Literal["auto"] = "auto"
    """bfloat16 for the LLM; auto: where the processor computes in it."""
    device: str = "auto"
    """cpu or cuda, of which CUDA_VISIBLE_DEVICES says which comes first; auto takes the first accelerator."""
    report_to: tuple[str, ...] = ()
    """Experiment trackers of transformers.Trainer: tensorboard, mlflow, wandb."""


class TaskSettings(Group):
    use: Literal["auto", "alignment"] | tuple[str, ...] = "auto"
    """Tasks beside the sequential one (§2.4): auto takes all that the dataset has texts for, alignment those of them
    that tie an item to its texts (title, description, find, find-described), [] none; or a list of these names and
    copurchase, comment, query, preference."""
    share: float = Field(default=0.5, ge=0, le=0.5)
    """Largest share of the tokens for these tasks together; they have the same part of it each. Real histories have at
    least half, so that 0.5 leaves no room for the walks of `training.neighbours`."""
    substitutes: bool = True
    """Make up queries and preferences from titles, summaries and histories where the source has none."""
    prompts: str | None = None
    """YAML file with other wordings, task → list; none: ours and the paper's (App. D). Those of the task sequential end
    with {history}, or with {item} under training.instruction=question."""
    max_tokens: int = Field(default=48, ge=1)
    """Tokens of a text that is shown or asked for in such a task; the rest is cut."""


class RegulatorSettings(Group):
    beta1: float = Field(default=0.5, ge=0)
    """Weight of L_ID (Eq. 8, 11); the paper asks for beta1 < beta2."""
    beta2: float = Field(default=1.0, ge=0)
    """Weight of L_Token (Eq. 9, 11)."""
    reconstruction: float = Field(default=1.0, ge=0)
    """Weight of the indexer's own losses in joint training; 0 is Eq. 11 to the letter."""
    temperature: float = Field(default=0.07, gt=0)
    """Temperature of both contrasts; the paper prints none."""
    literal: bool = False
    """Equations 8 to 10 as printed: no logarithm, no temperature, weights of either sign (0.001 away from zero)."""


class DecodingSettings(Group):
    beam: int = Field(default=20, ge=1)
    """Beams per user."""
    normalise: Literal["level", "vocabulary"] = "level"
    """What a code's probability is normalised over, in training and decoding: its level's codes or every token."""
    prior: float = Field(default=0.0, ge=0)
    """Weight of what the texts of the last items say about the next one, beside the LLM's log-probability
    (`prior.py`); 0 as in the paper. A run keeps what it was trained with."""
    prior_items: int = Field(default=2, ge=1)
    """How many of the last items the prior reads."""


class Settings(Group):
    """Everything that decides what a run becomes, except the data."""

    model: str = "ed2"
    """Which recommender is trained; a wrong name lists all."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of every random choice."""
    split: Literal["leave-one-out", "global-time"] = "leave-one-out"
    """What is held out: each user's last two items (the protocol), or, for a baseline, all that happens after a moment
    which is the same for everybody (`data/splits.py`): reported beside the protocol, never instead of it."""
    data: DataSettings = DataSettings()
    backbone: BackboneSettings = BackboneSettings()
    encoding: EncodingSettings = EncodingSettings()
    indexer: IndexerSettings = IndexerSettings()
    training: TrainingSettings = TrainingSettings()
    tasks: TaskSettings = TaskSettings()
    regulator: RegulatorSettings = RegulatorSettings()
    decoding: DecodingSettings = DecodingSettings()
    baseline: baselines.BaselineSettings = baselines.BaselineSettings()
    fmlprec: baselines.FmlpRecSettings = baselines.FmlpRecSettings()
    caser: baselines.CaserSettings = baselines.CaserSettings()
    hgn: baselines.HgnSettings = baselines.HgnSettings()
    gru4rec: baselines.Gru4RecSettings = baselines.Gru4RecSettings()
    srgnn: baselines.SrGnnSettings = baselines.SrGnnSettings()
    magnn: baselines.MaGnnSettings = baselines.MaGnnSettings()
    bert4rec: baselines.Bert4RecSettings = baselines.Bert4RecSettings()
    sasrec: baselines.TransformerSettings = baselines.TransformerSettings()
    fdsa: baselines.FdsaSettings = baselines.FdsaSettings()
    s3rec: baselines.S3RecSettings = baselines.S3RecSettings()
    narm: baselines.NarmSettings = baselines.NarmSettings()
    attrec: baselines.AttRecSettings = baselines.AttRecSettings()
    itemknn: baselines.ItemKnnSettings = baselines.ItemKnnSettings()
    markov: baselines.MarkovSettings = baselines.MarkovSettings()
    textknn: baselines.TextKnnSettings = baselines.TextKnnSettings()

    def to_yaml(self) -> str:
        """The resolved copy; `resolve(file=…)` reads it back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @property
    def pretraining(self) -> int:
        """Epochs before those that are validated."""
        return self.s3rec.pretraining if self.model == "s3rec" else 0
