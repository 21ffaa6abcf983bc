"""What the rows of the index tokens start from."""

import pytest
import torch
from small import joint_world
from torch.nn.functional import cosine_similarity

from ed2rec.training.rows import calm_head

TEXTS = [[0, 3, 4, 5], [0, 6, 7]]


def model_of(llm: str, length: float):
    """A joint model whose LLM has last states of `length` times the usual length: long as in a pretrained one."""
    model = joint_world(llm=llm).model
    model.llm.eval().get_decoder().norm.weight.data *= length
    return model


def deviations(model) -> list[float]:
    """Of the logits of every level, over its codes."""
    states = torch.cat([model.llm.get_decoder()(input_ids=torch.tensor([text])).last_hidden_state[0] for text in TEXTS])
    places = [model.vocabulary.slice_of(kind, m) for kind in ("item", "user") for m in range(3)]
    return [float((states @ model.llm.get_output_embeddings().weight[place].T).std(1, correction=0).mean())
            for place in places]  # fmt: skip


@torch.no_grad()
def test_a_head_that_would_be_certain_of_anything_is_calmed_and_keeps_its_directions():
    model = model_of("llama", 300)
    before = {name: weight.clone() for name, weight in model.llm.named_parameters()}
    assert min(deviations(model)) > 5
    calm_head(model.llm, model.vocabulary, TEXTS)
    assert deviations(model) == pytest.approx([1.0] * 6, rel=1e-4)
    rows = model.vocabulary.index_slice
    head = model.llm.get_output_embeddings().weight
    for name, weight in model.llm.named_parameters():
        if weight is head:
            assert cosine_similarity(weight[rows], before[name][rows]).min() > 0.9999
            assert torch.equal(weight[: rows.start], before[name][: rows.start]), "words stay as they are"
        else:
            assert torch.equal(weight, before[name])
    once = head.clone()
    calm_head(model.llm, model.vocabulary, TEXTS)
    assert torch.allclose(head, once, rtol=1e-4), "what is calm stays so"


def test_a_head_that_is_the_embedding_and_one_that_is_calm_stay_as_they_are():
    for model in (model_of("llama-tied", 300), model_of("llama", 0.01)):
        head = model.llm.get_output_embeddings().weight
        before = head.detach().clone()
        calm_head(model.llm, model.vocabulary, TEXTS)
        assert torch.equal(head, before)
