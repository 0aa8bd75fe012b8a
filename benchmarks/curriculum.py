"""Does the order of skills pay? Gated, by zone, shuffled and reversed, on arithmetic with a skill that needs two more.

    python benchmarks/curriculum.py --seeds 0 1 2
    python benchmarks/curriculum.py stages=[] teacher=null objective.soft_weight=0 objective.hard_weight=1 --seeds 0

The second learns from the labels, and holds the student against 1 instead of a teacher.

The teacher of the recipe `curriculum` is trained once, under the first seed, on shuffled rows, and teaches every arm of
every seed; a seed decides the student's fresh weights and the order of its rows. Each arm is an ordinary run in
runs/curriculum/ARM-seed-N, so a stopped benchmark goes on where it was. The measure is the number of rows read until
every skill is at nine tenths of the teacher's on the validation rows, looked at every `train.eval_steps`; an arm that
never gets there is counted at its whole length and marked. Beside it the accuracy on the test rows of the checkpoint
that was best on the validation rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from paired import differences, table

import potstill
from potstill.data.arithmetic import SKILLS
from potstill.folder import RunFolder

RESULTS = Path(__file__).parent / "results"
PLAIN = ["controls=[]", "evaluate.cost=null", "evaluate.bootstrap=100", "train.bf16=false"]
BAR = 0.9
# A gate at 0 masters everything at once, which is the shuffled order, bit for bit.
ARMS: Mapping[str, Sequence[str]] = {
    "gated": [],
    "shuffled": ["order.mastery.opens_at=0"],
    "zone": ["order.mastery=null", "order.zone.slice_by=skill"],
    "reversed": ["order.mastery.prerequisites={units: [carry], carry: [tens]}"],
}

PAIRS = [
    ("gated", "shuffled"),
    ("gated", "reversed"),
    ("gated", "zone"),
    ("reversed", "shuffled"),
    ("zone", "shuffled"),
]


def main() -> None:
    """Run every arm of every seed, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/curriculum"))
    options = parser.parse_intermixed_args()
    teacher = options.output_dir / f"gated-seed-{options.seeds[0]}" / "stages" / "teacher"
    found = {arm: list[dict[str, float]]() for arm in options.arms}
    for seed in options.seeds:
        for arm in options.arms:
            overrides = [f"seed={seed}", *PLAIN, *options.overrides, *ARMS[arm]]
            found[arm].append(_run(overrides, options.output_dir / f"{arm}-seed-{seed}", teacher))
    print(
        "\n".join(
            [*table(found, list(found[options.arms[0]][0])), "", *differences(found, PAIRS, ("rows", "test.tens"))]
        )
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "curriculum.json").write_text(json.dumps({"seeds": options.seeds, "arms": found}, indent=1))


def _run(overrides: Sequence[str], folder: Path, teacher: Path) -> dict[str, float]:
    """One arm under one seed, with a teacher that is trained already where there is one."""
    if teacher.exists() and not (folder / "config.yaml").exists():
        RunFolder.open(folder, potstill.load_recipe("curriculum", list(overrides)))
        shutil.copytree(teacher, folder / "stages" / "teacher")
    record = potstill.run("curriculum", overrides, output_dir=folder)
    done = json.loads((folder / "stages" / "student" / "stage.json").read_text())
    size = record.recipe["train"]["per_device_train_batch_size"]
    curve = [row for row in record.metrics if row["arm"] == "student" and row["event"] == "evaluate"]
    teachers = done["order"]["teacher"]
    there = [
        row["step"] for row in curve if all(row[f"validation.skill.{one}"] >= BAR * teachers[one] for one in SKILLS)
    ]
    taught = record.recipe["teacher"] is not None
    return {
        "rows": (there[0] if there else done["steps"]) * size,
        "reached": float(bool(there)),
        **{f"test.{one}": record.value(f"slice.skill.{one}.accuracy") for one in SKILLS},
        **{
            f"teacher.{one}": record.value(f"slice.skill.{one}.accuracy", "teacher") if taught else 1.0
            for one in SKILLS
        },
    }


if __name__ == "__main__":
    main()
