"""Gated and physically smaller give the same logits, for every architecture and every kind of unit."""

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.smollm3.modeling_smollm3 import SmolLM3RMSNorm

from potstill.compress.plan import plan_of
from potstill.compress.prune import apply, gated
from potstill.core.errors import ModelError
from potstill.core.signal import Want
from potstill.students.axes import attention_of, sizes_of
from potstill.students.fingerprint import count_parameters, weights_sha256
from potstill.students.layouts import blocks_of, layout_of
from potstill.students.pooled import MeanPooledClassifier, saved_head
from potstill.students.taps import outputs
from tests.compress.calibration import model
from tests.students.tiny import DECODERS, ENCODERS, batch_of, tiny

GROUPED = ["llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma3_text"]
NARROW = ["bert", "roberta", "distilbert", "gpt2"]


def drawn(count, keep, seed):
    """`keep` of `count` places, increasing."""
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:keep].tolist())


def a_plan(module, *units):
    """A plan with other units in every block; heads and width follow what the architecture can say."""
    sizes, says = sizes_of(module), attention_of(module).says_head_size
    blocks = (0, 2, 3) if "blocks" in units else range(sizes.depth)
    kept = {"blocks": blocks}
    if "neurons" in units:
        kept["neurons"] = [drawn(sizes.neurons, 13, 10 + block) for block in blocks]
    if "width" in units:
        kept["channels"] = drawn(sizes.width, 12 if says else sizes.width // 2, 20)
    shared = sizes.heads // sizes.groups
    if "groups" in units or ("width" in units and not says):
        groups = [drawn(sizes.groups, sizes.groups // 2, 30 + block) for block in blocks]
        kept["heads"] = [[group * shared + one for group in row for one in range(shared)] for row in groups]
    if "heads" in units:
        every = range(sizes.groups)
        kept["heads"] = [[group * shared + (block + group) % shared for group in every] for block in blocks]
    return plan_of(module, **kept)


CASES = [(kind, ("neurons",)) for kind in [*ENCODERS, *DECODERS]]
CASES += [(kind, ("blocks",)) for kind in [*ENCODERS, *DECODERS]]
CASES += [(kind, (unit,)) for kind in GROUPED for unit in ("groups", "heads")]
CASES += [(kind, ("width",)) for kind in [*GROUPED[:-1], *NARROW]]
CASES += [(kind, ("neurons", "groups", "width", "blocks")) for kind in [*GROUPED[:-1], *NARROW]]
CASES += [("gemma3_text", ("neurons", "groups", "blocks"))]


def logits(module, batch=None):
    with torch.no_grad():
        return outputs(module, batch or batch_of(), Want()).logits_BTV


@pytest.fixture
def double_norms(monkeypatch):
    """The libraries' norms compute in single precision whatever they read; here they compute in double."""

    def plain(self, states):
        return self.weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    for kind in (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, SmolLM3RMSNorm):
        monkeypatch.setattr(kind, "forward", plain)
    monkeypatch.setattr(Gemma3RMSNorm, "forward", lambda self, states: self._norm(states) * (1.0 + self.weight))


@pytest.mark.parametrize(("kind", "units"), CASES)
def test_gated_equals_gone_in_double_precision(kind, units, double_norms):
    source = model(kind)
    plan = a_plan(source, *units)
    small, closed = apply(source, plan), gated(source, plan)
    torch.testing.assert_close(logits(closed), logits(small), rtol=0, atol=1e-10)
    assert (logits(small) - logits(source)).abs().max() > 1e-3
    assert count_parameters(small) == plan.parameters_after < plan.parameters_before == count_parameters(source)


@pytest.mark.parametrize(("kind", "units"), CASES)
def test_gated_equals_gone_in_single_precision_and_after_a_reload_by_transformers_alone(kind, units, tmp_path):
    source = model(kind, torch.float32)
    before = weights_sha256(source)
    plan = a_plan(source, *units)
    small = apply(source, plan)
    torch.testing.assert_close(logits(gated(source, plan)), logits(small), rtol=0, atol=1e-5)
    assert weights_sha256(source) == before
    small.save_pretrained(tmp_path)
    assert torch.equal(logits(type(source).from_pretrained(tmp_path).eval()), logits(small))


@pytest.mark.parametrize("kind", DECODERS)
def test_decoding_with_a_cache_equals_decoding_without(kind):
    source = model(kind, torch.float32)
    everything = ("neurons", "blocks") + (("groups",) if kind in GROUPED else ("width",))
    small = apply(source, a_plan(source, *everything))
    start = batch_of(rows=1, length=6, padded=(0,)).tokens_BL
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with_cache = small.generate(start, use_cache=True, return_dict_in_generate=True, **options)
    assert torch.equal(with_cache.sequences, small.generate(start, use_cache=False, **options))
    keys = with_cache.past_key_values.layers[0].keys
    assert len(with_cache.past_key_values.layers) == 3
    assert keys.shape[1] == sizes_of(small).groups == sizes_of(source).groups // 2
    assert keys.shape[-1] == sizes_of(source).head_size


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_units_whose_outgoing_weights_are_zero_go_unnoticed(kind):
    source = model(kind, torch.float32)
    sizes = sizes_of(source)
    dropped, group = 5, sizes.groups - 1
    shared = sizes.heads // sizes.groups * sizes.head_size
    with torch.no_grad():
        for block in blocks_of(source):
            for path, place in (
                (layout_of(source).down, slice(dropped, dropped + 1)),
                (attention_of(source).out, slice(group * shared, (group + 1) * shared)),
            ):
                weight = block.get_submodule(path).weight
                (weight if layout_of(source).transposed else weight.T)[place] = 0
    kept = {"neurons": [[one for one in range(sizes.neurons) if one != dropped]] * sizes.depth}
    if attention_of(source).says_head_size:
        kept["heads"] = [range(group * sizes.heads // sizes.groups)] * sizes.depth
    assert (logits(apply(source, plan_of(source, **kept))) - logits(source)).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_setting_channels_to_zero_is_not_the_same_as_removing_them(kind):
    """The control for the width: a norm that still counts the zeros gives other logits."""
    source = model(kind)
    plan = a_plan(source, "width")
    closed = gated(source, plan)
    right = logits(closed)
    for part in closed.modules():
        if type(part).__name__.endswith(("LayerNorm", "RMSNorm")):
            part._forward_hooks.clear()
    assert (logits(closed) - right).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_masked_language_models_are_cut_with_their_heads(kind, tmp_path):
    source = tiny(kind, "masked-lm")
    plan = a_plan(source, "neurons", "width", "blocks")
    small = apply(source, plan)
    torch.testing.assert_close(logits(small), logits(gated(source, plan)), rtol=0, atol=1e-5)
    assert small.get_output_embeddings().weight is small.get_input_embeddings().weight
    assert count_parameters(small) == plan.parameters_after
    small.save_pretrained(tmp_path)
    assert torch.equal(logits(type(source).from_pretrained(tmp_path).eval()), logits(small))


def test_a_mean_pooled_classifier_is_cut_with_its_head(tmp_path):
    torch.manual_seed(0)
    source = MeanPooledClassifier(tiny("bert", "classify").bert).eval()
    plan = a_plan(source, "neurons", "width", "blocks")
    small = apply(source, plan)
    assert isinstance(small, MeanPooledClassifier)
    torch.testing.assert_close(logits(small), logits(gated(source, plan)), rtol=0, atol=1e-5)
    assert count_parameters(small) == plan.parameters_after
    small.save_pretrained(tmp_path)
    assert torch.equal(saved_head(tmp_path)["weight"], source.head.weight[:, list(plan.channels)])


def test_a_llama_classifier_keeps_its_score(tmp_path):
    source = tiny("llama", "classify")
    plan = a_plan(source, "groups", "width")
    torch.testing.assert_close(logits(apply(source, plan)), logits(gated(source, plan)), rtol=0, atol=1e-5)


def test_the_head_size_is_in_the_config_even_where_the_library_has_no_name_for_it():
    small = apply(model("qwen2"), a_plan(model("qwen2"), "groups"))
    assert small.config.to_dict()["head_dim"] == 4
    assert (small.config.num_attention_heads, small.config.num_key_value_heads, small.config.hidden_size) == (2, 1, 16)


def test_gradients_flow_through_the_gated_model_to_what_stays_alone():
    source = model("bert")
    plan = a_plan(source, "neurons")
    closed = gated(source, plan)
    outputs(closed, batch_of(), Want()).logits_BTV.sum().backward()
    slope = blocks_of(closed)[1].output.dense.weight.grad
    stays = list(plan.layers[1].neurons)
    gone = sorted(set(range(24)) - set(stays))
    assert slope[:, stays].any()
    assert not slope[:, gone].any()


@pytest.mark.parametrize("function", [apply, gated])
def test_a_plan_for_another_model_is_refused(function):
    plan = a_plan(model("bert"), "neurons")
    with pytest.raises(ModelError, match=r"plan is for a `bert`.*`roberta`"):
        function(model("roberta"), plan)
    half = apply(model("bert"), plan)
    with pytest.raises(ModelError, match=r"neurons=24.*neurons=13"):
        function(half, plan)


def test_a_plan_edited_by_hand_is_refused():
    plan = a_plan(model("bert"), "neurons")
    wrong = plan.model_copy(update={"parameters_after": 5})
    with pytest.raises(ModelError, match="parameters_after do not follow"):
        apply(model("bert"), wrong)
