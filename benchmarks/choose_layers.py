"""Which blocks of a language model to keep: the greedy search behind `student.layers` of the recipe half-decoder.

    python benchmarks/choose_layers.py half-decoder --keep 15
    python benchmarks/choose_layers.py my.yaml --keep 12 --rows 8 --length 128

From all blocks, the one whose removal raises mean KL(teacher || cut model) least on a few rows of the training split is
dropped, again and again. The search is lazy: scores of a former round stay in order, and only the best candidates are
measured anew. Beside it: evenly spaced blocks, the lowest block influence dropped (Men et al. 2024, arXiv 2403.03853),
and the best contiguous run dropped (Gromov et al. 2024, arXiv 2403.17887), on the same rows. The result goes to
standard output as Markdown, its numbers to benchmarks/results/NAME-layers.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

import potstill
from potstill.compress.scores import block_influence
from potstill.core.batch import Batch
from potstill.core.protocols import Forward
from potstill.core.signal import Want
from potstill.data.order import in_order
from potstill.data.prepare import prepare
from potstill.evaluate.predictions import predict_tokens
from potstill.students.layer_map import evenly
from potstill.students.layouts import blocks_of
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from potstill.students.surgery import keep_layers
from potstill.students.taps import outputs

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Score:
    """A set of blocks, the mean KL of the model cut to them from the whole one (nats), and its perplexity."""

    kept: tuple[int, ...]
    kl: float
    perplexity: float


Scorer = Callable[[Sequence[int]], Score]


def main() -> None:
    """Search, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--keep", type=int, default=15, help="blocks to keep")
    parser.add_argument("--rows", type=int, default=4, help="calibration rows, from the training split")
    parser.add_argument("--length", type=int, default=256, help="tokens in a row")
    parser.add_argument("--candidates", type=int, default=8, help="blocks measured anew in each round")
    parser.add_argument("--overrides", nargs="*", default=[], metavar="KEY.SUB=VALUE")
    options = parser.parse_args()
    module, batches, name = calibration(options.recipe, options.overrides, options.rows, options.length)
    depth = len(blocks_of(module))
    if not 1 <= options.keep < depth:
        parser.error(f"--keep {options.keep}: the model has {depth} blocks; keep 1 to {depth - 1}")
    score = partial(measured, module, batches, heard(module, batches))
    found = {
        f"greedy, the best {options.candidates} measured anew": greedy(score, depth, options.keep, options.candidates)
    }
    found |= alternatives(score, depth, options.keep, block_influence(module, batches))
    print("\n".join(table(found)))
    RESULTS.mkdir(exist_ok=True)
    values = {label: {"kept": one.kept, "kl": one.kl, "perplexity": one.perplexity} for label, one in found.items()}
    (RESULTS / f"{name}-layers.json").write_text(json.dumps(values, indent=1))


def calibration(recipe: str, overrides: Sequence[str], rows: int, length: int) -> tuple[nn.Module, list[Batch], str]:
    """The model that the recipe's student is cut from, a few packed rows of its training split, the recipe's name."""
    settings = potstill.load_recipe(recipe, overrides)
    named = ModelSettings(**settings.student.model_dump(include=set(ModelSettings.model_fields)))
    loaded = load_model(named, task=settings.task, labels=None)
    data = settings.data.model_copy(update={"max_length": length, "pack": True})
    prepared = prepare(data, loaded.tokenizer, settings.task, settings.seed)
    return loaded.module, in_order(prepared.train.encoded[:rows], prepared.collate, rows), settings.name


def heard(module: nn.Module, batches: Sequence[Batch]) -> Forward:
    """The whole model's answers, given once and kept: batch x length x vocabulary x 4 bytes."""
    with torch.inference_mode():
        answers = {batch.ids: outputs(module, batch, Want(teacher=False)) for batch in batches}
    return lambda batch, want: answers[batch.ids]


def measured(module: nn.Module, batches: Sequence[Batch], teacher: Forward, kept: Sequence[int]) -> Score:
    """How far the model cut to these blocks is from the whole one."""
    sums = predict_tokens(partial(outputs, keep_layers(module, kept)), batches, teacher=teacher)
    loss = float(sums.nll_S.sum() / sums.tokens_S.sum())
    return Score(tuple(kept), float(sums.kl_S.sum() / sums.compared_S.sum()), math.exp(loss))


def greedy(score: Scorer, depth: int, keep: int, candidates: int) -> Score:
    """Drop one block after the other, each time the one that costs least.

    The first round measures every block. Later ones measure the `candidates` that cost least when they were last
    measured, on the assumption that a block which was dear stays dear when others have gone.
    """
    kept, cost = list(range(depth)), dict.fromkeys(range(depth), 0.0)
    best = Score(tuple(kept), 0.0, 1.0)
    while len(kept) > keep:
        tried = kept if len(kept) == depth else sorted(kept, key=cost.__getitem__)[:candidates]
        scores = {block: score([one for one in kept if one != block]) for block in tried}
        cost |= {block: one.kl - best.kl for block, one in scores.items()}
        dropped = min(scores, key=lambda block: scores[block].kl)
        best = scores[dropped]
        kept.remove(dropped)
        print(f"dropped {dropped}: KL {best.kl:.3f}, {len(kept)} left", file=sys.stderr, flush=True)
    return best


def alternatives(score: Scorer, depth: int, keep: int, influence: Sequence[float]) -> dict[str, Score]:
    """The usual choices of as many blocks."""
    strongest = sorted(sorted(range(depth), key=influence.__getitem__)[depth - keep :])
    gone = depth - keep
    runs = [score([*range(start), *range(start + gone, depth)]) for start in range(1, keep)]
    found = {"evenly spaced": score(evenly(keep, depth))}
    found["lowest block influence dropped"] = score(strongest)
    if runs:
        found["contiguous run dropped, best of all"] = min(runs, key=lambda one: one.kl)
    return found


def table(found: dict[str, Score]) -> list[str]:
    """Markdown, the closest first."""
    lines = ["| Choice | KL to the whole model | Perplexity | Blocks kept |", "|---|---|---|---|"]
    for label, one in sorted(found.items(), key=lambda item: item[1].kl):
        lines.append(f"| {label} | {one.kl:.3f} | {one.perplexity:,.1f} | {', '.join(map(str, one.kept))} |")
    return lines


if __name__ == "__main__":
    main()
