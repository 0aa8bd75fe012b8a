"""A module spread over ranks is the module."""

import pytest
import torch
import torch.distributed.checkpoint as distributed
from safetensors.torch import load_file

from potstill.train.capture import unique_tensors
from potstill.train.shards import is_spread, local, settle, spread_like, whole
from tests.train.crew import crew, student


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("size", [2, 3])
def test_apart_and_together_again(tmp_path, size):
    ended = crew(tmp_path, size, do="slices")
    assert [(one.code, one.out) for one in ended] == [(0, "whole\n")] * size, ended
    _every_rank_wrote_its_part(tmp_path / "weights", size)


def _every_rank_wrote_its_part(folder, size):
    expected, _ = unique_tensors(student())
    names = [f"shard-{rank:05}-model-00001-of-00001.safetensors" for rank in range(1, size + 1)]
    assert sorted(one.name for one in folder.iterdir()) == names, "no file but these, and no pickle"
    for one in folder.iterdir():
        held = load_file(one)
        assert all(len(tensor) <= -(-len(expected[name]) // size) for name, tensor in held.items() if tensor.dim())
    # Another program needs nothing of ours.
    found = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    distributed.load(found, storage_reader=distributed.HuggingFaceStorageReader(str(folder)), no_dist=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_is_not_spread_is_left_alone():
    tensor = torch.ones(2)
    assert not is_spread(tensor)
    assert whole(tensor) is tensor
    assert spread_like(tensor, torch.ones(2)) is tensor
    assert spread_like(tensor, None) is tensor
    assert local(tensor) is tensor
    settle(lambda: None)
