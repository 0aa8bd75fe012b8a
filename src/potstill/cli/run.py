"""`potstill run FILE`: everything the recipe says, to the report."""

from typing import Annotated

import typer

from potstill.cli.options import AsJson, Overrides, RankTimeout, RecipeFile, TrustRemoteCode
from potstill.cli.output import emit, working


def run(
    file: RecipeFile,
    overrides: Overrides = None,
    output_dir: Annotated[str | None, typer.Option("--output-dir", help="The run folder; made if missing.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    rank_timeout: RankTimeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Run a recipe. Train its stages, measure, export and report, all in one folder."""
    from potstill.recipe_yaml import load_recipe

    recipe = load_recipe(file, overrides or [])  # before torch is imported: a fault is told in a second
    with working():
        from potstill import still

        record = still.run(
            recipe, output_dir=output_dir, trust_remote_code=trust_remote_code, rank_timeout=rank_timeout
        )
    from potstill.cli.summary import record_text, record_values

    emit(record_text(record), record_values(record), as_json=as_json)
