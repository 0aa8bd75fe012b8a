import pytest
import torch

from potstill.core.errors import ModelError
from potstill.core.signal import Want
from potstill.students.freeze import freeze
from potstill.students.pooled import MeanPooledClassifier
from potstill.students.taps import outputs
from tests.students.tiny import batch_of, tiny


def learning(module):
    return {name for name, weight in module.named_parameters() if weight.requires_grad}


def test_a_frozen_body_leaves_the_head():
    module = tiny("bert", "classify")
    frozen = freeze(module, ("embeddings", "body"))
    assert learning(module) == {"classifier.weight", "classifier.bias"}
    assert len(frozen) + 2 == len(list(module.parameters()))


def test_frozen_embeddings_leave_the_rest():
    module = tiny("bert", "classify")
    names = freeze(module, ("embeddings",))
    assert names
    assert all(name.startswith("bert.embeddings.") for name in names)


def test_a_tied_table_is_one_weight():
    module = tiny("llama", "causal-lm")
    freeze(module, ("embeddings",))
    assert not module.lm_head.weight.requires_grad
    assert "model.norm.weight" in learning(module)


def test_a_mean_pooled_head():
    module = MeanPooledClassifier(tiny("distilbert", "classify").distilbert)
    freeze(module, ("head",))
    assert "head.weight" not in learning(module)
    outputs(module, batch_of(), Want()).logits_BTV.sum().backward()
    assert module.head.weight.grad is None
    assert module.encoder.transformer.layer[0].ffn.lin1.weight.grad is not None


def test_freezing_all_is_refused():
    with pytest.raises(ModelError, match="leaves nothing to learn"):
        freeze(tiny("bert", "classify"), ("embeddings", "body", "head"))


def test_nothing_is_frozen_unasked():
    module = tiny("bert", "classify")
    assert freeze(module, ()) == ()
    assert all(torch.is_grad_enabled() and weight.requires_grad for weight in module.parameters())


def test_frozen_positions_leave_the_words():
    module = tiny("bert", "masked-lm")
    assert freeze(module, ("positions",)) == ("bert.embeddings.position_embeddings.weight",)
    assert "bert.embeddings.word_embeddings.weight" in learning(module)


def test_rotary_models_have_no_positions_to_freeze():
    with pytest.raises(ModelError, match="`llama` model has no learnt position table"):
        freeze(tiny("llama", "causal-lm"), ("positions",))
