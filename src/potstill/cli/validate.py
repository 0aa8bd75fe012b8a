"""`potstill validate FILE`: all that is wrong with a recipe, without loading a model."""

from typing import Annotated

import typer

from potstill.cli.options import AsJson, Overrides, RecipeFile
from potstill.cli.output import emit


def validate(
    file: RecipeFile,
    overrides: Overrides = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print every setting, written out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe. Every fault is reported at once, with its line."""
    from potstill.licensing import clear, place_of
    from potstill.recipe_yaml import dump_recipe, load_recipe

    recipe = load_recipe(file, overrides or [])
    terms = clear(recipe, place_of(recipe))
    if resolved:
        text = dump_recipe(recipe)
    else:
        stages = ", ".join([*(stage.name for stage in recipe.stages), "student"])
        text = f"{file}: no faults ({recipe.name}: task {recipe.task}; trains {stages})"
        text += "".join(f"\n{one.name}: {one.evidence['why']}" for one in terms if one.verdict == "warn")
    values = {"file": file, "valid": True, "recipe": recipe.model_dump(mode="json")}
    emit(text, {**values, "licences": [one.as_json() for one in terms]}, as_json=as_json)
