"""Each score against a slow oracle that knows nothing of gates: rows one by one, unpadded, in double precision."""

from dataclasses import replace

import pytest
import torch

from potstill.compress.scores import block_influence, channel_scores, gate_scores, label_losses
from potstill.core.errors import ModelError
from potstill.students.axes import attention_of, sizes_of
from potstill.students.layouts import blocks_of, layout_of
from potstill.students.pooled import MeanPooledClassifier
from potstill.students.surgery import keep_layers
from tests.compress.calibration import alone, model, rows_for
from tests.students.tiny import DECODERS, ENCODERS

KINDS = ["bert", "distilbert", "llama", "gpt2", "qwen3"]


def heard_by(kept):
    return lambda _, inputs: kept.append(inputs[0])


def said_to(kept):
    return lambda _, __, output: kept.append(output if isinstance(output, torch.Tensor) else output[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_row_is_that_of_the_row_alone(kind):
    module, batch = model(kind), rows_for(kind)
    with torch.no_grad():
        together = label_losses(module, batch)
        one_by_one = torch.cat([label_losses(module, one) for one in alone(batch)])
        said = model(kind)(
            input_ids=batch.tokens_BL[:1], labels=batch.tokens_BL[:1] if kind in DECODERS else torch.tensor([0])
        )
    torch.testing.assert_close(together, one_by_one)
    torch.testing.assert_close(together[0], said.loss.to(together.dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_against_activation_times_gradient(kind):
    module, batch = model(kind), rows_for(kind)
    layout, wanted, tokens = layout_of(module), 0, 0
    for one in alone(batch):
        seen = []
        hooks = [
            block.get_submodule(layout.down).register_forward_pre_hook(heard_by(seen)) for block in blocks_of(module)
        ]
        gradients = torch.autograd.grad(label_losses(module, one).sum(), seen)
        for hook in hooks:
            hook.remove()
        products = torch.stack([(read * slope).abs()[0] for read, slope in zip(seen, gradients, strict=True)])
        wanted, tokens = wanted + products.sum(1), tokens + products.shape[1]
    torch.testing.assert_close(torch.stack(gate_scores(module, [batch]).neurons), (wanted / tokens).detach())


@pytest.mark.parametrize("kind", [*KINDS, "gemma3_text"])
def test_heads_and_groups_against_the_gradient_of_their_outgoing_weights(kind):
    """Scaling a head's columns W of the output linear scales the head: dL/dxi = sum of W * dL/dW, row by row."""
    module, batch = model(kind), rows_for(kind)
    found, sizes, layer = gate_scores(module, [batch]), sizes_of(module), 2
    out = blocks_of(module)[layer].get_submodule(attention_of(module).out).weight
    heads, groups = 0, 0
    for one in alone(batch):
        slope = out * torch.autograd.grad(label_losses(module, one).sum(), out)[0]
        channels = slope.sum(1 if layout_of(module).transposed else 0).detach().tolist()
        size, shared = sizes.head_size, sizes.heads // sizes.groups
        by_head = [sum(channels[head * size : (head + 1) * size]) for head in range(sizes.heads)]
        by_group = [sum(by_head[group * shared : (group + 1) * shared]) for group in range(sizes.groups)]
        heads, groups = heads + torch.tensor(by_head).abs(), groups + torch.tensor(by_group).abs()
    tolerance = {"rtol": 1e-4, "atol": 1e-6, "check_dtype": False}  # the norms of some models compute in fp32
    torch.testing.assert_close(found.heads[layer], heads / heads.norm(), **tolerance)
    torch.testing.assert_close(found.groups[layer], groups / groups.norm(), **tolerance)
    assert all(float(block.norm()) == pytest.approx(1) for block in (*found.heads, *found.groups))


def test_scores_do_not_depend_on_how_rows_are_batched_or_on_dropout():
    batch = rows_for("bert")
    module = model("bert").train()
    whole = gate_scores(module, [batch])
    parts = gate_scores(module, [batch.take([0]), batch.take([1, 2])])
    assert module.training
    for first, second in zip((*whole.neurons, *whole.heads), (*parts.neurons, *parts.heads), strict=True):
        torch.testing.assert_close(first, second)


def test_scoring_leaves_nothing_behind():
    module, batch = model("llama"), rows_for("llama")
    gate_scores(module, [batch])
    channel_scores(module, [batch])
    assert all(weight.grad is None for weight in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_frozen_model_is_scored_too():
    module, batch = model("bert"), rows_for("bert")
    wanted = gate_scores(module, [batch])
    torch.testing.assert_close(gate_scores(module.requires_grad_(False), [batch]).neurons[0], wanted.neurons[0])


def test_another_loss_gives_other_scores():
    module, batch = model("bert"), rows_for("bert")
    first = gate_scores(module, [batch], lambda one, rows: 3 * label_losses(one, rows))
    torch.testing.assert_close(first.neurons[0], 3 * gate_scores(module, [batch]).neurons[0])


@pytest.mark.parametrize("kind", ["bert", "llama", "qwen3", "gpt2"])
def test_channels_are_the_root_mean_square_of_what_the_norms_hand_on(kind):
    module, batch = model(kind), rows_for(kind)
    width, total, count = sizes_of(module).width, 0, 0
    for one in alone(batch):
        heard = []
        hooks = [
            part.register_forward_hook(said_to(heard))
            for name, part in module.named_modules()
            if type(part).__name__.endswith(("LayerNorm", "RMSNorm")) and "q_norm" not in name and "k_norm" not in name
        ]
        with torch.no_grad():
            label_losses(module, one)
        for hook in hooks:
            hook.remove()
        for output in heard:
            assert output.shape[-1] == width
            for token in output.reshape(-1, width):
                total, count = total + token.detach() ** 2, count + 1
    torch.testing.assert_close(channel_scores(module, [batch]), (total / count).sqrt())


@pytest.mark.parametrize("kind", [*ENCODERS, "llama"])
def test_block_influence_against_the_models_own_states(kind):
    module, batch = model(kind), rows_for(kind)
    wanted, tokens = torch.zeros(4, dtype=torch.float64), 0
    for one in alone(batch):
        body = module.base_model
        last = []
        hook = blocks_of(module)[-1].register_forward_hook(said_to(last))
        with torch.no_grad():
            states = [
                *body(input_ids=one.tokens_BL, output_hidden_states=True).hidden_states[:4],
                last[0] if last else None,
            ]
        hook.remove()
        states[4] = last[0]
        for block in range(4):
            for before, after in zip(states[block][0], states[block + 1][0], strict=True):
                wanted[block] += 1 - (before @ after) / (before.norm() * after.norm())
        tokens += one.tokens_read
    torch.testing.assert_close(torch.tensor(block_influence(module, [batch]), dtype=torch.float64), wanted / tokens)


@pytest.mark.parametrize("idle", [0, 2])
def test_a_planted_block_that_does_nothing_ranks_first_and_goes_unnoticed(idle):
    module, batch = model("llama"), rows_for("llama")
    with torch.no_grad():
        module.model.layers[idle].self_attn.o_proj.weight.zero_()
        module.model.layers[idle].mlp.down_proj.weight.zero_()
    influence = block_influence(module, [batch])
    assert min(range(4), key=influence.__getitem__) == idle
    assert influence[idle] == pytest.approx(0, abs=1e-12)
    cut = keep_layers(module, [block for block in range(4) if block != idle])
    with torch.no_grad():
        torch.testing.assert_close(cut(batch.tokens_BL).logits, module(batch.tokens_BL).logits, rtol=0, atol=1e-12)


def test_a_mean_pooled_classifier_is_scored_through_its_head():
    torch.manual_seed(0)
    module = MeanPooledClassifier(model("bert", torch.float32).bert).double().eval()
    batch = rows_for("bert")
    scores = gate_scores(module, [batch])
    assert len(scores.neurons) == 4
    assert scores.neurons[3].shape == (24,)
    assert channel_scores(module, [batch]).shape == (16,)
    assert len(block_influence(module, [batch])) == 4


@pytest.mark.parametrize("score", [gate_scores, channel_scores, block_influence])
def test_an_empty_calibration_set_is_refused(score):
    with pytest.raises(ModelError, match="calibration set is empty"):
        score(model("bert"), [])


def test_rows_without_labels_are_refused():
    batch = rows_for("bert")
    nothing = {"hard": torch.zeros(3, 1), "soft": torch.ones(3, 1)}
    with pytest.raises(ModelError, match="no gradient arrives"):
        gate_scores(model("bert"), [replace(batch, weights=nothing)])
