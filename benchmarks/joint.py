"""Pruned, quantised and taught at once, or one after the other? The recipe `jpqd` against two ways to the same size.

    python benchmarks/joint.py --seeds 0 1 2

Arms, all of two blocks with as many neurons as the joint arm keeps under the same seed, int8 in weights and inputs:

- joint: the recipe. Movement scores, the threshold and fake quantisation in one training.
- sequence: prune once by Taylor scores and teach in floats (three fifths of the steps), then quantise and teach on the
  grids (two fifths, at a tenth of the rate).
- distilled: prune once by Taylor scores, teach in floats for all of the steps, round afterwards (PTQ, the same scheme
  and calibration rows).

Budget: every arm takes as many steps on the same batches. The teacher of the recipe is fine-tuned once, under the first
seed, and teaches all; a seed decides the order of rows, dropout and fresh weights. Each arm is an ordinary run in
runs/joint/ARM-seed-N, so a stopped benchmark goes on where it was. No checkpoint is chosen: what is measured, on the
2,000 test rows, is what the integers of the last step compute. `floats`: the same weights without rounded inputs,
for `distilled` without any rounding. bytes: weights as integers with their steps, the rest in fp32. seconds: of
training after the teacher's. The tables go to standard output as Markdown, the numbers to
benchmarks/results/joint.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from paired import differences, table
from torch import nn

import potstill
from potstill import assemble
from potstill.bench import Bench
from potstill.compress.integers import computing, load_integers
from potstill.compress.plan_text import load_plan
from potstill.compress.ptq import quantise_model, size_bytes
from potstill.compress.scheme import SCHEMES
from potstill.compressing import calibration
from potstill.config import Recipe
from potstill.folder import RunFolder
from potstill.students.settings import ModelSettings
from potstill.train.stop import StopFlag

RESULTS = Path(__file__).parent / "results"
ARMS = ("joint", "sequence", "distilled")
# Of the steps, what the sequence spends in floats; and its learning rate on the grids (methods of QAT: a tenth).
IN_FLOATS, TENTH = 0.6, 0.1
COLUMNS = ("accuracy", "floats", "neurons", "bytes", "parameters", "steps", "seconds")


def main() -> None:
    """Run every arm of every seed, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/joint"))
    parser.add_argument(
        "--teacher", type=Path, help="the folder stages/teacher of a finished run, in place of a new one"
    )
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    teacher = options.teacher or options.output_dir / f"joint-seed-{options.seeds[0]}" / "stages" / "teacher"
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in options.seeds:
        plain = potstill.load_recipe("jpqd", [f"seed={seed}", *options.overrides])
        joint = options.output_dir / f"joint-seed-{seed}"
        for arm in ARMS:
            neurons = None if arm == "joint" else load_plan(joint / "stages" / "student" / "plan.json").after.neurons
            recipe, folder = arm_of(plain, arm, neurons), options.output_dir / f"{arm}-seed-{seed}"
            _share(recipe, folder, teacher)
            potstill.run(recipe, output_dir=folder)
            found[arm].append(measured(recipe, folder))
            print(f"{folder}: {found[arm][-1]}", flush=True)
    pairs = [(arm, other) for arm, other in combinations(ARMS, 2)]
    print("\n".join([*table(found, COLUMNS), "", *differences(found, pairs, ("accuracy", "floats", "bytes"))]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "joint.json").write_text(json.dumps({"seeds": options.seeds, "arms": found}, indent=1))


def arm_of(recipe: Recipe, arm: str, neurons: int | None) -> Recipe:
    """The recipe `jpqd` as this arm has it. neurons: that the joint arm kept in each block."""
    values = recipe.model_dump()
    values |= {"controls": ()}
    values["evaluate"] |= {"cost": None, "bootstrap": 100}
    unjudged = {"eval_steps": None, "save_steps": values["train"]["eval_steps"], "metric_for_best_model": "loss"}
    values["train"] |= unjudged
    if arm == "joint":
        return Recipe.model_validate(values)
    steps, rate = values["train"]["max_steps"], values["train"]["learning_rate"]
    prune, quantise = {"prune": {"keep": {"neurons": neurons}}}, {"quantise": values["compress"]["quantise"]}
    if arm == "distilled":
        values["compress"] = prune
        return Recipe.model_validate(values)
    names = ("student", "teacher", "objective", "train")
    first = {name: values[name] for name in names} | {"name": "pruned", "compress": prune}
    first["train"] = values["train"] | {"max_steps": round(IN_FLOATS * steps)}
    values["stages"] = [*values["stages"], first]
    values["student"] = {"model_name_or_path": "stage:pruned", "pooling": "mean"}
    values["compress"] = quantise
    values["train"] |= {
        "max_steps": steps - round(IN_FLOATS * steps),
        "learning_rate": TENTH * rate,
        "head_learning_rate": TENTH * values["train"]["head_learning_rate"],
    }
    return Recipe.model_validate(values)


def measured(recipe: Recipe, folder: Path) -> dict[str, float]:
    """A finished arm on the test rows, as its integers compute and as its floats do."""
    stages = [one.name for one in (*recipe.stages, recipe.final) if one.name != "teacher"]
    done = [json.loads((folder / "stages" / name / "stage.json").read_text()) for name in stages]
    with StopFlag() as stop:
        bench = Bench(recipe, RunFolder(folder), stop=stop, say=lambda text: None)
        bench.products["student"] = folder / "stages" / "student" / "model"
        made, prepared = assemble.model(bench, ModelSettings(model_name_or_path="stage:student"))
        whole = _integers(bench, recipe, folder, made.module, prepared)
        scores = [
            assemble.scores(bench, assemble.forward(one.eval()), prepared, prepared.test)["accuracy"]
            for one in (whole, made.module)
        ]
    return {
        "accuracy": scores[0],
        "floats": scores[1],
        "neurons": float(made.module.config.intermediate_size),
        "bytes": float(size_bytes(whole)),
        "parameters": float(made.record.parameters),
        "steps": float(sum(one["steps"] for one in done)),
        "seconds": sum(one["seconds"] for one in done),
    }


def _integers(bench: Bench, recipe: Recipe, folder: Path, module: nn.Module, prepared: Any) -> nn.Module:
    """What the student computes on integers: those it was trained on, or those it is rounded to now."""
    if recipe.compress is not None and recipe.compress.quantise is not None:
        return computing(module, load_integers(folder / "stages" / "student"))
    settings = potstill.load_recipe("jpqd").compress
    assert settings is not None, "the recipe is about it"
    assert settings.quantise is not None, "the recipe is about it"
    scheme = replace(SCHEMES[settings.quantise.scheme], keep=settings.quantise.keep)
    rows = calibration(bench, prepared.train.encoded, prepared, settings.quantise.calibration_rows)
    return quantise_model(module, scheme, rows)


def _share(recipe: Recipe, folder: Path, teacher: Path) -> None:
    """A run that begins gets the teacher, and what it said of all rows."""
    if (folder / "config.yaml").exists() or not (teacher / "stage.json").exists():
        return
    RunFolder.open(folder, recipe)
    shutil.copytree(teacher, folder / "stages" / "teacher")
    for one in teacher.parent.glob("student/answers-*"):
        for stage in recipe.stages[1:]:
            shutil.copytree(one, folder / "stages" / stage.name / one.name)
        shutil.copytree(one, folder / "stages" / "student" / one.name)


if __name__ == "__main__":
    main()
