"""What rounding costs a model of a finished run, without any training: accuracy, agreement, bytes, scheme by scheme.

    python benchmarks/ptq.py runs/classifier --stage teacher
    python benchmarks/ptq.py runs/classifier --rows 2000 --calibration 512

The model is RUN/stages/STAGE/model, or RUN/model, of a classifier's run; the rows are the run's own: the first of its
test split are measured, some of its training rows (drawn from all classes by their hash, as the split is) calibrate
static activations. The model with rounded values runs in floats and says what integers would say; the time it takes is
no measure of an integer kernel. A table goes to standard output as Markdown, the numbers to
benchmarks/results/ptq.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import potstill
from potstill.compress.grids import Grid, effective_bits
from potstill.compress.ptq import codes, quantise_model, size_bytes
from potstill.compress.scheme import SCHEMES, Activations, QuantScheme
from potstill.core.batch import Batch
from potstill.data.order import in_order
from potstill.data.prepare import prepare
from potstill.evaluate.interval import paired_difference
from potstill.evaluate.predictions import Predictions, predict
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from potstill.students.taps import outputs

RESULTS = Path(__file__).parent / "results"
BATCH_SIZE = 32


def grouped(bits: int, size: int) -> Grid:
    """Symmetric codes with an fp16 step per group."""
    return Grid(bits, per="group", group=size, step_bits=16)


ARMS: Mapping[str, QuantScheme | None] = {
    "fp32": None,
    "int8 weights, a step per row": SCHEMES["int8-weights"],
    "int8 weights, one step": QuantScheme(Grid(8, per="tensor")),
    "int8, dynamic per token": SCHEMES["int8-dynamic"],
    **{
        f"int8, static, {method}": QuantScheme(activations=Activations(method))
        for method in ("min-max", "percentile", "entropy", "mse")
    },
    "int8, static, mse, 7-bit weights": QuantScheme(activations=Activations("mse"), overflow_fix=True),
    "int8, dynamic, embeddings and head too": QuantScheme(activations=Activations("dynamic"), keep=()),
    "int8, static, mse, embeddings and head too": QuantScheme(activations=Activations("mse"), keep=()),
    "int4 weights, a step per row": QuantScheme(Grid(4)),
    "int4 weights, groups of 128": QuantScheme(grouped(4, 128)),
    "int4 weights, groups of 32": SCHEMES["int4-weights"],
    "int4 weights, affine groups of 32": QuantScheme(Grid(4, False, "group", 32, 16)),
    "int4 weights, groups of 32, int8 dynamic": QuantScheme(grouped(4, 32), Activations("dynamic")),
    "int4 weights, groups of 32, embeddings and head too": QuantScheme(grouped(4, 32), keep=()),
    "int3 weights, groups of 32": QuantScheme(grouped(3, 32)),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """accuracy and its difference from fp32 (with a 95 % interval over rows), the share of rows with the same first
    choice, KL(fp32 || arm) in nats, bytes of the whole model, bits per quantised weight."""

    accuracy: float
    difference: tuple[float, float, float]
    agreement: float
    kl: float
    bytes: int
    bits: float


def main() -> None:
    """Load, round, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--stage", help="a stage of the run; without it, its last model")
    parser.add_argument("--rows", type=int, default=300, help="test rows to measure")
    parser.add_argument("--calibration", type=int, default=256, help="training rows for static activations")
    options = parser.parse_args()
    module, test, calibration = loaded(options.run, options.stage, options.rows, options.calibration)
    exact = scores(module, test)
    found = {name: measured(module, scheme, exact, test, calibration) for name, scheme in ARMS.items()}
    print("\n".join(table(found)))
    RESULTS.mkdir(exist_ok=True)
    values = {name: {field: getattr(arm, field) for field in Arm.__dataclass_fields__} for name, arm in found.items()}
    (RESULTS / "ptq.json").write_text(json.dumps({"rows": options.rows, "arms": values}, indent=1))


def loaded(run: Path, stage: str | None, rows: int, calibration: int) -> tuple[nn.Module, list[Batch], list[Batch]]:
    """The model in floats, its test rows, its calibration rows."""
    recipe = potstill.load_recipe(str(run / "config.yaml"))
    folder = run / "stages" / stage / "model" if stage else run / "model"
    model = load_model(ModelSettings(model_name_or_path=str(folder)), task=recipe.task, labels=None)
    prepared = prepare(recipe.data, model.tokenizer, recipe.task, recipe.seed)
    if prepared.test is None:
        raise SystemExit(f"{run}: its recipe has no data.test, so there is nothing to measure on: name one")
    some = in_order(prepared.train.labelled[:calibration], prepared.collate, BATCH_SIZE)
    return model.module, in_order(prepared.test.encoded[:rows], prepared.collate, BATCH_SIZE), some


def scores(module: nn.Module, batches: Sequence[Batch]) -> Predictions:
    """Logits of every labelled row."""
    module.eval()
    with torch.inference_mode():
        return predict(partial(outputs, module), batches).labelled


def measured(
    module: nn.Module, scheme: QuantScheme | None, exact: Predictions, test: Sequence[Batch], rows: Sequence[Batch]
) -> Arm:
    """One scheme against the model in floats."""
    if scheme is None:
        quantised, found, bits = module, exact, 32.0
    else:
        static = scheme.activations is not None and scheme.activations.static
        quantised = quantise_model(module, scheme, rows if static else ())
        found = scores(quantised, test)
        one = codes(quantised)
        weights = sum(each.codes.numel() for each in one.values())
        bits = sum(each.codes.numel() * effective_bits(each.codes.shape, each.grid) for each in one.values()) / weights
    size = size_bytes(quantised)
    right = [(one.logits_NC.argmax(1) == one.labels_N).double().numpy() for one in (found, exact)]
    apart = paired_difference(right[0], right[1], resamples=2000, seed=0)
    agreed = (found.logits_NC.argmax(1) == exact.logits_NC.argmax(1)).double().mean()
    kl = (exact.logprobs_NC.exp() * (exact.logprobs_NC - found.logprobs_NC)).sum(1).mean()
    return Arm(
        float(np.mean(right[0])),
        (apart.value, apart.low, apart.high),
        float(agreed),
        float(kl),
        size,
        bits,
    )


def table(found: Mapping[str, Arm]) -> list[str]:
    """Markdown."""
    lines = [
        "| scheme | accuracy | minus fp32 [95 %] | same choice | KL, nats | bits a weight | MB |",
        "|---" * 7 + "|",
    ]
    for name, arm in found.items():
        value, low, high = arm.difference
        lines.append(
            f"| {name} | {arm.accuracy:.3f} | {value:+.3f} [{low:+.3f}, {high:+.3f}] | {arm.agreement:.3f} "
            f"| {arm.kl:.2g} | {arm.bits:.4g} | {arm.bytes / 1e6:.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
