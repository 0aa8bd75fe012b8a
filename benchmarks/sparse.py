"""What zeros are worth, and what smaller matrices are worth: the time of one classifier, dense, with zeros, and cut.

    python benchmarks/sparse.py                       the teacher of `make demo`
    python benchmarks/sparse.py FOLDER --rounds 40

CPU seconds of one thread for the same batch, all models in turn, medians over rounds: unstructured and 2:4 zeros
against models that are physically smaller by as many weights of the blocks' matrices; and one linear layer in PyTorch's
own sparse format. The tables go to standard output as Markdown, the numbers to benchmarks/results/sparse.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from one_shot import BATCH, LENGTH, RESULTS, TEACHER, loaded, masked, table
from torch import nn

from potstill.compress.choose import UnitScores, choose
from potstill.compress.magnitude import global_wise, layer_wise, n_of_m, prunable
from potstill.compress.prune import apply
from potstill.core.batch import Batch
from potstill.core.signal import Want
from potstill.students.axes import sizes_of
from potstill.students.layer_map import evenly
from potstill.students.surgery import neuron_scores
from potstill.students.taps import outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=TEACHER, help="a classifier of mmlu-subjects")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    module, batches, _ = loaded(options.folder, 16 * BATCH, 1)
    longest = max(batches[0], key=lambda batch: batch.tokens_read)
    rows, length = longest.tokens_BL.shape
    found = {f"the model, {rows} rows of {length} tokens": speed(module, longest, options.rounds)}
    found["one layer"] = one_layer(options.rounds)
    for name, rows in found.items():
        print("\n".join([f"\n{name}\n", *table(rows)]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sparse.json").write_text(json.dumps(found, indent=1))


def speed(module: nn.Module, batch: Batch, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a batch, in turn; weights of the blocks' matrices that are not zero, in millions."""
    weights, norms = prunable(module), UnitScores(neurons=neuron_scores(module))
    sizes = sizes_of(module)
    whole = sum(weight.numel() for weight in weights.values())
    attention = whole // sizes.depth - 2 * sizes.width * sizes.neurons
    fit = (whole // 10 - attention) // (2 * sizes.width)  # neurons that make one block a tenth of all
    models = {
        "dense": module,
        "50 % zeros, global": masked(module, global_wise(weights, 0.5)),
        "90 % zeros, global": masked(module, global_wise(weights, 0.9)),
        "2:4 zeros": masked(module, n_of_m(weights, 2, 4)),
        "half of the blocks": apply(module, choose(module, norms, blocks=evenly(sizes.depth // 2, sizes.depth))),
        "half of the weights, by neurons": apply(
            module, choose(module, norms, keep={"neurons": sizes.neurons - whole // (4 * sizes.depth * sizes.width)})
        ),
        "a tenth: one block, fewer neurons": apply(module, choose(module, norms, keep={"neurons": fit}, blocks=(0,))),
    }
    taken = in_turn({name: partial(said, model, batch) for name, model in models.items()}, rounds)
    return {
        name: {
            "matrix weights, M": sum(weight.numel() for weight in prunable(model).values()) / 1e6,
            "of them not zero, M": sum(int(weight.count_nonzero()) for weight in prunable(model).values()) / 1e6,
            "CPU ms a batch": taken[name],
            "times as fast as dense": taken["dense"] / taken[name],
        }
        for name, model in models.items()
    }


def one_layer(rounds: int) -> dict[str, dict[str, float]]:
    """A linear of MiniLM's size: the dense product, and PyTorch's product with a matrix in compressed rows (CSR)."""
    weight, states = torch.randn(1536, 384), torch.randn(384, BATCH * LENGTH)
    products: dict[str, Callable[[], object]] = {"dense": partial(torch.matmul, weight, states)}
    for share in (0.5, 0.9, 0.98):
        zeros = weight.masked_fill(~layer_wise({"w": weight}, share).kept["w"], 0.0)
        products[f"{share:.0%} zeros, dense product"] = partial(torch.matmul, zeros, states)
        products[f"{share:.0%} zeros, CSR product"] = partial(torch.matmul, zeros.to_sparse_csr(), states)
    taken = in_turn(products, rounds)
    return {name: {"CPU ms": value, "times as fast as dense": taken["dense"] / value} for name, value in taken.items()}


def said(module: nn.Module, batch: Batch) -> None:
    with torch.inference_mode():
        outputs(module, batch, Want(teacher=False))


def in_turn(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median CPU milliseconds of each; a first round warms up and does not count."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for done in range(rounds + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if done:
                taken[name].append(1000 * (time.process_time() - began))
    return {name: statistics.median(values) for name, values in taken.items()}


if __name__ == "__main__":
    main()
