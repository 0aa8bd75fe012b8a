"""`potstill compare ARM ARM …`: recipes against each other at equal budget, over seeds."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import AsJson
from potstill.cli.output import emit, working


def compare(
    arms: Annotated[
        list[str],
        typer.Argument(metavar="ARM", help="A recipe and the settings that differ: 'FILE KEY.SUB=VALUE …', quoted."),
    ],
    seeds: Annotated[list[int] | None, typer.Option("--seeds", help="Repeat it: --seeds 0 --seeds 1; 0, 1, 2.")] = None,
    output_dir: Annotated[str, typer.Option("--output-dir", help="The folder of all runs.")] = "runs/comparison",
    any_budget: Annotated[bool, typer.Option("--any-budget", help="Let budgets differ; the report says so.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare recipes. Each runs with each seed; the ranking says where two cannot be told apart."""
    from potstill.recipe_yaml import load_recipe

    for arm in arms:  # before torch is imported: a fault is told in a second
        words = shlex.split(arm)
        if words:
            load_recipe(words[0], words[1:])
    with working():
        from potstill import comparison

        place = Path(output_dir)
        place.mkdir(parents=True, exist_ok=True)
        found = comparison.compare(
            arms,
            seeds=seeds or [0, 1, 2],
            output_dir=place,
            any_budget=any_budget,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    from potstill.comparison_page import lines, verdict
    from potstill.report.numbers import NARROW

    text = [verdict(found), ""]
    text += [f"{rank}. {name}: {value}{f', {remark}' if remark else ''}" for rank, name, value, remark in lines(found)]
    text += ["", f"report: {place / 'report.html'}"]
    emit("\n".join(text).replace(NARROW, " "), comparison.as_json(found), as_json=as_json)
