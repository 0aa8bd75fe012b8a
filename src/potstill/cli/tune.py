"""`potstill tune FILE CHOICE …`: the best students under a budget, as a front."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import AsJson, RecipeFile
from potstill.cli.output import emit, working
from potstill.core.errors import InputError


def tune(
    file: RecipeFile,
    choices: Annotated[
        list[str], typer.Argument(metavar="KEY.SUB=[A,B]", help="A setting and the values to choose from.")
    ],
    formats: Annotated[
        list[str] | None, typer.Option("--format", metavar="NAME", help="Formats to choose from; huggingface.")
    ] = None,
    megabytes: Annotated[float | None, typer.Option(help="At most so many, deployed.", show_default=False)] = None,
    milliseconds: Annotated[float | None, typer.Option(help="At most so many, batch 1.", show_default=False)] = None,
    trials: Annotated[int, typer.Option(min=1, max=10_000, help="Trials, those of an earlier call included.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    output_dir: Annotated[str, typer.Option("--output-dir", help="The folder of all trials.")] = "runs/tune",
    as_json: AsJson = False,
) -> None:
    """Search settings of a recipe for the best students within a budget. Each trial is a run; a stopped search goes
    on."""
    from potstill.recipe_yaml import load_recipe

    load_recipe(file, [])
    if (megabytes is None) == (milliseconds is None):
        raise InputError("give one budget: --megabytes, or --milliseconds")
    unit, budget = ("megabytes", megabytes) if megabytes is not None else ("milliseconds", milliseconds)
    with working():
        from dataclasses import asdict

        from potstill import tuning
        from potstill.export.formats import FORMATS

        named = tuple(formats or ("huggingface",))
        if strange := sorted(set(named) - FORMATS.keys()):
            raise InputError(f"{', '.join(strange)}: no such export format; there are {', '.join(FORMATS)}")
        search = tuning.Search(file, tuning.choices_of(choices), named, float(budget or 0), unit)
        place = Path(output_dir)
        everyone = tuning.tune(
            search,
            trials=trials,
            output_dir=place,
            seed=seed,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
        kept = tuning.best(search, everyone)
    lines = [f"{len(everyone)} tried, {sum(one.fits for one in everyone)} within {budget:g} {unit}; the front:", ""]
    lines += [f"{one.quality:.4f}  {one.megabytes:.2f} MB  {one.milliseconds:.2f} ms  {one.name}" for one in kept]
    lines += ["", f"plot: {place / 'front.svg'}"]
    values = {"trials": [asdict(one) for one in everyone], "front": [asdict(one) for one in kept]}
    emit("\n".join(lines), values, as_json=as_json)
