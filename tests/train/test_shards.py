"""A module spread over ranks is the module."""

import pytest
import torch

from potstill.train.shards import gathered, is_spread, settle, spread_like, whole
from tests.train.crew import crew


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
