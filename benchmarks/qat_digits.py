"""Whether training on a grid pays: a small network on real handwritten digits, rounded at once or trained rounded.

    python benchmarks/qat_digits.py --seeds 0 1 2
    python benchmarks/qat_digits.py --seeds 0 1 2 3 4 5 6 7 8 9

scikit-learn's digits (1,797 rows, 600 of them kept for the test), a network of 64-16-16-10, trained in floats for 40
epochs. From there: rounded (PTQ, ranges of least error over 256 training rows), or trained 15 epochs more on the grid,
ranges frozen for the last third. Control: the same epochs more in floats. `taught`: half the loss is KL, at
temperature 2, from a network of 64-128-10 in floats. A table and differences seed by seed go to standard output as
Markdown, the numbers to benchmarks/results/qat-digits.json.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from paired import differences, table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from potstill.compress.grids import Grid
from potstill.compress.ptq import quantise_model
from potstill.compress.qat import finish, freeze_ranges, prepare_qat
from potstill.compress.scheme import Activations, QuantScheme

RESULTS = Path(__file__).parent / "results"
# bits of weights and of activations
GRIDS = {"w3a8": (3, 8), "w4a4": (4, 4), "w3a3": (3, 3), "w8a8": (8, 8)}
EPOCHS, MORE, FROZEN, ROWS = 40, 15, 5, 256
TEMPERATURE, TAUGHT = 2.0, 0.5
Score = Callable[[nn.Module], float]


class Rows(NamedTuple):
    """inputs: [N, 64], 0 to 1. labels: [N]."""

    inputs: Tensor
    labels: Tensor


def main() -> None:
    """Every seed, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for arm, value in run_seed(seed, GRIDS).items():
            found.setdefault(arm, []).append({"accuracy": value})
    pairs = []
    for name in GRIDS:
        pairs += [(f"{name} QAT, learned steps", f"{name} PTQ"), (f"{name} QAT, straight through", f"{name} PTQ")]
        pairs += [(f"{name} QAT, learned steps, taught", f"{name} QAT, learned steps")]
        pairs += [("fp32", f"{name} QAT, learned steps")]
    print("\n".join([*table(found, ["accuracy"]), "", *differences(found, pairs, ["accuracy"])]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "qat-digits.json").write_text(json.dumps({"seeds": options.seeds, "arms": found}, indent=1))


def run_seed(seed: int, grids: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Test accuracy of every arm."""
    train, test = split()
    torch.manual_seed(seed)
    teacher = fit(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), train, EPOCHS, 3e-3, seed).eval()
    layers = (nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    floats = fit(nn.Sequential(*layers), train, EPOCHS, 3e-3, seed)
    longer = fit(copy.deepcopy(floats), train, MORE, 1e-3, seed)
    found = {
        "teacher": accuracy(teacher, test),
        "fp32": accuracy(floats, test),
        "fp32, trained on": accuracy(longer, test),
    }
    some = [train.inputs[:ROWS]]
    for name, (weights, activations) in grids.items():
        scheme = QuantScheme(Grid(weights), Activations("mse", bits=activations), keep=("embeddings",))
        found[f"{name} PTQ"] = accuracy(quantise_model(floats, scheme, some), test)
        learned = prepare_qat(floats, scheme, some)
        straight = prepare_qat(floats, scheme, some, steps="straight-through")
        for label, twin, by in (
            ("learned steps", learned, None),
            ("straight through", straight, None),
            ("learned steps, taught", prepare_qat(floats, scheme, some), teacher),
        ):
            fit(twin, train, MORE, 1e-3, seed, teacher=by, freeze=MORE - FROZEN)
            finish(twin)
            found[f"{name} QAT, {label}"] = accuracy(twin, test)
    return found


def split() -> tuple[Rows, Rows]:
    """Training and test rows, the same for every seed."""
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return Rows(inputs[order[600:]], labels[order[600:]]), Rows(inputs[order[:600]], labels[order[:600]])


def fit(
    module: nn.Module,
    train: Rows,
    epochs: int,
    learning_rate: float,
    seed: int,
    *,
    teacher: nn.Module | None = None,
    freeze: int | None = None,
) -> nn.Module:
    """The module, trained with Adam on batches of 64. freeze: the epoch before which its ranges stop."""
    optimiser = torch.optim.Adam(module.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    module.train()
    for epoch in range(epochs):
        if epoch == freeze:
            freeze_ranges(module)
        for some in torch.randperm(len(train.labels), generator=generator).split(64):
            optimiser.zero_grad()
            loss(module(train.inputs[some]), train.labels[some], teacher, train.inputs[some]).backward()
            optimiser.step()
    return module


def loss(logits: Tensor, labels: Tensor, teacher: nn.Module | None, inputs: Tensor) -> Tensor:
    """(1 - w) cross-entropy + w T^2 KL(teacher || student); cross-entropy alone without a teacher."""
    hard = functional.cross_entropy(logits, labels)
    if teacher is None:
        return hard
    with torch.no_grad():
        told = (teacher(inputs) / TEMPERATURE).log_softmax(-1)
    soft = functional.kl_div((logits / TEMPERATURE).log_softmax(-1), told, log_target=True, reduction="batchmean")
    return (1 - TAUGHT) * hard + TAUGHT * TEMPERATURE**2 * soft


def accuracy(module: nn.Module, test: Rows) -> float:
    """Share of test rows that are told right."""
    with torch.no_grad():
        return float((module.eval()(test.inputs).argmax(1) == test.labels).double().mean())


if __name__ == "__main__":
    main()
