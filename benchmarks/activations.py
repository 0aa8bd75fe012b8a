"""Where a classifier's inputs of linears are far larger than nearly all others, and so what a percentile cuts off.

    python benchmarks/activations.py runs/classifier --stage teacher

For each linear within the blocks: the 99.99 percentile of the size of its inputs over some training rows, the largest,
the share of rows that hold a value more than twice that percentile, and where these values sit: how many features they
are in, and the share of them at a row's first token. A table goes to standard output as Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from ptq import loaded
from torch import Tensor, nn

from potstill.compress.scheme import QuantScheme
from potstill.compress.sites import sites
from potstill.core.batch import Batch
from potstill.core.signal import Want
from potstill.students.taps import outputs

PERCENTILE, FAR = 0.9999, 2.0


@dataclass
class Heard:
    """sizes: of all values of real tokens, as far as kept. rows, features, first, count: of the far ones."""

    sizes: list[Tensor] = field(default_factory=list)
    limit: float = 0.0
    rows: int = 0
    features: set[int] = field(default_factory=set)
    first: int = 0
    count: int = 0


def main() -> None:
    """Read the rows twice: for the percentile, then for what lies beyond it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--stage", help="a stage of the run; without it, its last model")
    parser.add_argument("--rows", type=int, default=96, help="training rows to read")
    options = parser.parse_args()
    module, _, batches = loaded(options.run, options.stage, 1, options.rows)
    print("| inputs of | 99.99 % below | largest | rows with one twice as large | its features | first token |")
    print("|---" * 6 + "|")
    for name in sites(module, QuantScheme()).linears:
        one = heard(module, name, batches)
        share = one.rows / sum(len(batch.ids) for batch in batches)
        first = f"{one.first / one.count:.0%}" if one.count else "–"
        largest = float(max(size.max() for size in one.sizes))
        print(f"| {name} | {one.limit:.2f} | {largest:.2f} | {share:.0%} | {len(one.features)} | {first} |")


def heard(module: nn.Module, name: str, batches: Sequence[Batch]) -> Heard:
    """What one linear reads."""
    found, read = Heard(), []
    hook = module.get_submodule(name).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].abs()))
    try:
        with torch.inference_mode():
            for batch in batches:
                outputs(module, batch, Want(logits=True))
    finally:
        hook.remove()
    found.sizes = [sizes[batch.attention_BL] for sizes, batch in zip(read, batches, strict=True)]
    together = torch.cat([sizes.flatten() for sizes in found.sizes])
    found.limit = float(together.kthvalue(max(1, int(PERCENTILE * together.numel()))).values)
    for sizes_BLD, batch in zip(read, batches, strict=True):
        far = (sizes_BLD > FAR * found.limit) & batch.attention_BL.unsqueeze(-1)
        found.rows += int(far.flatten(1).any(1).sum())
        _, places, features = far.nonzero().unbind(1)
        found.features |= set(features.tolist())
        found.first += int((places == 0).sum())
        found.count += len(places)
    return found


if __name__ == "__main__":
    main()
