import pytest
import torch

from potstill.compress.magnitude import layer_wise, prunable
from potstill.compress.masks import Masks
from potstill.core.errors import ModelError
from tests.students.tiny import batch_of, tiny

OPTIMISERS = {
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1),
    "adam with decay in the gradient": lambda weights: torch.optim.Adam(weights, lr=0.01, weight_decay=0.1),
    "sgd with momentum": lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9, weight_decay=0.1),
}


def step(module, optimiser):
    batch = batch_of()
    optimiser.zero_grad()
    logits = module(input_ids=batch.tokens_BL, attention_mask=batch.attention_BL.long()).logits
    logits.logsumexp(-1).mean().backward()
    optimiser.step()


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_zeros_survive_an_optimiser_that_has_momentum_already(kind):
    module = tiny("bert", "classify")
    optimiser = OPTIMISERS[kind](module.parameters())
    step(module, optimiser)
    step(module, optimiser)
    masks = layer_wise(prunable(module), 0.6)
    before = {name: weight.detach().clone() for name, weight in prunable(module).items()}
    with masks.hold(module, optimiser):
        for _ in range(4):
            step(module, optimiser)
            for name, weight in prunable(module).items():
                mask = masks.kept[name]
                assert int((weight == 0).sum()) == int((~mask).sum()) == int(0.6 * weight.numel())
                assert not weight.grad[~mask].any()
                assert weight.grad[mask].any()
                moments = [value for value in optimiser.state[weight].values() if value.shape == weight.shape]
                assert moments
                assert not any(moment[~mask].any() for moment in moments)
    assert all(
        (weight[masks.kept[name]] != before[name][masks.kept[name]]).any() for name, weight in prunable(module).items()
    )


def test_without_holding_they_come_back():
    """The control: the test above can fail."""
    module = tiny("bert", "classify")
    optimiser = OPTIMISERS["adamw"](module.parameters())
    step(module, optimiser)
    masks = layer_wise(prunable(module), 0.6)
    masks.apply(module)
    step(module, optimiser)
    assert any((weight[~masks.kept[name]] != 0).any() for name, weight in prunable(module).items())


def test_after_release_weights_learn_again_and_start_without_a_past():
    module = tiny("bert", "classify")
    optimiser = OPTIMISERS["adamw"](module.parameters())
    masks = layer_wise(prunable(module), 0.6)
    with masks.hold(module, optimiser):
        step(module, optimiser)
    name, weight = next(iter(prunable(module).items()))
    assert not optimiser.state[weight]["exp_avg"][~masks.kept[name]].any()
    step(module, optimiser)
    assert (weight[~masks.kept[name]] != 0).any()


def test_the_norm_for_clipping_counts_only_what_learns():
    module = tiny("bert", "classify")
    masks = layer_wise(prunable(module), 0.9)
    optimiser = OPTIMISERS["adamw"](module.parameters())
    with masks.hold(module, optimiser):
        batch = batch_of()
        module(input_ids=batch.tokens_BL, attention_mask=batch.attention_BL.long()).logits.sum().backward()
        seen = [
            weight.grad if name not in masks.kept else weight.grad[masks.kept[name]]
            for name, weight in module.named_parameters()
            if weight.grad is not None
        ]
        wanted = torch.cat([gradient.flatten() for gradient in seen]).norm()
        torch.testing.assert_close(
            torch.nn.utils.get_total_norm([w.grad for w in module.parameters() if w.grad is not None]), wanted
        )


def test_counts():
    masks = Masks({"a": torch.tensor([True, False, False]), "b": torch.tensor([True])})
    assert (masks.zeros, masks.weights, masks.sparsity) == (2, 4, 0.5)
    assert Masks({}).sparsity == 0


def test_masks_of_another_model_are_refused():
    module = tiny("bert", "classify")
    with pytest.raises(ModelError, match="nowhere: the mask has shape"):
        Masks({"nowhere": torch.ones(2, dtype=torch.bool)}).apply(module)
    name = next(iter(prunable(module)))
    with pytest.raises(ModelError, match=r"\(2,\).*shape \(16, 16\)"):
        Masks({name: torch.ones(2, dtype=torch.bool)}).apply(module)
