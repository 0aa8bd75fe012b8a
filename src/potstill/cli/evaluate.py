"""`potstill evaluate MODEL_OR_RUN`: quality and cost, without training."""

from collections.abc import Sequence
from typing import Annotated

import typer

from potstill.cli.options import AsJson, ModelOrRun, Overrides, TrustRemoteCode
from potstill.cli.output import emit, working
from potstill.core.errors import InputError


def evaluate(
    path: ModelOrRun,
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Whose test rows a model is measured on.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="NAME", help="Measure this export, in its runtime."),
    ] = None,
    cost: Annotated[bool, typer.Option("--cost", help="Time a run's exports in their own programs instead.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure a finished run again, or with --recipe one model folder. Quality, calibration, size, latency, throughput;
    of a run also the agreement with the teacher. With --format an export of the run: its quality beside the
    student's. With --cost, what each export costs where it will run."""
    if cost:
        given = {"--recipe": recipe, "--format": formats, "overrides": overrides}
        _cost(path, [name for name, value in given.items() if value], trust_remote_code, as_json)
        return
    checked = None
    if recipe is not None:
        from potstill.recipe_yaml import load_recipe

        checked = load_recipe(recipe, overrides or [])
    elif overrides:
        raise InputError("overrides change a recipe: name it with --recipe FILE, or leave them out")
    with working():
        from potstill import still

        named = tuple(formats or ())
        record = still.evaluate_run(path, recipe=checked, formats=named, trust_remote_code=trust_remote_code)
    from potstill.cli.summary import record_text, record_values

    emit(record_text(record), record_values(record), as_json=as_json)


def _cost(path: str, strange: Sequence[str], trust_remote_code: bool, as_json: bool) -> None:
    if strange:
        raise InputError(f"--cost measures a run by its own recipe: leave out {' and '.join(strange)}")
    with working():
        from potstill import still

        findings = still.cost_run(path, trust_remote_code=trust_remote_code)
    from potstill.cli.summary import cost_text

    values = {"folder": str(path), "findings": [finding.as_json() for finding in findings]}
    emit(cost_text(findings), values, as_json=as_json)
