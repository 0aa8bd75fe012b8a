"""Ways to learn from one teacher: the data's text or the student's own, and five divergences.

    python benchmarks/on_policy.py small --seeds 0 1 2
    python benchmarks/on_policy.py smollm --seeds 0 1 2 --arms supervised gkd gkd-cost

`small`: two fresh decoders of 1.4 M and 0.1 M parameters, the student warmed up once a seed. `smollm`: half of
SmolLM2-135M-Instruct under the whole of it, warmed up once for all seeds. Each arm goes on from the warmed student,
with the same passages in the same order, for as many steps; `gkd-cost` for as many as cost what `supervised` costs.
Cost is counted in parameters read per token: the teacher reads a token once, the student reads and learns it (three
passes), and what it wrote itself it has read once more.

Measured is the student after its last step: no checkpoint is chosen, since a choice by the data's loss would favour
those who learn from the data. (`distillm` has to follow that loss, and takes the best of its eight evaluations.) Every
run lies in OUTPUT/SIZE, so a stopped benchmark goes on where it was. The tables go to standard output as Markdown, the
numbers to benchmarks/results/on-policy-SIZE.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from own_text import MEASURES, Ruler, loaded, measured
from paired import cell, interval
from small_decoder import untrained

from potstill.data.prepare import prepare
from potstill.recipe_yaml import load_recipe
from potstill.stage import run_stage
from potstill.still import opened

HERE = Path(__file__).parent
RESULTS = HERE / "results"


@dataclass(frozen=True, slots=True)
class Size:
    """steps: of an arm. rate: its learning rate. warm: what the warm-up changes in the recipe. per_seed: whether each
    seed has a warm-up of its own. measured: rows. teacher: None where the recipe itself trains one first."""

    recipe: Path
    steps: int
    rate: float
    warm: Mapping[str, Any]
    per_seed: bool
    prompt: int
    new: int
    measured: int
    at_once: int
    capacity: int
    teacher: str | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to learn. equal_cost: takes fewer steps, so that with its writing it costs what plain steps cost."""

    label: str
    objective: Mapping[str, Any]
    rollout: Mapping[str, Any] | None = None
    equal_cost: bool = False


TINY = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
KL = {"divergence": "forward_kl", "soft_weight": 1, "hard_weight": 0}
SIZES = {
    "small": Size(
        HERE / "on_policy_small.yaml",
        steps=300,
        rate=1e-3,
        warm={"objective": KL, "train.max_steps": 300},
        per_seed=True,
        prompt=16,
        new=48,
        measured=256,
        at_once=64,
        capacity=256,
    ),
    "smollm": Size(
        HERE / "on_policy.yaml",
        steps=24,
        rate=1e-4,
        warm={},
        per_seed=False,
        prompt=16,
        new=32,
        measured=64,
        at_once=32,
        capacity=32,
        teacher="packaged:smollm2-135m-instruct",
    ),
}
SOFT = {"soft_weight": 1, "hard_weight": 0}
JENSEN = {"divergence": "jensen_shannon", "beta": 0.5, **SOFT}
SKEW = {"divergence": "skew_kl", "alpha": 0.1, **SOFT}
ARMS = {
    "supervised": Arm("Jensen-Shannon 0.5, the data's text (lambda 0)", JENSEN),
    "gkd": Arm("Jensen-Shannon 0.5, its own text (lambda 1)", JENSEN, {"lmbda": 1.0}),
    "gkd-half": Arm("Jensen-Shannon 0.5, half and half (lambda 0.5)", JENSEN, {"lmbda": 0.5}),
    "gkd-cost": Arm("Jensen-Shannon 0.5, its own text, at equal cost", JENSEN, {"lmbda": 1.0}, equal_cost=True),
    "forward": Arm("Forward KL, the data's text", KL),
    "skew": Arm("Skew KL 0.1, the data's text", SKEW),
    "skew-reverse": Arm("Skew reverse KL 0.1, the data's text", {**SKEW, "divergence": "skew_reverse_kl"}),
    "adaptive-kl": Arm("Adaptive KL, the data's text", {"divergence": "adaptive_kl", **SOFT}),
    # phi from 0.5 and a buffer of a few batches: from 0 so short a training would hardly see any text of the student.
    "distillm": Arm("Skew KL 0.1, DistiLLM's scheduler from 0.5", SKEW, {"adaptive": {"start": 0.5}}),
}
PAIRS = [
    *(("gkd", "supervised"), ("gkd-half", "supervised"), ("gkd-cost", "supervised")),
    *(("skew", "forward"), ("skew-reverse", "forward"), ("adaptive-kl", "forward"), ("distillm", "skew")),
]
Found = Mapping[str, Sequence[Mapping[str, Any]]]


def main() -> None:
    """Train the teacher where there is none, warm up, run every arm with every seed, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--steps", type=int, help="of each arm")
    parser.add_argument("--rate", type=float, help="learning rate of each arm")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/on-policy"))
    options = parser.parse_args()
    size, root = SIZES[options.size], options.output_dir / options.size
    steps, rate = options.steps or size.steps, options.rate or size.rate
    start, teacher = models(size, root, options.seeds[0])
    recipe = load_recipe(size.recipe)
    speaker = loaded(teacher)
    test = prepare(recipe.data, speaker.tokenizer, recipe.task, recipe.seed).test
    assert test is not None, "the recipe has test rows"
    bf16 = recipe.train.bf16 is True
    ruler = Ruler(speaker, test.encoded[: size.measured], size.prompt, size.new, size.at_once, bf16)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("warm", *options.arms)}
    for seed in options.seeds:
        given = {"seed": seed if size.per_seed else options.seeds[0], **start, **size.warm}
        warm = trained(root / f"warm-{given['seed']}", size, given)
        found["warm"].append({"seed": seed, "steps": 0, **measured(warm, ruler)})
        learner = loaded(warm / "model").record.parameters
        cost = learner / (speaker.record.parameters + 3 * learner)
        for name in options.arms:
            arm, started = ARMS[name], time.perf_counter()
            taken = int(steps / (1 + cost)) if arm.equal_cost else steps
            values = {"seed": seed, **start, **changes(arm, size, warm / "model", taken, rate)}
            stage = trained(root / f"{name}-{seed}", size, values)
            found[name].append({"seed": seed, "steps": taken, **measured(stage, ruler)})
            found[name][-1]["budget"] = budget(found[name][-1], cost)
            print(f"{name} {seed}: {time.perf_counter() - started:.0f} s {found[name][-1]}", flush=True)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"on-policy-{options.size}.json").write_text(json.dumps({"cost": cost, "arms": found}, indent=1))
    print("\n".join([*table(found), "", *claims(found)]))


def models(size: Size, root: Path, seed: int) -> tuple[dict[str, Any], str]:
    """What every training is told of student and teacher, and where the teacher is."""
    if size.teacher is not None:
        return {}, size.teacher
    base = str(untrained(root / "untrained"))
    taught = trained(root / "teacher", size, {"seed": seed, "student": {"model_name_or_path": base}})
    teacher = str(taught / "model")
    student = {"model_name_or_path": base, "size": TINY}
    return {"teacher": {"models": [{"model_name_or_path": teacher}]}, "student": student}, teacher


def changes(arm: Arm, size: Size, warm: Path, steps: int, rate: float) -> dict[str, Any]:
    """The warmed student, whole, on this arm's objective and text."""
    frozen = {} if size.teacher is None else {"freeze": ["embeddings"]}
    values = {
        "student": {"model_name_or_path": str(warm), **frozen},
        "objective": arm.objective,
        "train.max_steps": steps,
        "train.learning_rate": rate,
    }
    if arm.rollout is not None:
        values["rollout"] = {"prompt_tokens": size.prompt, "max_new_tokens": size.new, **arm.rollout}
        if (adaptive := arm.rollout.get("adaptive")) is not None:
            values["rollout"]["adaptive"] = {"capacity": size.capacity, **adaptive}
            values["train.eval_steps"] = max(1, steps // 8)
    return values


def trained(root: Path, size: Size, values: Mapping[str, Any]) -> Path:
    """The stage of one training, without the measures and the export that a whole run has."""
    recipe = load_recipe(size.recipe, [f"{name}={json.dumps(value)}" for name, value in values.items()])
    with opened(root, recipe, trust_remote_code=False) as bench:
        run_stage(bench, bench.recipe.final)
    return root / "stages" / "student"


def budget(run: Mapping[str, Any], cost: float) -> float:
    """In tokens learnt: what the student wrote, and the prompts before it, it has read once more."""
    return float(run["tokens"] * (1 + cost * (run["rollout"] or {"written": 0})["written"] / run["steps"]))


def table(found: Found) -> list[str]:
    """A row per arm; means over seeds with half of Student's 95 % interval."""
    heads = ["Arm", "Steps", "Tokens written", "Cost", *MEASURES.values(), "Seconds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    whole = max(run["budget"] for name in found if name in ("supervised", "forward") for run in found[name])
    for name, runs in found.items():
        spent = ["–"] * 3
        if name != "warm":
            new = sum((run["rollout"] or {"new_tokens": 0})["new_tokens"] for run in runs) / len(runs)
            spent = [
                str(runs[0]["steps"]),
                f"{new:,.0f}",
                f"{sum(run['budget'] for run in runs) / len(runs) / whole:.0%}",
            ]
        label = "Before (warmed up)" if name == "warm" else ARMS[name].label
        values = [cell([run[measure] for run in runs]) for measure in MEASURES]
        seconds = sum(run["seconds"] for run in runs) / len(runs)
        lines.append(f"| {' | '.join([label, *spent, *values, f'{seconds:.0f}'])} |")
    return lines


def claims(found: Found) -> list[str]:
    """Differences taken seed by seed: the student's text against the data's, divergences against forward KL, and every
    arm against where it began."""
    lines = [f"| Difference | {' | '.join(MEASURES.values())} |", "|---" * (len(MEASURES) + 1) + "|"]
    for arm, other in [*PAIRS, *((arm, "warm") for arm in found if arm != "warm")]:
        if arm in found and other in found:
            pairs = list(zip(found[arm], found[other], strict=True))
            cells = [interval([one[name] - two[name] for one, two in pairs]) for name in MEASURES]
            lines.append(f"| {' | '.join([f'{arm} minus {other}', *cells])} |")
    return lines


if __name__ == "__main__":
    main()
