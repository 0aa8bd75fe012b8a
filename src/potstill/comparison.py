"""Several recipes against each other: equal budget, the same seeds, one ranking that says where nothing can be said."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from potstill import still
from potstill.comparison_page import Compared, render
from potstill.config import Recipe
from potstill.core.errors import InputError
from potstill.core.record import RunRecord
from potstill.durable import replace_file
from potstill.estimate import estimate
from potstill.evaluate.ranking import Ranking, rank
from potstill.evaluate.suite import over_seeds
from potstill.recipe_yaml import load_recipe
from potstill.report.view import HEADLINE

# Budgets that differ by no more than this are equal: steps and rows are whole numbers.
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Arm:
    """One of those compared. words: as they were given. recipe: without its seed settled. flops: of all its trainings,
    None where only the data can tell."""

    name: str
    words: tuple[str, ...]
    recipe: Recipe
    flops: int | None


def arms_of(given: Sequence[str]) -> list[Arm]:
    """From `RECIPE KEY.SUB=VALUE …`, each in one string, to arms.

    Raises RecipeError for a recipe, InputError for fewer than two arms, two of one name, or different tasks.
    """
    arms = []
    for text in given:
        words = tuple(shlex.split(text))
        if not words:
            raise InputError("an arm is empty: give a recipe, and settings that differ, in one quoted argument")
        if settled := [word for word in words if word.startswith(("seed=", "output_dir="))]:
            raise InputError(f"{settled[0]!r} would have no effect: --seeds and --output-dir are for all arms")
        recipe = load_recipe(words[0], list(words[1:]))
        flops = [one.flops for one in estimate(recipe)]
        # How often a scheduler lets the student write only the training tells; `plan` counts the most that it can be.
        rollouts = [stage.rollout for stage in (*recipe.stages, recipe.final) if stage.rollout is not None]
        open_ended = any(one.adaptive is not None for one in rollouts)
        known = None if None in flops or open_ended else sum(one for one in flops if one is not None)
        arms.append(Arm(" ".join((Path(words[0]).stem, *words[1:])), words, recipe, known))
    if len(arms) < 2:
        raise InputError("one recipe cannot be compared: give two or more, each in one quoted argument")
    names = [arm.name for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{twice[0]!r} is given twice: change a setting of one, or rename its file")
    if len(tasks := {arm.recipe.task for arm in arms}) > 1:
        raise InputError(f"the recipes have different tasks ({', '.join(sorted(tasks))}): compare like with like")
    return arms


def refuse_unequal(arms: Sequence[Arm]) -> None:
    """Raises InputError unless every arm's trainings cost as many FLOPs, teachers included, within 5 %."""
    if unknown := [arm.name for arm in arms if arm.flops is None]:
        raise InputError(
            f"the budget of {unknown[0]!r} is unknown before its data is read, or depends on a scheduler: set "
            "train.max_steps (of each stage) and rollout.lmbda for rollout.adaptive, or compare with --any-budget"
        )
    spent = {arm.name: arm.flops for arm in arms if arm.flops is not None}
    least, most = min(spent, key=lambda name: spent[name]), max(spent, key=lambda name: spent[name])
    if spent[most] > (1 + TOLERANCE) * spent[least]:
        raise InputError(
            f"budgets differ: {most!r} costs {spent[most]:.3g} FLOPs and {least!r} {spent[least]:.3g}: change "
            "train.max_steps until they are equal, or compare with --any-budget, which the report then says"
        )


def compare(
    given: Sequence[str],
    *,
    seeds: Sequence[int],
    output_dir: Path,
    any_budget: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Compared:
    """Run every arm with every seed, seed by seed, and write `report.html` and `comparison.json`.

    Each run has a folder of its own; what is finished is not run again, so a stopped comparison goes on. Raises
    InputError for what cannot be compared, and what the runs raise.
    """
    if len(set(seeds)) < 2 or len(set(seeds)) != len(seeds):
        raise InputError("an interval needs two different seeds or more: give --seeds 0 --seeds 1 --seeds 2")
    arms = arms_of(given)
    if not any_budget:
        refuse_unequal(arms)
    records: dict[str, list[RunRecord]] = {arm.name: [] for arm in arms}
    for seed in seeds:
        for number, arm in enumerate(arms):
            say(f"seed {seed}, arm {number + 1} of {len(arms)}: {arm.name}")
            recipe = load_recipe(arm.words[0], [*arm.words[1:], f"seed={seed}"])
            records[arm.name].append(still.run(recipe, output_dir=output_dir / f"arm-{number}" / f"seed-{seed}"))
    found = compared(arms, records, tuple(seeds), equal=not any_budget)
    replace_file(output_dir / "comparison.json", json.dumps(as_json(found), indent=1).encode())
    replace_file(output_dir / "report.html", render(found).encode())
    return found


def compared(
    arms: Sequence[Arm], records: Mapping[str, Sequence[RunRecord]], seeds: tuple[int, ...], *, equal: bool
) -> Compared:
    """The ranking by the task's headline measure, and every measure of the students. Raises InputError where one of
    them was not measured."""
    task = arms[0].recipe.task
    headline, _, higher = HEADLINE[task]
    values: dict[str, list[float]] = {}
    for name, runs in records.items():
        measured = [one for one in (run.value(headline) for run in runs) if one is not None]
        if len(measured) != len(runs):
            raise InputError(f"{name!r} has no {headline}: name data.test in its recipe, so that it is measured")
        values[name] = measured
    ranking: Ranking = rank(values, higher_is_better=higher)
    return Compared(
        task=task,
        seeds=seeds,
        equal_budget=equal,
        flops={arm.name: arm.flops for arm in arms},
        ranking=ranking,
        findings={name: over_seeds([run.findings for run in runs]) for name, runs in records.items()},
    )


def as_json(found: Compared) -> dict[str, Any]:
    """For machines: the ranking, every paired difference, every measure."""
    return {
        "task": found.task,
        "seeds": list(found.seeds),
        "equal_budget": found.equal_budget,
        "flops": dict(found.flops),
        "level": found.ranking.level,
        "ranking": [asdict(one) for one in found.ranking.standings],
        "differences": [
            {"one": one, "other": other, **asdict(estimate)}
            for (one, other), estimate in found.ranking.differences.items()
        ],
        "findings": {name: [one.as_json() for one in findings] for name, findings in found.findings.items()},
    }
