"""What each term of a loss on layers is worth: the recipe's student again without it, from one teacher, at equal steps.

    python benchmarks/layers.py distilbert --seeds 0 1 2
    python benchmarks/layers.py distilbert --seeds 0 --teacher stages.0.train.max_steps=100 train.max_steps=50

The recipe's earlier stages are trained once a seed, with the overrides of `--teacher` and the others; every arm takes
their product as its teacher and its source. With `--one-teacher` those of the first seed teach all seeds, and intervals
say nothing of how teachers differ. Each arm is an ordinary run in OUTPUT/RECIPE-seed-N-ARM, so a stopped benchmark goes
on where it was. Two tables go to standard output as Markdown: the values, and each arm minus the whole recipe, seed by
seed. The numbers go to benchmarks/results/RECIPE-layers.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import potstill
from potstill.evaluate.interval import student_t

RESULTS = Path(__file__).parent / "results"
FRESH = "{num_hidden_layers: 3, hidden_size: 384, num_attention_heads: 12, intermediate_size: 1536}"
NO_TEACHER = ("teacher=null", "objective.soft_weight=0", "objective.temperature=1", "objective.layers=null")
# Each arm differs from the recipe's last stage by these settings alone.
ARMS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "distilbert": {
        "all three": (),
        "without the cosine": ("objective.layers=null",),
        "without the labels": ("objective.hard_weight=0",),
        "without the teacher's distribution": ("objective.soft_weight=0", "objective.temperature=1"),
        "labels alone": NO_TEACHER,
        "all three, random start": ("student.layers=null", "student.architecture=null", f"student.size={FRESH}"),
        "copied start, no step": ("train.learning_rate=1e-12", "train.max_steps=1"),
    },
}
MEASURES = {"masked-lm": ("quality.perplexity", "agreement.kl"), "classify": ("quality.accuracy", "agreement.kl")}


def main() -> None:
    """Train the teachers, run the arms, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=sorted(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/layers"))
    parser.add_argument("--teacher", action="append", default=[], help="an override of the earlier stages; repeatable")
    parser.add_argument("--one-teacher", action="store_true", help="the first seed's teacher teaches all seeds")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    found: dict[str, dict[str, list[float]]] = {}
    product: Path | None = None
    for seed in options.seeds:
        shared = [f"seed={seed}", "evaluate.cost=null", "controls=[]", *options.overrides]
        values_of_seed, made = run_arms(options.recipe, seed, shared, options.teacher, options.output_dir, product)
        product = made if options.one_teacher else None
        for arm, values in values_of_seed.items():
            for name, value in values.items():
                found.setdefault(arm, {}).setdefault(name, []).append(value)
    print("\n".join([*table(found), "", *differences(found, next(iter(ARMS[options.recipe])))]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.recipe}-layers.json").write_text(
        json.dumps({"seeds": options.seeds, "arms": found}, indent=1)
    )


def run_arms(
    name: str, seed: int, shared: Sequence[str], for_teacher: Sequence[str], root: Path, product: Path | None = None
) -> tuple[dict[str, dict[str, float]], Path]:
    """Measures by arm, the teacher's own among them, and what the arms began from. Without a `product` the first arm
    trains the stages that the others begin from."""
    found: dict[str, dict[str, float]] = {}
    for arm, changes in ARMS[name].items():
        place = root / f"{name}-seed-{seed}-{arm.replace(' ', '-').replace(',', '')}"
        taken = [f"seed={seed}", *shared, *changes] if product is None else [*shared, *later(product, changes)]
        record = potstill.run(name, [*taken, *(for_teacher if product is None else ())], output_dir=place)
        product = product or place / "stages" / "teacher" / "model"
        measures = MEASURES[record.recipe["task"]]
        found.setdefault("teacher", values_of(record, measures[:1], "teacher"))
        found[arm] = values_of(record, measures, "student")
    assert product is not None, "a recipe has arms"
    return {arm: values for arm, values in found.items() if values}, product


def later(product: Path, changes: Sequence[str]) -> list[str]:
    """The overrides of an arm that begins from stages that are trained."""
    start = ["stages=[]", f"student.model_name_or_path={product}", f"teacher.models.0.model_name_or_path={product}"]
    return [*start[: 2 if "teacher=null" in changes else 3], *changes]


def values_of(record: potstill.RunRecord, names: Sequence[str], subject: str) -> dict[str, float]:
    """What a run measured of one subject."""
    values = {name: record.value(name, subject) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Markdown: a row per arm; the mean over seeds, with Student's 95 % interval where there are several."""
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for arm, values in found.items():
        lines.append(f"| {arm} | {' | '.join(_cell(values.get(name)) for name in names)} |")
    return lines


def differences(found: Mapping[str, Mapping[str, Sequence[float]]], whole: str) -> list[str]:
    """Markdown: each arm minus `whole`, seed by seed; the mean with Student's 95 % interval. Empty for one seed."""
    apart: dict[str, dict[str, list[float]]] = {}
    for arm, values in found.items():
        for name, ours in values.items():
            theirs = found[whole].get(name, ())
            if arm != whole and len(ours) == len(theirs) > 1:
                apart.setdefault(arm, {})[name] = [a - b for a, b in zip(ours, theirs, strict=True)]
    return table(apart) if apart else []


def _cell(values: Sequence[float] | None) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    found = student_t(list(values))
    return f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"


if __name__ == "__main__":
    main()
