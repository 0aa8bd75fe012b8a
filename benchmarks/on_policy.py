"""Ways to learn from the same teacher at one budget: two divergences on the data's text, and two that write their own.

    python benchmarks/on_policy.py --seeds 0 1 2

One student is warmed up on the data's text (benchmarks/on_policy.yaml); each arm goes on from it. A budget is counted
in parameters read per token: the teacher reads a token once, the student reads and learns it (three passes), and what
it wrote itself it has read once more. Arms that write take fewer steps, so that no arm costs more than the first.

Every run lies in runs/on-policy, so a stopped benchmark goes on where it was. The table goes to standard output as
Markdown, the numbers to benchmarks/results/on-policy.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from potstill.config import Recipe
from potstill.core.batch import Batch
from potstill.core.signal import Want
from potstill.data.collate import collate
from potstill.data.encoded import Encoded
from potstill.data.prepare import prepare
from potstill.divergences.catalogue import DIVERGENCES
from potstill.evaluate.interval import student_t
from potstill.onpolicy import ends
from potstill.recipe_yaml import load_recipe
from potstill.stage import run_stage
from potstill.still import opened
from potstill.students.load import LoadedModel, load_model
from potstill.students.sample import Sampling, continued
from potstill.students.settings import ModelSettings
from potstill.students.taps import outputs
from potstill.train.rollout import WrittenRow, written_batch

HERE = Path(__file__).parent
RECIPE, RUNS = HERE / "on_policy.yaml", Path("runs/on-policy")
PROMPT, NEW, PROMPTS, ROWS = 16, 32, 32, 8
ROLLOUT = {"prompt_tokens": PROMPT, "max_new_tokens": NEW}


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to learn. written: the share of steps whose text the student writes, as planned for the budget."""

    label: str
    objective: Mapping[str, Any]
    rollout: Mapping[str, Any] | None = None
    written: float = 0.0


SKEW = {"divergence": "skew_kl", "alpha": 0.1}
# Started at 0.5, and with a small buffer: from 0 so short a training would hardly see any text of the student.
ADAPTIVE = {"start": 0.5, "capacity": 16}
ARMS = {
    "forward": Arm("Forward KL, data", {"divergence": "forward_kl"}),
    "skew": Arm("Skew KL 0.1, data", SKEW),
    "gkd": Arm("Skew KL 0.1, on-policy (lambda 1)", SKEW, {"lmbda": 1.0}, 1.0),
    "adaptive": Arm("Skew KL 0.1, adaptive off-policy from 0.5", SKEW, {"adaptive": ADAPTIVE}, 0.3),
}
MEASURES = {
    "perplexity": "Perplexity on the data",
    "kl": "KL to the teacher on the data (nats)",
    "own_forward": "KL(teacher, student) on its own text (nats)",
    "own_reverse": "KL(student, teacher) on its own text (nats)",
}


def main() -> None:
    """Warm up, run every arm with every seed, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    warm = trained("warm", load_recipe(RECIPE))
    teacher = _load("packaged:smollm2-135m-instruct")
    recipe = load_recipe(RECIPE)
    test = prepare(recipe.data, teacher.tokenizer, recipe.task, recipe.seed).test
    assert test is not None
    rows = test.encoded[:PROMPTS]
    learner = _load(warm).record.parameters
    cost = learner / (teacher.record.parameters + 3 * learner)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("warm", *ARMS)}
    found["warm"].append(measured(warm, teacher, rows))
    for seed in options.seeds:
        for name, arm in ARMS.items():
            steps, started = int(options.steps / (1 + arm.written * cost)), time.perf_counter()
            model = trained(f"{name}-{seed}", load_recipe(RECIPE, overrides(arm, warm, seed, steps)))
            found[name].append({"seed": seed, "steps": steps, **measured(model, teacher, rows)})
            print(f"{name} {seed}: {time.perf_counter() - started:.0f} s {found[name][-1]}", flush=True)
        write(found, options.steps, cost)
    print("\n".join([*table(found, cost), "", *claims(found)]))


def overrides(arm: Arm, warm: Path, seed: int, steps: int) -> list[str]:
    """The warmed student, whole, on this arm's objective and text."""
    values = {
        "seed": seed,
        "student": {"model_name_or_path": str(warm), "freeze": ["embeddings"]},
        "objective": arm.objective,
        "train.max_steps": steps,
        "train.eval_steps": 6,
        "train.learning_rate": 3e-4,
    }
    if arm.rollout is not None:
        values["rollout"] = {**ROLLOUT, **arm.rollout}
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def trained(name: str, settings: Recipe) -> Path:
    """The model of one training, without the measures and the export that a whole run has."""
    with opened(RUNS / name, settings, trust_remote_code=False) as bench:
        run_stage(bench, bench.recipe.final)
    return RUNS / name / "stages" / "student" / "model"


def measured(model: Path, teacher: LoadedModel, rows: Sequence[Encoded]) -> dict[str, Any]:
    """A trained student: on the data's text, and on what it writes after the prompts of the same rows."""
    file = model.parent / "on-policy.json"
    if not file.exists():
        student, sums = _load(model), Counter[str]()
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            data = collate(some, pad_id=0, task="causal-lm")
            sums.update(_sums("", data, student, teacher))
            sums.update(_sums("own_", _own_text(some, student, seed=start), student, teacher))
        found = {
            "perplexity": math.exp(sums["loss"] / sums["tokens"]),
            "kl": sums["forward_kl"] / sums["tokens"],
            "own_forward": sums["own_forward_kl"] / sums["own_tokens"],
            "own_reverse": sums["own_reverse_kl"] / sums["own_tokens"],
        }
        stage = json.loads((model.parent / "stage.json").read_text())
        spent = {name: stage.get(name) for name in ("tokens", "seconds", "rollout")}
        file.write_text(json.dumps({**found, **spent}))
    return json.loads(file.read_text())


def _own_text(rows: Sequence[Encoded], student: LoadedModel, seed: int) -> Batch:
    sampling = Sampling(1.0, NEW, len(student.tokenizer), ends(student.module, student.tokenizer))
    prompts = [row.tokens[:PROMPT].tolist() for row in rows]
    new = continued(student.module, prompts, sampling, seed=seed)
    return written_batch([WrittenRow("", (*a, *b), PROMPT) for a, b in zip(prompts, new, strict=True)])


def _sums(prefix: str, batch: Batch, student: LoadedModel, teacher: LoadedModel) -> dict[str, float]:
    chosen = batch.weights["soft"] > 0
    ours, theirs = (_logprobs(one, batch)[chosen] for one in (student, teacher))
    found = {name: float(DIVERGENCES[name].function(theirs, ours).sum()) for name in ("forward_kl", "reverse_kl")}
    found["loss"] = -float(ours.gather(-1, batch.targets_BT[chosen][:, None]).sum())
    found["tokens"] = float(chosen.sum())
    return {f"{prefix}{name}": value for name, value in found.items()}


def _logprobs(one: LoadedModel, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        found = outputs(one.module.eval(), batch, Want()).logits_BTV
    assert found is not None
    return found.float().log_softmax(-1)


def _load(name: str | Path) -> LoadedModel:
    return load_model(ModelSettings(model_name_or_path=str(name)), task="causal-lm", labels=None, folder_of={})


def write(found: Mapping[str, Sequence[Mapping[str, Any]]], steps: int, cost: float) -> None:
    """What is known so far."""
    (HERE / "results").mkdir(exist_ok=True)
    text = json.dumps({"steps": steps, "cost_of_writing": cost, "arms": found}, indent=1)
    (HERE / "results" / "on-policy.json").write_text(text)


def table(found: Mapping[str, Sequence[Mapping[str, Any]]], cost: float) -> list[str]:
    """A row per arm; mean over seeds with half of Student's 95 % interval."""
    heads = ["Arm", "Steps", "Tokens learnt", "Tokens written", "Budget", *MEASURES.values()]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    whole = _budget(found["forward"], cost)
    for name, runs in found.items():
        label = "Before (warmed up)" if name == "warm" else ARMS[name].label
        spent = ["–"] * 4
        if name != "warm":
            tokens, new = (sum(values) / len(runs) for values in _tokens(runs))
            spent = [str(runs[0]["steps"]), f"{tokens:,.0f}", f"{new:,.0f}", f"{_budget(runs, cost) / whole:.0%}"]
        values = [_mean([run[measure] for run in runs]) for measure in MEASURES]
        lines.append(f"| {' | '.join([label, *spent, *values])} |")
    return lines


def _tokens(runs: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    return [run["tokens"] for run in runs], [(run["rollout"] or {"new_tokens": 0})["new_tokens"] for run in runs]


def _budget(runs: Sequence[Mapping[str, Any]], cost: float) -> float:
    """In tokens learnt; the prompts are read before the writing too."""
    tokens, new = _tokens(runs)
    written = [((run["rollout"] or {}).get("written", 0)) * 4 * PROMPT for run in runs]
    return sum(tokens) / len(runs) + cost * (sum(new) + sum(written)) / len(runs)


def _mean(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4g}"
    estimate = student_t(list(values))
    return f"{estimate.value:.4g} ± {estimate.high - estimate.value:.2g}"


def claims(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Differences seed by seed: skew KL against forward KL, the student's text against the data's."""
    lines = []
    for name, other in (("skew", "forward"), ("gkd", "skew"), ("adaptive", "skew")):
        for measure, label in MEASURES.items():
            values = [one[measure] - two[measure] for one, two in zip(found[name], found[other], strict=True)]
            shown, what = ", ".join(f"{value:+.4f}" for value in values), f"{label}: {name} minus {other}"
            if len(values) > 1:
                estimate = student_t(values)
                what += f": {estimate.value:+.4f} [{estimate.low:+.4f}, {estimate.high:+.4f}]"
            lines.append(f"- {what} (seeds: {shown})")
    return lines


if __name__ == "__main__":
    main()
