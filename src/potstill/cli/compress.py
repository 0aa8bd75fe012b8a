"""`potstill compress MODEL_OR_RUN`: units taken out of a finished model."""

from typing import Annotated

import typer
from pydantic import ValidationError

from potstill.cli.options import AsJson, ModelOrRun, Overrides, TrustRemoteCode
from potstill.cli.output import emit, working
from potstill.core.errors import InputError


def compress(
    path: ModelOrRun,
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Whose training rows units are scored on.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="UNIT=NUMBER", help="How many neurons, heads, groups, width or blocks stay."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="UNIT=SHARE", help="Which share of them goes.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows that scores are measured on.")] = 128,
    plan: Annotated[str | None, typer.Option("--plan", metavar="FILE", help="Write the plan here, as JSON.")] = None,
    output_dir: Annotated[
        str | None, typer.Option("--output-dir", metavar="FOLDER", help="Write the smaller model here.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Take the least important units out of a model, by scores on training rows. The plan is printed; the model is
    written with --output-dir, as a plain folder with a smaller config, not yet healed: teach it in a recipe."""
    checked = None
    if recipe is not None:
        from potstill.recipe_yaml import load_recipe

        checked = load_recipe(recipe, overrides or [])
    elif overrides:
        raise InputError("overrides change a recipe: name it with --recipe FILE, or leave them out")
    from potstill.compress.settings import PruneSettings

    try:
        settings = PruneSettings.model_validate(
            {"keep": _numbers(keep or [], "--keep"), "remove": _numbers(remove or [], "--remove"), "rows": rows}
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = f"--{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise InputError(place + first["msg"].removeprefix("Value error, ")) from error
    with working():
        from potstill import cutting
        from potstill.compress.plan_text import table

        done = cutting.cut(
            path,
            settings,
            recipe=checked,
            plan=plan,
            output_dir=output_dir,
            trust_remote_code=trust_remote_code,
        )
    places = {"plan_file": done.file, "model": done.folder}
    values = {"plan": done.plan.model_dump(mode="json"), **{name: one and str(one) for name, one in places.items()}}
    emit("\n".join(table(done.plan)), values, as_json=as_json)


def _numbers(words: list[str], option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in words:
        unit, _, number = word.partition("=")
        try:
            found[unit] = float(number)
        except ValueError:
            raise InputError(f"{option} {word}: give UNIT=NUMBER, such as neurons=0.5") from None
    return found
