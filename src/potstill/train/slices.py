"""What a spread module holds, on disk: a safetensors file per rank, written and read by torch's distributed checkpoint.

No rank holds a whole tensor, and any number of ranks read the files. Each rank plans and writes for itself: the default
planner would send pickles between the ranks, and the default writer leaves a pickled `.metadata`. Importing this takes
most of a second, and one process does without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed.checkpoint as distributed
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner, create_default_global_save_plan
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan

from potstill.train.shards import is_spread


class _OwnSlices(DefaultSavePlanner):
    """The plan of one rank, which need not cover whole tensors."""

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        self.global_plan, self.metadata = create_default_global_save_plan(all_plans)
        return self.global_plan, self.metadata


class _OwnFile(distributed.HuggingFaceStorageWriter):
    """The file of one rank, named after it."""

    def __init__(self, folder: Path, rank: int):
        super().__init__(str(folder), save_distributed=True)
        self._rank = rank

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [replace(plan, storage_data={"shard_index": self._rank + 1}) for plan in plans]


def write_slices(folder: Path, tensors: Mapping[str, Tensor], *, rank: int) -> None:
    """Write this rank's slices into `folder`, which the ranks share; what is not spread, the leader writes whole.

    Raises OSError.
    """
    own = {name: tensor for name, tensor in tensors.items() if rank == 0 or is_spread(tensor)}
    _alone(lambda: distributed.save(own, storage_writer=_OwnFile(folder, rank), planner=_OwnSlices(), no_dist=True))


def read_slices(folder: Path, like: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
    """The tensors in the files of all ranks: this rank's slice where `like` has a spread tensor of the same shape for
    the name, else whole."""
    reader = distributed.HuggingFaceStorageReader(str(folder))
    found = {}
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata)
        other, dtype = like(name), stored.properties.dtype
        if other is not None and is_spread(other) and other.shape == stored.size:
            found[name] = torch.empty_like(other, dtype=dtype, requires_grad=False)
        else:
            found[name] = torch.empty(stored.size, dtype=dtype)
    _alone(lambda: distributed.load(found, storage_reader=reader, no_dist=True))
    return found


def _alone(action: Callable[[], object]) -> None:
    """Act for this rank, and raise what was wrong instead of the table of ranks that torch makes of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            action()
        except CheckpointException as error:
            (failure, _), *_ = error.failures.values()
            raise failure from None
