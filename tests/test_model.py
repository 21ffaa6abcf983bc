"""The joint model: what packing, dense supervision and the straight-through route must not change, and where the
gradient of the recommendation loss goes."""

from functools import partial

import numpy as np
import pytest
import torch
from small import World, example, joint_world, suffixed
from torch import Tensor, nn
from torch._inductor.exc import TritonMissing

from ed2rec.adaptation import check_compiler, compile_errors_explained, compile_layers, keep_less
from ed2rec.backbone import layers_of
from ed2rec.decoding import constrained_beam_search, exact_scores
from ed2rec.errors import ConfigError
from ed2rec.indexers.contract import IndexTable
from ed2rec.instructions.examples import ITEM, USER, Batch, prompt
from ed2rec.instructions.sequential import before
from ed2rec.model import JointOutput, _block_causal
from ed2rec.regulator import Regulator
from ed2rec.trie import Trie

LLMS = ["llama", "llama-tied", "gpt2"]
OFF = Regulator(0, 0)
EXAMPLES = [
    example([0, 1, 2, 3], user=2), example([5, 7]), example([8, 3, 10], user=1, first=2), example([4] * 5, user=4),
]  # fmt: skip


def states(world: World, batch: Batch) -> Tensor:
    """(R, T, H) as the losses see them, the generators' route included."""
    model = world.model
    return model._states(batch, model._entities(batch))


def cross_entropies(world: World, batch: Batch) -> Tensor:
    """(R, T) the loss at every supervised position, 0 elsewhere; computed by a loop over positions."""
    model, hidden = world.model, states(world, batch)
    found = torch.zeros(batch.labels.shape)
    for r, t in torch.nonzero(batch.labels >= 0).tolist():
        columns = model.vocabulary.slice_of("item", int(batch.label_level[r, t]))
        logits = model.llm.get_output_embeddings()(hidden[r, t])[columns]
        found[r, t] = -logits.log_softmax(-1)[int(batch.labels[r, t]) - columns.start]
    return found


# What must not change anything.


@pytest.mark.parametrize("llm", LLMS)
def test_an_example_in_a_packed_row_has_the_states_and_losses_that_it_has_alone(llm):
    world = joint_world(llm=llm)
    packed = world.batch(EXAMPLES[:3], EXAMPLES[3:])
    hidden, losses = states(world, packed), cross_entropies(world, packed)
    row, start = 0, 0
    for number, alone in enumerate(EXAMPLES):
        batch = world.batch([alone])
        length = batch.input_ids.shape[1]
        if number == 3:
            row, start = 1, 0
        part = slice(start, start + length)
        torch.testing.assert_close(hidden[row, part], states(world, batch)[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(losses[row, part], cross_entropies(world, batch)[0], rtol=1e-4, atol=1e-4)
        start += length


def test_the_loss_of_a_batch_is_the_mean_over_the_supervised_tokens_of_its_examples():
    world = joint_world(regulator=OFF)
    packed = world.batch(EXAMPLES[:3], EXAMPLES[3:])
    found = world.model(packed).losses["llm"]
    parts = [cross_entropies(world, world.batch([alone])) for alone in EXAMPLES]
    count = sum(int((world.batch([alone]).labels >= 0).sum()) for alone in EXAMPLES)
    torch.testing.assert_close(found, sum(part.sum() for part in parts) / count, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("llm", LLMS)
def test_one_dense_pass_says_what_one_example_per_prefix_says(llm):
    world = joint_world(llm=llm)
    items = [0, 6, 2, 12, 4, 6]
    dense = cross_entropies(world, world.batch([example(items, user=1)]))[0]
    prefixes = [
        cross_entropies(world, world.batch([example(items[: target + 1], user=1, first=target)]))[0]
        for target in range(1, len(items))
    ]
    torch.testing.assert_close(
        dense[dense != 0], torch.cat([part[part != 0] for part in prefixes]), rtol=1e-4, atol=1e-4
    )


def test_a_later_item_changes_nothing_before_it():
    world = joint_world(separate=True)
    one, other = (world.batch([example([3, 4, 5, last], user=1)]) for last in (6, 7))
    changed = torch.nonzero(one.input_ids[0] != other.input_ids[0])[0].item()
    torch.testing.assert_close(states(world, one)[0, :changed], states(world, other)[0, :changed], rtol=1e-5, atol=1e-5)
    assert changed >= one.input_ids.shape[1] - 3


def test_segments_and_padding_cannot_see_each_other():
    world = joint_world()
    rows = [([example([first, 2], user=1), example([3, 4])], [example([1, 2, 3, 4])]) for first in (5, 9)]
    one, other = (world.batch(*row) for row in rows)
    second = one.segment[0] == 2
    torch.testing.assert_close(states(world, one)[0, second], states(world, other)[0, second], rtol=1e-5, atol=1e-5)
    assert states(world, one).isfinite().all()


@pytest.mark.parametrize("normalise", ["level", "vocabulary"])
@pytest.mark.parametrize("llm", LLMS)
def test_the_loss_of_a_target_is_minus_the_score_that_decoding_gives_it(llm, normalise):
    world = joint_world(llm=llm, normalise=normalise, regulator=OFF)
    model, history = world.model, [2, 9, 4]
    asked = prompt(world.asked[0], before(3, np.array(history)), world.index)
    scores = exact_scores(model.llm, model.vocabulary, model.items.table, [asked], normalise)[0]
    assert len(suffixed(model.items.table)) > 2, "suffixes count too"
    for target in range(15):
        batch = world.batch([example([*history, target], user=3, first=3)])
        tokens = int((batch.labels >= 0).sum())
        assert float(model(batch).losses["llm"].detach() * tokens) == pytest.approx(-scores[target], abs=2e-4)


def test_label_smoothing_spreads_over_the_level_s_codes():
    sharp, smooth = (joint_world(regulator=OFF, label_smoothing=share) for share in (0.0, 0.2))
    batch = sharp.batch([example([0, 5], user=1)])
    hidden = states(smooth, batch)
    expected = []
    for t in torch.nonzero(batch.labels[0] >= 0)[:, 0].tolist():
        columns = smooth.model.vocabulary.slice_of("item", int(batch.label_level[0, t]))
        chances = smooth.model.llm.get_output_embeddings()(hidden[0, t])[columns].log_softmax(-1)
        expected.append(-0.8 * chances[int(batch.labels[0, t]) - columns.start] - 0.2 * chances.mean())
    torch.testing.assert_close(smooth.model(batch).losses["llm"], torch.stack(expected).mean(), rtol=1e-4, atol=1e-4)


def test_a_head_with_a_bias_is_trained_as_it_is_decoded():
    world = joint_world(regulator=OFF)
    head = world.model.llm.get_output_embeddings()
    head.bias = nn.Parameter(torch.randn(len(head.weight)))
    asked = prompt(world.asked[0], before(-1, np.array([2, 9])), world.index)
    score = exact_scores(world.model.llm, world.model.vocabulary, world.model.items.table, [asked])[0, 6]
    batch = world.batch([example([2, 9, 6], first=2)])
    loss = world.model(batch).losses["llm"].detach()
    assert float(loss * (batch.labels >= 0).sum()) == pytest.approx(-score, abs=2e-4)


# The route of the gradient.


def recommendation_gradient(world: World, batch: Batch) -> dict[str, Tensor]:
    """Gradient of L_LLM alone for the text embeddings of items and users and for the generators' parameters."""
    model = world.model
    for branch in model.branches():
        branch.embeddings = branch.embeddings.detach().requires_grad_(True)
    loss = model(batch).losses["llm"]
    inputs = {f"{branch.kind} embeddings": branch.embeddings for branch in model.branches()}
    for branch in model.branches():
        inputs |= {f"{branch.kind} {name}": weight for name, weight in branch.quantiser.named_parameters()}
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(inputs.items(), found, strict=True)
    }


def touched(gradient: Tensor) -> set[int]:
    """Entities whose text embedding has a gradient."""
    return set(torch.nonzero(gradient.abs().sum(1)).flatten().tolist())


def test_the_recommendation_loss_reaches_the_generators_through_history_and_user_tokens():
    world = joint_world()
    batch = world.batch([example([5, 8, 2, 11], user=3, first=3)], [example([6, 2], user=4)])
    gradient = recommendation_gradient(world, batch)
    assert touched(gradient["item embeddings"]) == {5, 8, 2, 6}
    assert touched(gradient["user embeddings"]) == {3, 4}
    for kind in ("item", "user"):
        for name in ("encoder.0.weight", "levels.0.codewords", "levels.2.codewords", "levels.1.mean.weight"):
            assert gradient[f"{kind} {name}"].abs().max() > 0, (kind, name)


def test_a_target_that_is_history_to_later_targets_gets_no_gradient_either():
    """Its tokens predict its own deeper codes, and no single pass can tell that part of the gradient from the rest."""
    world = joint_world()
    batch = world.batch([example([5, 8, 2, 11, 4], user=3, first=2)])
    assert touched(recommendation_gradient(world, batch)["item embeddings"]) == {5, 8}


def test_dense_supervision_gives_history_the_gradient_of_one_example_per_prefix():
    world = joint_world()
    items, shown = [0, 6, 2, 12, 4], 2
    dense = world.batch([example(items, user=1, first=shown)])
    found = recommendation_gradient(world, dense)
    expected = dict.fromkeys(found, torch.zeros(()))
    for target in range(shown, len(items)):
        batch = world.batch([example(items[: target + 1], user=1, first=target)])
        weight = (batch.labels >= 0).sum() / (dense.labels >= 0).sum()
        one = recommendation_gradient(world, batch)
        expected = {name: total + weight * one[name] for name, total in expected.items()}
    for kind, rows in (("item", items[:shown]), ("user", [1])):
        ours, theirs = found[f"{kind} embeddings"][rows], expected[f"{kind} embeddings"][rows]
        torch.testing.assert_close(ours / theirs.norm(), theirs / theirs.norm(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wording", [0, 1], ids=["open", "question"])
def test_an_item_that_is_only_a_label_gets_no_gradient(wording):
    """Item 11 is fed, to predict its own deeper codes, but not as history; in the second batch it is history."""
    world = joint_world()
    label = world.batch([example([5, 8, 11], user=3, first=2, wording=wording)])
    history = world.batch([example([5, 11, 8], user=3, first=2, wording=wording)])
    assert 11 in label.number[label.kind == ITEM]
    assert touched(recommendation_gradient(world, label)["item embeddings"]) == {5, 8}
    assert touched(recommendation_gradient(world, history)["item embeddings"]) == {5, 11}


def test_which_item_is_the_label_matters_through_the_logits_alone():
    """Two labels that differ in their last code have the same inputs before it: the generators' gradients differ by
    what the last logits say, and not at all if the loss does not look at them."""
    world = joint_world()
    codes = world.model.items.table.codes
    same = (codes[:, None] == codes[None]).tolist()
    one, other = next((a, b) for a in range(15) for b in range(a) if same[a][b] == [True, True, False])
    batches = [world.batch([example([5, 8, label], user=3, first=2)]) for label in (one, other)]
    gradients = [recommendation_gradient(world, batch) for batch in batches]
    assert (gradients[0]["item embeddings"] - gradients[1]["item embeddings"]).abs().max() > 0
    blind = [
        batch._replace(
            labels=batch.labels.where(batch.label_level < 2, -100),
            label_kind=batch.label_kind.where(batch.label_level < 2, -1),
            label_level=batch.label_level.where(batch.label_level < 2, -1),
        )
        for batch in batches
    ]
    gradients = [recommendation_gradient(world, batch) for batch in blind]
    torch.testing.assert_close(gradients[0]["item embeddings"], gradients[1]["item embeddings"], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradients[0]["user embeddings"], gradients[1]["user embeddings"], rtol=1e-4, atol=1e-7)


def test_with_gradient_none_it_reaches_nobody():
    world = joint_world(gradient="none")
    gradient = recommendation_gradient(world, world.batch(EXAMPLES))
    assert all(float(value.abs().max()) == 0 for value in gradient.values())


def test_the_gradient_is_that_of_the_soft_assignment():
    """e = E[code] + Σ_k (p_k − sg p_k) · sg E[k]: dL/dlogits = J_softmax(p) · E · dL/de, summed over the places."""
    world = joint_world()
    model, item = world.model, 8
    batch = world.batch([example([item, 2, item, 4], first=3)])
    found = model._entities(batch)
    logits = found["item"].quantised.logits[1]
    hidden = model._states(batch, found)
    loss = model._token_losses(hidden, batch).sum() / int((batch.labels >= 0).sum())
    row = torch.nonzero(found["item"].numbers == item).item()
    gradient = torch.autograd.grad(loss, logits, retain_graph=True)[0][row]

    embedded = model.llm.get_input_embeddings()(batch.input_ids).detach().requires_grad_(True)
    mask = (batch.segment[:, None, :, None] == batch.segment[:, None, None, :]).tril()
    plain = model._token_losses(model._body(embedded, batch.position_ids, mask), batch)
    upstream = torch.autograd.grad(plain.sum() / int((batch.labels >= 0).sum()), embedded)[0]
    places = (batch.kind == ITEM) & (batch.number == item) & (batch.level == 1)
    assert int(places.sum()) == 2
    rows = model.llm.get_input_embeddings().weight[model.vocabulary.slice_of("item", 1)]
    p = logits[row].softmax(-1)
    expected = (torch.diag(p) - torch.outer(p, p)) @ rows @ upstream[places].sum(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


def test_the_straight_through_route_leaves_every_value_exactly_as_it_was():
    world, plain = joint_world(), joint_world(gradient="none")
    batch = world.batch(EXAMPLES[:2], EXAMPLES[2:])
    assert torch.equal(states(world, batch), states(plain, batch))
    for found in world.model._entities(batch).values():
        assert (found.nudge_nMH == 0).all()


def test_entities_are_the_distinct_ones_of_the_batch():
    world = joint_world()
    found = world.model._entities(world.batch([example([7, 3, 7, 0], user=2)], [example([3, 1], user=2)]))
    assert found["item"].numbers.tolist() == [0, 1, 3, 7] and found["user"].numbers.tolist() == [2]
    assert torch.equal(found["item"].quantised.codes, world.model.items.codes[[0, 1, 3, 7]])
    assert set(world.model._entities(world.batch([example([1, 2])]))) == {"item"}, "no user is shown"


# Losses.


def generator_gradients(world: World, out: JointOutput) -> dict[str, float]:
    world.model.zero_grad()
    out.loss.backward()
    return {
        name: 0.0 if weight.grad is None else float(weight.grad.abs().max())
        for name, weight in world.model.named_parameters()
        if not name.startswith("llm.")
    }


def test_the_loss_is_the_sum_of_its_named_parts():
    world = joint_world()
    out = world.model(world.batch(EXAMPLES))
    own = {f"{name}_{kind}" for name in ("recon", "codebook", "commitment") for kind in ("item", "user")}
    regulated = {f"{name}_{kind}" for name in ("token", "index") for kind in ("item", "user")}
    assert set(out.losses) == {"llm"} | own | regulated
    torch.testing.assert_close(out.loss, torch.stack(list(out.losses.values())).sum())
    assert out.targets == sum(len(e.items) - e.first for e in EXAMPLES)


@pytest.mark.parametrize(
    ("regulator", "reconstruction", "expected"),
    [
        (Regulator(0.5, 0), 0.0, {"llm", "index_item", "index_user"}),
        (Regulator(0, 1), 0.0, {"llm", "token_item", "token_user"}),
        (Regulator(0, 0), 0.0, {"llm"}),
    ],
)
def test_a_loss_of_weight_zero_is_absent(regulator, reconstruction, expected):
    world = joint_world(regulator=regulator, reconstruction=reconstruction)
    assert set(world.model(world.batch(EXAMPLES)).losses) == expected


def test_weights_are_in_the_losses():
    once, twice = (joint_world(regulator=Regulator(b, 2 * b), reconstruction=b) for b in (0.5, 1.0))
    batch = once.batch(EXAMPLES)
    torch.manual_seed(0)
    first = once.model(batch).losses
    torch.manual_seed(0)
    second = twice.model(batch).losses
    torch.testing.assert_close(first["llm"], second["llm"])
    for name in first.keys() - {"llm"}:
        torch.testing.assert_close(2 * first[name], second[name])


def test_without_a_user_branch_there_is_no_user_loss_and_no_user_token():
    world = joint_world(users=False)
    batch = world.batch([example([0, 1, 2], user=3)])
    assert not (batch.kind == USER).any()
    assert not any(name.endswith("user") for name in world.model(batch).losses)


def test_a_batch_that_shows_no_user_trains_the_rest():
    world = joint_world()
    out = world.model(world.batch([example([0, 1, 2])]))
    assert out.loss.isfinite() and "recon_user" not in out.losses


def test_a_frozen_index_has_no_gradients_and_the_llm_still_learns_its_tokens():
    world = joint_world()
    world.model.freeze_index()
    out = world.model(world.batch(EXAMPLES))
    assert set(out.losses) == {"llm", "index_item", "index_user"}
    assert set(generator_gradients(world, out).values()) == {0.0}
    gradient = world.model.llm.get_input_embeddings().weight.grad
    assert gradient[world.model.vocabulary.slice_of("item", 0)].abs().max() > 0


def test_an_index_at_rest_has_no_gradients_and_can_move_again():
    world = joint_world()
    world.model.moving = False
    assert set(generator_gradients(world, world.model(world.batch(EXAMPLES))).values()) == {0.0}
    world.model.moving = True
    moving = generator_gradients(world, world.model.train()(world.batch(EXAMPLES)))
    assert all(value > 0 for name, value in moving.items() if "concentration.weight" not in name)


def test_the_alignment_pulls_index_tokens_and_generators_and_not_the_text():
    world = joint_world(reconstruction=0.0, regulator=Regulator(1, 0))
    model = world.model
    for branch in model.branches():
        branch.teacher = branch.teacher.requires_grad_(True)
    loss = model(world.batch(EXAMPLES)).losses["index_item"]
    teacher, codewords, rows = torch.autograd.grad(
        loss,
        [model.items.teacher, model.items.quantiser.levels[0].codewords, model.llm.get_input_embeddings().weight],
        allow_unused=True,
    )
    assert teacher is None and codewords.abs().max() > 0
    assert rows[model.vocabulary.slice_of("item", 0)].abs().max() > 0


@pytest.mark.parametrize("llm", LLMS)
def test_sequences_read_beside_a_batch_have_the_states_of_passes_of_their_own(llm):
    """Fewer tokens than a row has, and more than it has room for; the batch's own states stay."""
    world = joint_world(llm=llm)
    model, batch = world.model, world.batch(EXAMPLES[:1])
    embedded = model._embedded(batch, {})
    _, width, hidden = embedded.shape
    alone = [torch.randn(9, 4, hidden), torch.randn(2, width + 3, hidden)]
    together = model._read(batch, embedded, alone)
    segments = [torch.ones(part.shape[:2], dtype=torch.long) for part in alone]
    apart = [model._read(batch, embedded)[0]] + [
        model._body(part, torch.arange(part.shape[1]).expand(len(part), -1), _block_causal(segment))
        for part, segment in zip(alone, segments, strict=True)
    ]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_entities_without_text_are_not_aligned():
    world = joint_world(regulator=Regulator(1, 0), reconstruction=0.0)
    batch = world.batch([example([0, 1, 2, 3])])
    world.model.items.teacher[:] = 0
    assert "index_item" not in world.model(batch).losses


# Dropout and precision.


def test_dropout_is_off_in_evaluation_and_random_in_training():
    world = joint_world(dropout=0.5)
    batch = world.batch(EXAMPLES)
    assert torch.equal(states(world, batch), states(joint_world(), batch))
    world.model.train()
    assert not torch.equal(states(world, batch), states(world, batch))


def test_recommending_in_the_midst_of_training_drops_nothing():
    world = joint_world(dropout=0.5)
    world.model.train()
    model = world.model
    asked = [prompt(world.asked[0], before(3, np.array([2, 9, 4])), world.index)]
    best = constrained_beam_search(model.llm, model.vocabulary, Trie(model.items.table), asked, 15)
    assert model.training and model.llm.training
    scores = exact_scores(model.eval().llm, model.vocabulary, model.items.table, asked)
    np.testing.assert_allclose(best.scores[0], np.sort(scores[0])[::-1], atol=1e-4)


@pytest.mark.parametrize("llm", LLMS)
def test_attention_and_feed_forward_of_every_layer_are_dropped(llm):
    """Dropout 1 − ε leaves nothing of what the layers add: the states are those of a body without layers."""
    world = joint_world(llm=llm, dropout=1 - 1e-12)
    parts = []
    for module in world.model.modules():
        if type(module).__name__ in ("LlamaAttention", "LlamaMLP", "GPT2Attention", "GPT2MLP"):
            module.register_forward_hook(
                lambda module, inputs, output: parts.append(output[0] if isinstance(output, tuple) else output)
            )
    world.model.train()
    states(world, world.batch(EXAMPLES))
    assert len(parts) == 4 and all((part == 0).all() for part in parts)


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("llm", LLMS)
def test_activations_that_are_computed_again_give_the_same_losses_and_gradients(llm, lora):
    """Dropout included: what was dropped is dropped again. Layers run twice, so that this is no empty comparison."""
    found, runs = [], []
    for again in (False, True):
        world = joint_world(llm=llm, lora=lora, dropout=0.3)
        model = world.model.train()
        if again:
            keep_less(model.llm)
        layers = [module for module in model.modules() if type(module).__name__ in ("LlamaMLP", "GPT2MLP")]
        for layer in layers:
            layer.register_forward_pre_hook(lambda *_, again=again: runs.append(again))
        torch.manual_seed(3)
        out = model(world.batch(EXAMPLES[:2], EXAMPLES[2:]))
        out.loss.backward()
        found.append((out.losses, {name: weight.grad for name, weight in model.named_parameters()}))
    (losses, gradients), (others, again) = found
    assert runs.count(True) == 2 * runs.count(False) > 0
    assert all(torch.equal(losses[name], others[name]) for name in losses)
    for name, gradient in gradients.items():
        assert (gradient is None) == (again[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("llm", LLMS)
def test_compiled_layers_give_the_same_losses_and_gradients_and_leave_decoding_alone(llm, monkeypatch):
    """One code for both layers and for two sizes of a batch; the compiler's part is left out, for it takes a minute."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    found = []
    for compiled in (False, True):
        world = joint_world(llm=llm, dropout=0.3)
        model = world.model.train()
        if compiled:
            compile_layers(layers_of(model.llm))
        for rows in (EXAMPLES[:1],), (EXAMPLES[:2], EXAMPLES[2:]):
            model.zero_grad()
            torch.manual_seed(3)
            out = model(world.batch(*rows))
            out.loss.backward()
        found.append((out.losses, {name: weight.grad for name, weight in model.named_parameters()}))
    assert len(graphs) == 1
    model.llm.eval()
    model.llm(torch.tensor([[1, 2, 3]]))
    assert len(graphs) == 1
    (losses, gradients), (others, again) = found
    for name, loss in losses.items():
        torch.testing.assert_close(others[name], loss, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_search_with_many_trainings_is_compiled_to_its_end(monkeypatch):
    """torch keeps eight codes of a function and runs it as it is from then on."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for number in range(10):
        world = joint_world(dropout=0.05 * (number + 1))
        compile_layers(layers_of(world.model.llm))
        world.model.train()(world.batch(EXAMPLES[:1]))
    assert len(graphs) == 10


@pytest.mark.parametrize("missing", ["backend", "triton"])
def test_a_compiler_that_gives_up_is_one_line(missing, monkeypatch):
    def backend(graph, inputs):
        if missing == "triton":
            raise TritonMissing(None)
        raise OSError("no compiler here")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    world = joint_world()
    compile_layers(layers_of(world.model.llm))
    for compiling in (lambda: check_compiler(torch.device("cpu")), lambda: world.model.train()(world.batch(EXAMPLES))):
        with pytest.raises(ConfigError, match=r"cannot be compiled here .*training\.compile=false") as refused, \
                compile_errors_explained():  # fmt: skip
            compiling()
        assert "TORCHDYNAMO" not in str(refused.value)
        assert ("no compiler here" in str(refused.value)) == (missing == "backend")


def test_half_precision_is_for_the_llm_alone():
    full, half = joint_world(), joint_world(dtype=torch.bfloat16)
    batch = full.batch(EXAMPLES)
    torch.manual_seed(0)
    expected = full.model(batch)
    torch.manual_seed(0)
    out = half.model(batch)
    assert all(loss.dtype == torch.float32 for loss in out.losses.values())
    for name in ("recon_item", "codebook_item", "commitment_user", "token_item"):
        torch.testing.assert_close(out.losses[name], expected.losses[name])
    torch.testing.assert_close(out.losses["llm"], expected.losses["llm"], rtol=0.05, atol=0.05)
    out.loss.backward()
    assert all(weight.grad.isfinite().all() for weight in half.model.parameters() if weight.grad is not None)


def test_the_table_of_a_branch_decides_its_tokens():
    world = joint_world()
    items = world.model.items
    table = items.table
    moved = type(table)(table.codes[::-1], table.suffix[::-1], table.sizes, table.version + 1)
    before = world.index.items
    items.table = moved
    np.testing.assert_array_equal(world.index.items, before[::-1])
    assert torch.equal(items.codes, torch.as_tensor(moved.codes.copy()).long())


def test_the_token_ids_are_those_of_the_tables_now_and_made_once_for_each():
    model = joint_world().model
    before = model.index_tokens()
    assert model.index_tokens() is before
    table = model.items.table
    model.items.table = IndexTable(table.codes[::-1], table.suffix[::-1], table.sizes, table.version + 1)
    assert (model.index_tokens().items == before.items[::-1]).all()
    assert (model.index_tokens().users == before.users).all()
