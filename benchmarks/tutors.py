"""Does a tutor pay? A student of a twenty-fourth of the teacher's size, taught directly, by a tutor, and by either.

    python benchmarks/tutors.py --seeds 0 1 2 3 4

The teacher of the recipe `takd` is fine-tuned once, under the first seed, and teaches every arm of every seed, as does
what it said of all rows; a seed decides fresh weights, the order of rows and dropout. The tutor is trained again under
each seed, and both arms that have one share it. Each arm is an ordinary run in runs/tutors/ARM-seed-N, so a stopped
benchmark goes on where it was. No checkpoint is chosen and no training ends early: what is measured on the test rows is
the student after its last step. The tables go to standard output as Markdown, the numbers to
benchmarks/results/tutors.json.

Budget: all arms spend the same on training, counted as steps times rows times weights that a token meets (as `potstill
plan` counts FLOPs), the tutor's training included, the shared teacher's left out. What a chain spends on its tutor the
others spend on more steps of the student. What an arm alone would read of all rows, to record what its teachers say of
them, is in a column of its own, in the same unit: steps of the student.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from paired import differences

import potstill
from potstill.config import Recipe
from potstill.estimate import StageEstimate, estimate
from potstill.evaluate.interval import student_t
from potstill.folder import RunFolder

RESULTS = Path(__file__).parent / "results"
ARMS = ("direct", "takd", "teid")
PLAIN = {"eval_steps": None, "save_steps": None, "metric_for_best_model": "loss", "bf16": False}
UNJUDGED = {**PLAIN, "early_stop_patience": None, "early_stop_threshold": None}
MEASURES = ("accuracy", "macro_f1", "nll")


def main() -> None:
    """Run every arm of every seed, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/tutors"))
    parser.add_argument(
        "--teacher", type=Path, help="the folder stages/teacher of a finished run, in place of a new one"
    )
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    teacher = options.teacher or options.output_dir / f"direct-seed-{options.seeds[0]}" / "stages" / "teacher"
    found: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for arm in options.arms:
            recipe = arm_of(potstill.load_recipe("takd", [f"seed={seed}", *options.overrides]), arm)
            folder = options.output_dir / f"{arm}-seed-{seed}"
            _share(recipe, folder, teacher, options.output_dir / f"takd-seed-{seed}" / "stages")
            for name, one in _run(recipe, folder).items():
                found.setdefault(name if name == "labels" else arm, []).append(one)
            print(f"{folder} done", flush=True)
    order = [arm for arm in ("labels", *ARMS) if arm in found]
    pairs = [(arm, other) for other, arm in combinations(order, 2)]
    print("\n".join([*table(found), "", *differences(found, pairs, ("accuracy", "nll"))]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tutors.json").write_text(json.dumps({"seeds": options.seeds, "arms": found}, indent=1))


def arm_of(recipe: Recipe, arm: str) -> Recipe:
    """The recipe `takd` as this arm has it; `direct` carries the control on labels. Without a tutor the student takes
    as many more steps as cost what the tutor's training costs."""
    values = recipe.model_dump()
    values["train"] |= UNJUDGED
    values["teacher"]["bf16"] = "auto"
    values["stages"][1]["train"] |= UNJUDGED
    values |= {"controls": ("labels",) if arm == "direct" else ()}
    values["evaluate"] |= {"cost": None, "bootstrap": 100}
    teacher = values["stages"][1]["teacher"]["models"][0]
    if arm == "direct":
        _, tutor, student = estimate(recipe)
        more = round(values["stages"][1]["train"]["max_steps"] * tutor.student_flops / student.student_flops)
        values["train"]["max_steps"] += more
        values["stages"] = values["stages"][:1]
        values["teacher"]["models"] = [teacher]
    elif arm == "teid":
        values["teacher"] |= {"models": [teacher, values["teacher"]["models"][0]], "choose": "closer"}
    return Recipe.model_validate(values)


def _share(recipe: Recipe, folder: Path, teacher: Path, tutored: Path) -> None:
    """A run that begins gets what others have done: the teacher and its answers, and the tutor of this seed and its."""
    if (folder / "config.yaml").exists() or not (teacher / "stage.json").exists():
        return
    RunFolder.open(folder, recipe)
    shutil.copytree(teacher, folder / "stages" / "teacher")
    if (tutored / "tutor" / "stage.json").exists() and len(recipe.stages) > 1:
        shutil.copytree(tutored / "tutor", folder / "stages" / "tutor")
    answers = [*teacher.parent.glob("student/answers-*"), *tutored.glob("student/answers-*")]
    for stage in ("student", *(one.name for one in recipe.stages[1:])):
        for one in answers:
            shutil.copytree(one, folder / "stages" / stage / one.name, dirs_exist_ok=True)


def _run(recipe: Recipe, folder: Path) -> dict[str, dict[str, float]]:
    """One arm under one seed."""
    record = potstill.run(recipe, output_dir=folder)
    stages = {one.name: one for one in estimate(recipe)}
    trained, read = _spent(recipe, folder, stages)
    curve = [row for row in record.metrics if row["arm"] == "student" and "share.tutor" in row]
    third = len(curve) // 3
    found = {}
    for name in ("student", *recipe.controls):
        found[name] = {
            **{one: record.value(f"quality.{one}", name) for one in MEASURES},
            "parameters": record.value("cost.parameters", name),
            "own_steps": _stage(folder, name)["steps"],
            "budget": trained if name == "student" else float(_stage(folder, name)["steps"]),
            "read": read if name == "student" else 0.0,
            "seconds": sum(_stage(folder, one)["seconds"] for one in stages if one != "teacher"),
        }
    for when, rows in (("first", curve[:third]), ("last", curve[-third:])) if third else ():
        for source in ("teacher", "tutor", "label"):
            found["student"][f"{source}_{when}"] = sum(row[f"share.{source}"] for row in rows) / len(rows)
    return found


def _stage(folder: Path, name: str) -> Mapping[str, Any]:
    return json.loads((folder / "stages" / name / "stage.json").read_text())


def _spent(recipe: Recipe, folder: Path, stages: Mapping[str, StageEstimate]) -> tuple[float, float]:
    """Training of all stages but the teacher's, and readings of all rows by teachers, in steps of the student."""
    unit, trained, read = stages["student"].student_flops, 0.0, 0.0
    for name, one in stages.items():
        if name == "teacher":
            continue
        done = _stage(folder, name)
        trained += done["steps"] * one.student_flops / unit
        batches = done["data"]["splits"]["train"]["rows"] / recipe.train.per_device_train_batch_size
        read += batches * one.teacher_flops / unit
    return trained, read


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """A row per arm, means over seeds with Student's 95 % interval where there are several."""
    columns = ("parameters", "own_steps", "budget", "read", *MEASURES, "seconds")
    lines = [f"| arm | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for arm, runs in found.items():
        lines.append(f"| {arm} | {' | '.join(_cell([one[name] for one in runs]) for name in columns)} |")
    for arm, runs in found.items():
        if "tutor_first" in runs[0]:
            for when in ("first", "last"):
                shares = [
                    f"{one} {_cell([run[f'{one}_{when}'] for run in runs])}" for one in ("teacher", "tutor", "label")
                ]
                lines.append(f"\n{arm}, {when} third of the steps: {', '.join(shares)}")
    return lines


def _cell(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    shown = f"{mean:,.0f}" if abs(mean) >= 1000 else f"{mean:.4g}"
    if len(values) < 2 or max(values) == min(values):
        return shown
    return f"{shown} ± {student_t(list(values)).high - mean:.2g}"


if __name__ == "__main__":
    main()
