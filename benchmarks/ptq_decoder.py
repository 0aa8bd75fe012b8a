"""What rounding costs a language model, without any training: perplexity, agreement, bytes, scheme by scheme.

    python benchmarks/ptq_decoder.py half-decoder --rows 4 --length 256

The model is the one that the recipe's student is cut from, whole; the first packed rows of the recipe's test split are
measured, the first of its training split calibrate static activations. A scheme that does not fit the model is listed
with the reason. A table goes to standard output as Markdown, the numbers to benchmarks/results/ptq-decoder.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ptq import ARMS
from torch import nn

import potstill
from potstill.compress.ptq import quantise_model, size_bytes
from potstill.compress.scheme import QuantScheme
from potstill.core.batch import Batch
from potstill.core.errors import InputError
from potstill.core.protocols import Forward
from potstill.core.signal import Outputs, Want
from potstill.data.order import in_order
from potstill.data.prepare import prepare
from potstill.evaluate.predictions import predict_tokens
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from potstill.students.taps import outputs

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Load, round, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="of a language model")
    parser.add_argument("--rows", type=int, default=4, help="packed test rows to measure")
    parser.add_argument("--calibration", type=int, default=4, help="packed training rows for static activations")
    parser.add_argument("--length", type=int, default=256, help="tokens in a row")
    parser.add_argument("--only", default="", help="only schemes whose name holds this")
    options = parser.parse_args()
    recipe = potstill.load_recipe(options.recipe)
    named = ModelSettings(**recipe.student.model_dump(include=set(ModelSettings.model_fields)))
    model = load_model(named, task=recipe.task, labels=None)
    data = recipe.data.model_copy(update={"max_length": options.length, "pack": True})
    prepared = prepare(data, model.tokenizer, recipe.task, recipe.seed)
    if prepared.test is None:
        raise SystemExit(f"{options.recipe}: it has no data.test, so there is nothing to measure on: name one")
    test = in_order(prepared.test.encoded[: options.rows], prepared.collate, 1)
    rows = in_order(prepared.train.encoded[: options.calibration], prepared.collate, 1)
    exact = remembered(model.module, test)
    print("| scheme | perplexity | same choice | KL, nats a token | MB |", "|---" * 5 + "|", sep="\n")
    found = {}
    for name, scheme in ARMS.items():
        if options.only in name:
            found[name] = measured(model.module, scheme, exact, test, rows)
            print(line(name, found[name]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ptq-decoder.json").write_text(json.dumps({"rows": options.rows, "arms": found}, indent=1))


def remembered(module: nn.Module, batches: Sequence[Batch]) -> Forward:
    """What the model in floats says of these batches, computed once."""
    with torch.inference_mode():
        said = {batch.ids: outputs(module, batch, Want(logits=True)) for batch in batches}

    def forward(batch: Batch, want: Want) -> Outputs:
        return said[batch.ids]

    return forward


def measured(
    module: nn.Module, scheme: QuantScheme | None, exact: Forward, test: Sequence[Batch], rows: Sequence[Batch]
) -> dict[str, float] | str:
    """One scheme against the model in floats, or why it does not fit."""
    try:
        static = scheme is not None and scheme.activations is not None and scheme.activations.static
        quantised = module if scheme is None else quantise_model(module, scheme, rows if static else ())
    except InputError as error:
        return str(error)
    forward = exact if scheme is None else partial(outputs, quantised)
    sums = predict_tokens(forward, test, teacher=exact)
    assert sums.agreed_S is not None
    assert sums.compared_S is not None
    assert sums.kl_S is not None
    return {
        "perplexity": float(np.exp(sums.nll_S.sum() / sums.tokens_S.sum())),
        "agreement": float(sums.agreed_S.sum() / sums.compared_S.sum()),
        "kl": float(sums.kl_S.sum() / sums.compared_S.sum()),
        "bytes": size_bytes(quantised),
    }


def line(name: str, found: Mapping[str, float] | str) -> str:
    """A row of the table."""
    if isinstance(found, str):
        return f"| {name} | {found} | | | |"
    return (
        f"| {name} | {found['perplexity']:.2f} | {found['agreement']:.3f} | {found['kl']:.2g} "
        f"| {found['bytes'] / 1e6:.1f} |"
    )


if __name__ == "__main__":
    main()
