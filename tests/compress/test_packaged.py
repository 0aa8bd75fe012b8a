"""The packaged encoder and decoder: gated equals gone, and what is gone loads with transformers alone."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from potstill.compress.choose import UnitScores, choose
from potstill.compress.integers import computing
from potstill.compress.joint import Shaping, Timetable
from potstill.compress.movement import install
from potstill.compress.prune import apply, gated
from potstill.compress.qat import prepare_qat
from potstill.compress.scheme import SCHEMES
from potstill.core.signal import Want
from potstill.students.axes import sizes_of
from potstill.students.fingerprint import count_parameters
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from potstill.students.surgery import keep_layers, neuron_scores
from potstill.students.taps import outputs
from tests.compress.calibration import rows_for
from tests.students.tiny import batch_of

ENCODER = [
    {"neurons": 768},
    {"blocks": 3},
    {"heads": 10, "width": 320},
    {"neurons": 512, "blocks": 4, "heads": 6, "width": 192},
]
DECODER = [
    {"neurons": 768},
    {"blocks": 15},
    {"groups": 2},
    {"heads": 6},
    {"width": 432},
    {"neurons": 1024, "blocks": 20, "groups": 2, "heads": 4, "width": 384},
]


def some_scores(module):
    """Weight norms for neurons; for the rest an order that is not that of their places."""
    sizes, draw = sizes_of(module), torch.Generator().manual_seed(5)
    return UnitScores(
        neurons=neuron_scores(module),
        heads=torch.rand(sizes.depth, sizes.heads, generator=draw).unbind(),
        groups=torch.rand(sizes.depth, sizes.groups, generator=draw).unbind(),
        width=torch.rand(sizes.width, generator=draw),
        blocks=torch.rand(sizes.depth, generator=draw).tolist(),
    )


def logits(module, batch):
    with torch.no_grad():
        return outputs(module, batch, Want()).logits_BTV


def both(module, keep, batch):
    """The model with closed gates, and the smaller one."""
    plan = choose(module, some_scores(module), keep=keep)
    small = apply(module, plan)
    assert count_parameters(small) == plan.parameters_after
    return gated(module, plan), small


def check(module, keep, batch):
    """In double precision the two agree to 1e-10; in single precision they differ by no more than twice what single
    precision itself changes, which for logits of a decoder is more than 1e-5."""
    closed, small = both(module, keep, batch)
    single, single_closed = logits(small, batch), logits(closed, batch)
    closed, small = both(module.double(), keep, batch)
    double, double_closed = logits(small, batch), logits(closed, batch)
    module.float()
    rounding = float((single - double).abs().max())
    apart, exact = float((single - single_closed).abs().max()), float((double - double_closed).abs().max())
    print(
        f"{keep}: fp64 {exact:.1e}; fp32 {apart:.1e}, its rounding {rounding:.1e}, logits to {single.abs().max():.1f}"
    )
    assert exact < 1e-10
    assert apart < max(1e-5, 2 * rounding)


@pytest.fixture(scope="module")
def encoder():
    settings = ModelSettings(model_name_or_path="packaged:minilm-l6-v2", pooling="mean")
    module = load_model(settings, task="classify", labels=["a", "b", "c"]).module
    with torch.no_grad():  # a fresh head is small, and so would every difference be
        module.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    return module


@pytest.fixture(scope="module")
def decoder():
    return load_model(
        ModelSettings(model_name_or_path="packaged:smollm2-135m-instruct"), task="causal-lm", labels=None
    ).module


@pytest.mark.parametrize("keep", ENCODER, ids=str)
def test_the_encoder_in_single_and_double_precision(encoder, keep):
    check(encoder, keep, batch_of(rows=3, length=24, vocabulary=20_000))


def test_the_encoder_is_read_by_transformers_alone(encoder, tmp_path):
    batch = batch_of(rows=2, length=12, vocabulary=20_000, padded=(0, 3))
    _, small = both(encoder, ENCODER[-1], batch)
    small.save_pretrained(tmp_path)
    reloaded(tmp_path, batch, small, "AutoModel", "add_pooling_layer=False, ")


@pytest.mark.slow
@pytest.mark.parametrize("keep", DECODER, ids=str)
def test_the_decoder_in_single_and_double_precision(decoder, keep, monkeypatch):
    # The library's norm computes in single precision whatever it reads; here in that of what it reads.
    monkeypatch.setattr(
        LlamaRMSNorm,
        "forward",
        lambda self, read: self.weight * read * torch.rsqrt(read.pow(2).mean(-1, keepdim=True) + self.variance_epsilon),
    )
    check(decoder, keep, batch_of(rows=2, length=24, vocabulary=40_000))


@pytest.mark.slow
def test_the_decoder_writes_the_same_with_and_without_a_cache(decoder):
    batch = batch_of(rows=1, length=8, vocabulary=40_000, padded=(0,))
    _, small = both(decoder, DECODER[-1], batch)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 2}
    with_cache = small.generate(batch.tokens_BL, use_cache=True, **options)
    assert torch.equal(with_cache, small.generate(batch.tokens_BL, use_cache=False, **options))


@pytest.mark.slow
def test_the_decoder_is_read_by_transformers_alone(decoder, tmp_path):
    batch = batch_of(rows=2, length=12, vocabulary=40_000, padded=(0, 0))
    _, small = both(decoder, DECODER[-1], batch)
    small.save_pretrained(tmp_path)
    reloaded(tmp_path, batch, small, "AutoModelForCausalLM", "")


@pytest.mark.slow
def test_the_decoder_jointly_in_depth_neurons_groups_and_bits(decoder, tmp_path):
    """Four of its blocks, three steps: warm-up, resolution and ranges that stand, then a plain folder."""
    batch = rows_for("llama", rows=2, length=12, padded=(0, 0))
    times = Timetable(start=0, end=1, freeze=2, pressure=0.5, keep={"neurons": 768, "groups": 2})
    twin = prepare_qat(keep_layers(decoder, (0, 10, 20, 29)), SCHEMES["int8-dynamic"])
    shaping = Shaping(twin, install(twin, ("neurons", "groups")), times)
    optimiser = torch.optim.SGD([one for one in twin.parameters() if one.requires_grad], lr=1e-4)
    for step in range(3):
        shaping.before(step)
        found = outputs(twin, batch, Want()).logits_BTV
        (found.logsumexp(-1).mean() + (shaping.penalty() or 0.0)).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    done = shaping.finish()
    after = sizes_of(done.module)
    assert (after.depth, after.neurons, after.groups, after.heads) == (4, 768, 2, 6)
    assert count_parameters(done.module) == done.plan.parameters_after
    assert len(done.codes) == 4 * 7
    whole = computing(done.module, done.codes)
    assert (logits(whole, batch) - logits(twin.eval(), batch)).abs().max() < 1e-2
    done.module.save_pretrained(tmp_path)
    reloaded(tmp_path, batch, done.module, "AutoModelForCausalLM", "")


def reloaded(folder, batch, small, kind, options):
    """First output of the folder's model, computed by transformers in a process without our package, is ours."""
    inputs = {"input_ids": batch.tokens_BL, "attention_mask": batch.attention_BL.long()}
    save_file(inputs, folder / "inputs.safetensors")
    code = (
        f"import sys, torch, transformers\nfrom safetensors.torch import load_file, save_file\n"
        f"torch.set_num_threads(1)\n"
        f"model, said = transformers.{kind}.from_pretrained({str(folder)!r}, {options}output_loading_info=True)\n"
        f"assert not said['missing_keys'] and not said['unexpected_keys'] and not said['mismatched_keys'], said\n"
        f"with torch.no_grad(): first = model.eval()(**load_file({str(folder / 'inputs.safetensors')!r}))[0]\n"
        f"save_file({{'first': first.contiguous()}}, {str(folder / 'first.safetensors')!r})\n"
        f"assert not [name for name in sys.modules if name.startswith('potstill')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        ours = getattr(small, "encoder", small)(**inputs)[0]
    torch.testing.assert_close(load_file(folder / "first.safetensors")["first"], ours, rtol=0, atol=1e-5)
