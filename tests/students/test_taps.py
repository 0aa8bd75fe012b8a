import dataclasses
import warnings

import pytest
import torch
from transformers import RobertaConfig

from potstill.core.errors import ModelError, SignalError
from potstill.core.signal import Want
from potstill.students.layouts import blocks_of, head_of
from potstill.students.pooled import MeanPooledClassifier
from potstill.students.taps import install_head, last_hidden, outputs, pooled_features
from tests.students.tiny import DECODERS, ENCODERS, batch_of, tiny

ALL = [(kind, "classify") for kind in ENCODERS] + [(kind, "causal-lm") for kind in DECODERS]
ALL += [("bert", "masked-lm"), ("distilbert", "masked-lm"), ("qwen2", "classify")]


def pooled():
    torch.manual_seed(2)
    return MeanPooledClassifier(tiny("bert", "classify").bert).eval()


@pytest.mark.parametrize(("kind", "task"), ALL)
def test_logits_have_one_shape_for_all_tasks(kind, task):
    module, batch = tiny(kind, task), batch_of()
    with torch.no_grad():
        heard = outputs(module, batch, Want())
        plain = module(input_ids=batch.tokens_BL, attention_mask=batch.attention_BL.long()).logits
    wanted = plain.unsqueeze(1) if task == "classify" else plain
    assert torch.equal(heard.logits_BTV, wanted)
    assert heard.logits_BTV.shape[:2] == ((3, 1) if task == "classify" else (3, 9))
    assert heard.hidden is None
    assert heard.attentions is None


@pytest.mark.parametrize(("kind", "task"), ALL)
def test_hidden_states_are_transformers_own(kind, task):
    module, batch = tiny(kind, task), batch_of()
    with torch.no_grad():
        heard = outputs(module, batch, Want(hidden_layers=(0, 2, 4, -1))).hidden.layers
        theirs = module.base_model(
            input_ids=batch.tokens_BL, attention_mask=batch.attention_BL.long(), output_hidden_states=True
        )
    assert set(heard) == {0, 2, 4, -1}
    assert torch.equal(heard[0], theirs.hidden_states[0])
    assert torch.equal(heard[2], theirs.hidden_states[2])
    assert torch.equal(heard[-1], theirs.last_hidden_state)
    if kind in ENCODERS:
        assert torch.equal(heard[4], heard[-1])
    else:
        assert not torch.equal(heard[4], heard[-1])  # the final norm lies between them


@pytest.mark.filterwarnings("ignore:.*attention returns no maps")
@pytest.mark.parametrize(("kind", "task"), ALL)
def test_attention_maps_are_transformers_own(kind, task):
    module, batch = tiny(kind, task), batch_of()
    with torch.no_grad():
        heard = outputs(module, batch, Want(attention_layers=(0, 3))).attentions.layers
        theirs = module(
            input_ids=batch.tokens_BL, attention_mask=batch.attention_BL.long(), output_attentions=True
        ).attentions
    assert set(heard) == {0, 3}
    for layer, map_BHLL in heard.items():
        torch.testing.assert_close(map_BHLL, theirs[layer], rtol=0, atol=1e-6)
        rows = map_BHLL.sum(-1)[0]
        torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
def test_scores_are_what_the_softmax_is_of_under_any_kernel(kind):
    module, batch = tiny(kind, "masked-lm"), batch_of()
    mask = torch.zeros(3, 1, 1, 9).masked_fill(~batch.attention_BL[:, None, None], -1e9)
    with torch.no_grad():
        scores = outputs(module, batch, Want(score_layers=(0, 3))).scores.layers
        assert module.base_model.config._attn_implementation == "sdpa"
        with pytest.warns(UserWarning, match="attention returns no maps"):
            maps = outputs(module, batch, Want(attention_layers=(0, 3))).attentions.layers
    assert set(scores) == {0, 3}
    for layer, score_BHLL in scores.items():
        torch.testing.assert_close((score_BHLL + mask).softmax(-1), maps[layer], rtol=0, atol=1e-6)
        assert score_BHLL.abs().max() < 1e3  # no mask among them


def test_the_change_of_kernel_is_said_once():
    module, batch = tiny("bert", "classify"), batch_of()
    with pytest.warns(UserWarning, match="sdpa attention returns no maps; from now on the eager kernel"):
        outputs(module, batch, Want(attention_layers=(0,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs(module, batch, Want(attention_layers=(1,)))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_scores_of_a_decoder_are_refused(kind):
    with pytest.raises(SignalError, match="use an encoder such as BERT"):
        outputs(tiny(kind, "causal-lm"), batch_of(), Want(score_layers=(0,)))


def test_scores_stay_exact_where_the_rest_is_bf16():
    module, batch = tiny("bert", "masked-lm"), batch_of()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        scores = outputs(module, batch, Want(score_layers=(0,))).scores.layers[0]
    assert scores.dtype == torch.float32


def test_no_head_is_asked_where_no_logits_are_wanted():
    module, batch = tiny("bert", "masked-lm"), batch_of()
    heard = outputs(module, batch, Want(logits=False, hidden_layers=(-1,)))
    assert heard.logits_BTV is None
    assert torch.equal(heard.hidden.layers[-1], last_hidden(module, batch))


@pytest.mark.filterwarnings("ignore:.*attention returns no maps")
def test_a_mean_pooled_classifier_is_tapped():
    module, batch = pooled(), batch_of()
    with torch.no_grad():
        heard = outputs(module, batch, Want(hidden_layers=(1, -1), attention_layers=(2,)))
    assert heard.logits_BTV.shape == (3, 1, 3)
    assert set(heard.hidden.layers) == {1, -1}
    assert heard.attentions.layers[2].shape == (3, 2, 9, 9)


@pytest.mark.filterwarnings("ignore:.*attention returns no maps")
def test_no_hook_stays_behind():
    module, batch = tiny("bert", "classify"), batch_of()
    outputs(module, batch, Want(hidden_layers=(0, 1, -1), attention_layers=(0,), score_layers=(1,)))
    pooled_features(module, batch)
    with pytest.raises(SignalError):
        outputs(module, batch, Want(hidden_layers=(1, 9)))
    for part in module.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


@pytest.mark.parametrize(
    ("want", "words"),
    [
        (Want(hidden_layers=(5,)), "layer 5 .*0 to 4"),
        (Want(hidden_layers=(-2,)), "layer -2"),
        (Want(attention_layers=(4,)), "block 4 .*0 to 3"),
        (Want(score_layers=(4,)), "block 4 .*0 to 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*attention returns no maps")
def test_layers_that_do_not_exist(want, words):
    with pytest.raises(SignalError, match=words):
        outputs(tiny("bert", "classify"), batch_of(), want)


def test_gradients_reach_the_weights_through_states():
    module = tiny("llama", "causal-lm")
    outputs(module, batch_of(), Want(hidden_layers=(2,))).hidden.layers[2].square().sum().backward()
    assert blocks_of(module)[1].mlp.up_proj.weight.grad is not None
    assert blocks_of(module)[2].mlp.up_proj.weight.grad is None


def test_token_types_are_used_where_the_model_has_them():
    module, batch = tiny("bert", "classify"), batch_of()
    second = dataclasses.replace(batch, token_types_BL=torch.ones_like(batch.tokens_BL))
    with torch.no_grad():
        assert not torch.equal(outputs(module, second, Want()).logits_BTV, outputs(module, batch, Want()).logits_BTV)
        outputs(tiny("distilbert", "classify"), second, Want())


def test_last_hidden_is_the_last_state():
    module, batch = tiny("llama", "causal-lm"), batch_of()
    with torch.no_grad():
        assert torch.equal(
            last_hidden(module, batch), outputs(module, batch, Want(hidden_layers=(-1,))).hidden.layers[-1]
        )


@pytest.mark.parametrize("kind", [*ENCODERS, "pooled", "llama"])
def test_features_times_the_head_are_the_logits(kind):
    module, batch = (pooled() if kind == "pooled" else tiny(kind, "classify")), batch_of()
    features = pooled_features(module, batch)
    assert features.shape == (3, 16)
    assert not features.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(
            head_of(module)(features), outputs(module, batch, Want()).logits_BTV[:, 0], rtol=0, atol=1e-6
        )


def test_features_are_taken_without_dropout_and_the_mode_returns():
    module, batch = tiny("bert", "classify").train(), batch_of()
    assert torch.equal(pooled_features(module, batch), pooled_features(module, batch))
    assert module.training


def test_an_installed_probe_decides():
    module, batch = tiny("bert", "classify"), batch_of()
    weight, bias = torch.randn(3, 16), torch.randn(3)
    features = pooled_features(module, batch)
    install_head(module, weight, bias)
    with torch.no_grad():
        logits = outputs(module, batch, Want()).logits_BTV[:, 0]
    torch.testing.assert_close(logits, features @ weight.T + bias, rtol=0, atol=1e-5)


def test_a_probe_that_does_not_fit():
    with pytest.raises(ModelError, match=r"\(4, 16\) .*\(3, 16\)"):
        install_head(tiny("bert", "classify"), torch.zeros(4, 16), torch.zeros(4))
    with pytest.raises(ModelError, match="no bias"):
        install_head(tiny("llama", "classify"), torch.zeros(3, 16), torch.zeros(3))
    with pytest.raises(ModelError, match="no classifier head"):
        head_of(tiny("bert", "masked-lm"))


def test_a_table_of_one_token_type_is_never_asked_for_a_second(monkeypatch):
    """RoBERTa as it is published; a tokenizer that marks pairs would index past its table."""
    monkeypatch.setitem(
        ENCODERS, "one-type", lambda: RobertaConfig(**{**ENCODERS["roberta"]().to_dict(), "type_vocab_size": 1})
    )
    batch = batch_of()
    second = dataclasses.replace(batch, token_types_BL=torch.ones_like(batch.tokens_BL))
    for module in (tiny("one-type", "masked-lm"), MeanPooledClassifier(tiny("one-type", "classify").roberta).eval()):
        with torch.no_grad():
            assert torch.equal(outputs(module, second, Want()).logits_BTV, outputs(module, batch, Want()).logits_BTV)
