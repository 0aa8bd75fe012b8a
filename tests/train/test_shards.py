"""A module spread over ranks is the module."""

import pytest
import torch
import torch.distributed.checkpoint as distributed

from potstill.train.capture import unique_tensors
from potstill.train.shards import gathered, is_spread, settle, spread_like, whole
from potstill.train.state import save_checkpoint
from tests.train.crew import crew, student


@pytest.mark.parametrize("size", [2, 3])
def test_apart_and_together_again(tmp_path, size):
    ended = crew(tmp_path, size, do="slices")
    assert [(one.code, one.out) for one in ended] == [(0, "whole\n")] * size, ended


def test_what_is_not_spread_is_left_alone():
    tensor = torch.ones(2)
    assert not is_spread(tensor)
    assert whole(tensor) is tensor
    assert spread_like(tensor, torch.ones(2)) is tensor
    assert gathered({"a": tensor}, keep=True)["a"] is tensor
    assert gathered({"a": tensor}, keep=False) == {}
    settle(lambda: None)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_weights_of_a_checkpoint_are_read_by_torch_s_distributed_checkpoint(tmp_path):
    """Its reader of safetensors, without the planner's pickles: each process reads the slices it needs."""
    tensors, _ = unique_tensors(student())
    made = save_checkpoint(tmp_path, 1, tensors={"model": tensors}, state={}, fingerprint={})
    (tmp_path / "weights").mkdir()
    (made.folder / "model.safetensors").rename(tmp_path / "weights" / "model.safetensors")
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    reader = distributed.HuggingFaceStorageReader(str(tmp_path / "weights"))
    distributed.load(found, storage_reader=reader, no_dist=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
