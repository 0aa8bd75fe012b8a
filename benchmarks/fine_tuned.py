"""What a distilled encoder keeps on a task: it is fine-tuned beside its teacher, and beside students of other starts.

    python benchmarks/layers.py distilbert --seeds 0 1 2 --one-teacher
    python benchmarks/fine_tuned.py --seeds 0 1 2

The first command makes the students in runs/layers; this one fine-tunes them, and their teacher, by the recipe
`distilbert-classifier`, one teacher a seed. Each arm is an ordinary run in OUTPUT/ARM-seed-N, so a stopped benchmark
goes on where it was. The arm `distilled` trains the teacher, the student with the teacher's distribution, and the same
student on the labels alone; the other arms are fine-tuned on the labels alone. A table and the comparisons go to
standard output as Markdown, the numbers to benchmarks/results/fine-tuned.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import potstill
from potstill.core.record import RunRecord
from potstill.evaluate.interval import student_t

RESULTS = Path(__file__).parent / "results"
RECIPE = "distilbert-classifier"
ALONE = ("stages=[]", "teacher=null", "objective.soft_weight=0", "objective.hard_weight=1", "objective.temperature=1")
TAUGHT, PLAIN = "distilled, labels and teacher", "distilled"
# Starts that are fine-tuned on the labels alone: the run of benchmarks/layers.py they are the student of.
OTHERS = {
    "masked-LM labels alone": "labels alone",
    "copied blocks": "copied start, no step",
    "masked-LM from a random start": "all three, random start",
}
QUALITY = ("quality.accuracy", "quality.macro_f1", "quality.nll")
COST = (
    *("cost.parameters", "cost.bytes", "cost.peak_memory_bytes", "cost.latency_p50_ms", "cost.latency_speedup"),
    *("cost.throughput_rows_s", "cost.throughput_rows_s_speedup"),
)
Values = dict[str, dict[str, list[float]]]


def main() -> None:
    """Run every arm of every seed, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--from", dest="source", type=Path, default=Path("runs/layers"), help="runs of layers.py")
    parser.add_argument(
        "--teacher", type=Path, help="the encoder to fine-tune as the teacher, instead of the first seed's"
    )
    parser.add_argument("--output-dir", type=Path, default=Path("runs/fine-tuned"))
    parser.add_argument("overrides", nargs="*", help="of the last stage and of the teacher's training alike")
    options = parser.parse_intermixed_args()
    teacher = options.teacher or made_by(options.source, options.seeds[0], "all three") / "stages" / "teacher" / "model"
    found: Values = {}
    for seed in options.seeds:
        for name, values in run_seed(seed, options.source, teacher, options.overrides, options.output_dir).items():
            for measure, value in values.items():
                found.setdefault(name, {}).setdefault(measure, []).append(value)
    print("\n".join([*table(found), "", *claims(found)]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fine-tuned.json").write_text(json.dumps({"seeds": options.seeds, "arms": found}, indent=1))


def made_by(source: Path, seed: int, arm: str) -> Path:
    """The run folder of one arm of `layers.py`."""
    return source / f"distilbert-seed-{seed}-{arm.replace(' ', '-').replace(',', '')}"


def run_seed(
    seed: int, source: Path, teacher: Path, overrides: Sequence[str], root: Path
) -> dict[str, dict[str, float]]:
    """Measures by subject: the teacher, the distilled student twice, and the students of other starts."""
    first = [f"stages.0.{one}" for one in overrides if one.startswith("train.")]
    taught = [
        *(f"seed={seed}", "controls=[labels]", *overrides, *first),
        f"stages.0.student.model_name_or_path={teacher}",
        f"student.model_name_or_path={made_by(source, seed, 'all three') / 'model'}",
    ]
    record = potstill.run(RECIPE, taught, output_dir=root / f"distilled-seed-{seed}")
    found = {
        "teacher": values_of(record, "teacher"),
        TAUGHT: values_of(record, "student"),
        PLAIN: values_of(record, "labels"),
    }
    for name, arm in OTHERS.items():
        alone = [f"seed={seed}", "controls=[]", *overrides, "evaluate.cost=null", *ALONE]
        start = f"student.model_name_or_path={made_by(source, seed, arm) / 'model'}"
        place = root / f"{name.replace(' ', '-')}-seed-{seed}"
        found[name] = values_of(potstill.run(RECIPE, [*alone, start], output_dir=place), "student")
    return found


def values_of(record: RunRecord, subject: str) -> dict[str, float]:
    """What a run measured of one subject."""
    values = {name: record.value(name, subject) for name in (*QUALITY, *COST)}
    return {name: value for name, value in values.items() if value is not None}


def table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Markdown: a row per subject; the mean over seeds, with Student's 95 % interval where there are several."""
    names = [name for name in (*QUALITY, *COST) if any(name in values for values in found.values())]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for subject, values in found.items():
        cells = [estimated(values[name]) if name in values else "–" for name in names]
        lines.append(f"| {subject} | {' | '.join(cells)} |")
    return lines


def claims(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Accuracy seed by seed: each student's share of the teacher's, and the distilled student minus the others."""
    accuracy = {name: values["quality.accuracy"] for name, values in found.items()}
    lines = []
    for name in [name for name in accuracy if name != "teacher"]:
        shares = [ours / theirs for ours, theirs in zip(accuracy[name], accuracy["teacher"], strict=True)]
        lines.append(f"- {name}, share of the teacher's accuracy: {estimated(shares)}")
    for name in [name for name in accuracy if name not in ("teacher", PLAIN)]:
        apart = [ours - theirs for ours, theirs in zip(accuracy[PLAIN], accuracy[name], strict=True)]
        lines.append(f"- {PLAIN} minus {name}, accuracy: {estimated(apart)}")
    return lines


def estimated(values: Sequence[float]) -> str:
    """The mean, and what it was made of where there are several."""
    if len(values) == 1 or max(values) == min(values):
        return f"{values[0]:.4g}"
    found = student_t(list(values))
    return f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g}; {', '.join(f'{value:.4g}' for value in values)})"


if __name__ == "__main__":
    main()
