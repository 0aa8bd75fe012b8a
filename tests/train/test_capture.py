import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from potstill.core.errors import CheckpointError
from potstill.train.capture import (
    changing_buffers,
    load_weights,
    optimiser_tensors,
    restore_buffers,
    restore_optimiser,
    unique_tensors,
)
from potstill.train.optimise import build_optimiser
from tests.train.tiny_run import TinyLM, digest, settings


def stored(folder, module):
    tensors, aliases = unique_tensors(module)
    save_file(tensors, folder / "model.safetensors")
    return tensors, aliases


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    module, fresh = TinyLM(), TinyLM(seed=9)
    tensors, aliases = stored(tmp_path, module)
    assert aliases == {"head.weight": "embed.weight"}
    assert "head.weight" not in tensors
    load_weights(tmp_path, fresh)
    assert digest(fresh) == digest(module)
    assert fresh.head.weight is fresh.embed.weight


def test_views_of_one_storage_and_strides_survive(tmp_path):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.arange(24.0).reshape(4, 6)
            self.register_buffer("top", whole[:2])
            self.register_buffer("bottom", whole[2:])
            self.register_buffer("turned", whole.t())
            self.register_buffer("empty", torch.zeros(0))
            self.register_buffer("also_empty", torch.zeros(0, 3))

    module, fresh = Views(), Views()
    expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for buffer in fresh.buffers():
        buffer.zero_()
    _, aliases = stored(tmp_path, module)
    assert aliases == {}
    loose = nn.Module()
    for name, tensor in expected.items():
        loose.register_buffer(name, torch.zeros_like(tensor))
    load_weights(tmp_path, loose)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loose.state_dict().items())


def test_weights_of_another_model_are_refused(tmp_path):
    stored(tmp_path, nn.Linear(3, 3))
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_weights(tmp_path, TinyLM())


def step(module, optimiser, seed):
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    module.inner.bias.grad = None if seed < 2 else module.inner.bias.grad  # starts late, so has no state at first
    optimiser.step()


def test_the_optimiser_goes_on_bit_for_bit(tmp_path):
    module = TinyLM()
    optimiser = build_optimiser(module, settings())
    step(module, optimiser, 0)
    step(module, optimiser, 1)
    again = TinyLM(seed=4)
    again.load_state_dict(module.state_dict())
    restored = build_optimiser(again, settings())
    tensors = optimiser_tensors(optimiser)
    assert not any(name.startswith("inner.bias|") for name in tensors)
    save_file(tensors, tmp_path / "optimizer.safetensors")
    restore_optimiser(restored, tmp_path)
    for seed in (2, 3):
        step(module, optimiser, seed)
        step(again, restored, seed)
    assert digest(again) == digest(module)


def test_state_of_an_unknown_parameter_is_refused(tmp_path):
    optimiser = build_optimiser(TinyLM(), settings())
    save_file({"layer.9.weight|exp_avg": torch.zeros(1)}, tmp_path / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"layer\.9\.weight, which is not trained now"):
        restore_optimiser(optimiser, tmp_path)


@pytest.mark.parametrize("module", [TinyLM(), nn.BatchNorm1d(8)])
def test_buffers_that_forward_changes_can_be_taken_back(module):
    before, buffers = digest(module), changing_buffers(module)
    inputs = torch.ones(2, 3, dtype=torch.long) if isinstance(module, TinyLM) else torch.randn(4, 8)
    module(inputs)
    assert digest(module) != before
    restore_buffers(module, buffers)
    assert digest(module) == before
