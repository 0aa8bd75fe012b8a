"""Does it pay to learn from difficult rows only? Difficulty-aware distillation (DA-KD) against all rows, one task.

    python benchmarks/difficulty.py --seeds 0 1 2
    python benchmarks/difficulty.py --seeds 0 --arms full difficult --passes 4

The teacher of the recipe `da-kd` is fine-tuned once, under the first seed, and teaches every arm of every seed; a seed
decides the student's order of rows, its draws and its dropout. Each arm is an ordinary run in
runs/difficulty/ARM-seed-N, so a stopped benchmark goes on where it was. No checkpoint is chosen: what is measured on
the test rows is the student after its last step. The tables go to standard output as Markdown, the numbers to
benchmarks/results/difficulty.json.

Cost is counted in passes of training over all rows: steps as they were taken, and each reading of all rows by the
student to score them as a third of a pass (forwards only). Recorded answers make the teacher's losses free here.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paired import differences, table

import potstill
from potstill.data.difficulty.schedule import FORWARDS_OF_A_STEP, scoring
from potstill.folder import RunFolder

RESULTS = Path(__file__).parent / "results"
PLAIN = ["controls=[]", "evaluate.cost=null", "evaluate.bootstrap=100", "train.eval_steps=null", "train.bf16=false"]
BOUNDED = ["objective.divergence=bidirectional", "objective.lam=0.9"]
KL = ["objective.divergence=forward_kl", "objective.lam=null"]
# What each arm changes in the recipe `da-kd`. {all}: steps of all passes over all rows; {same}: as many steps as the
# difficult arm takes; {cost} and {once}: as many as cost what `difficult` and `scored-once` cost, scoring included.
ARMS: Mapping[str, Sequence[str]] = {
    "difficult": [*KL],
    "scored-once": [*KL, "order.difficulty.score_every={passes}"],
    "full": [*KL, "order=null", "train.max_steps={all}"],
    "same-steps": [*KL, "order=null", "train.max_steps={same}"],
    "same-cost": [*KL, "order=null", "train.max_steps={cost}"],
    "once-cost": [*KL, "order=null", "train.max_steps={once}"],
    "difficult-bounded": [*BOUNDED],
    "full-bounded": [*BOUNDED, "order=null", "train.max_steps={all}"],
}

COLUMNS = ("steps", "cost", "accuracy", "macro_f1", "nll", "agreement", "kl", "seconds", "scoring_seconds")
PAIRS = [
    *(("difficult", other) for other in ("full", "same-steps", "same-cost")),
    *(("scored-once", other) for other in ("full", "difficult", "same-steps", "once-cost")),
    *(("difficult-bounded", other) for other in ("full-bounded", "difficult", "full")),
]


def main() -> None:
    """Run every arm of every seed, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/difficulty"))
    parser.add_argument("--name", default="difficulty")
    parser.add_argument(
        "--teacher", type=Path, help="the folder stages/teacher of a finished run, instead of a new one"
    )
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    first = options.output_dir / f"difficult-seed-{options.seeds[0]}"
    arms = ["difficult", *(arm for arm in options.arms if arm != "difficult")]
    found = {arm: list[dict[str, float]]() for arm in arms}
    for seed in options.seeds:
        sizes = {"passes": options.passes}
        for arm in arms:
            given = [f"seed={seed}", f"order.difficulty.passes={options.passes}", *PLAIN, *options.overrides]
            mine = [*given, *(one.format(**sizes) for one in ARMS[arm])]
            if "order=null" in mine:
                mine.remove(given[1])
            one = _run(mine, options.output_dir / f"{arm}-seed-{seed}", options.teacher or first / "stages" / "teacher")
            if arm == "difficult":
                every = _plain_steps(one, options.passes)
                scored, once = (scoring(options.passes, each) * every / options.passes for each in (1, options.passes))
                steps = int(one["steps"])
                sizes |= {"all": every, "same": steps, "cost": int(steps + scored), "once": int(steps + once)}
            one["cost"] = (one["steps"] + one["scoring_steps"]) / (sizes["all"] / options.passes)
            found[arm].append(one)
    print("\n".join([*table(found, COLUMNS), "", *differences(found, PAIRS, ("accuracy", "nll", "kl"))]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps({"seeds": options.seeds, "arms": found}, indent=1))


def _run(overrides: Sequence[str], folder: Path, teacher: Path) -> dict[str, float]:
    """One arm under one seed, with a teacher that is trained already where there is one."""
    if teacher.exists() and not (folder / "config.yaml").exists():
        RunFolder.open(folder, potstill.load_recipe("da-kd", list(overrides)))
        shutil.copytree(teacher, folder / "stages" / "teacher")
    record = potstill.run("da-kd", overrides, output_dir=folder)
    done = json.loads((folder / "stages" / "student" / "stage.json").read_text())
    order: Mapping[str, Any] = done["order"] or {"student_rows": 0, "seconds": 0.0}
    rows = done["data"]["splits"]["train"]["rows"]
    size = record.recipe["train"]["per_device_train_batch_size"]
    return {
        **{name: record.value(f"quality.{name}") for name in ("accuracy", "macro_f1", "nll")},
        "agreement": record.value("agreement.top1"),
        "kl": record.value("agreement.kl"),
        "teacher": record.value("quality.accuracy", "teacher"),
        "rows": rows,
        "batch_size": size,
        "steps": done["steps"],
        "examples": done["examples"],
        "scoring_steps": order["student_rows"] / size / FORWARDS_OF_A_STEP,
        "seconds": done["seconds"],
        "scoring_seconds": order["seconds"],
    }


def _plain_steps(one: Mapping[str, float], passes: int) -> int:
    return passes * -int(-one["rows"] // one["batch_size"])


if __name__ == "__main__":
    main()
