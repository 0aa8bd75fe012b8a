"""`potstill curate FILE`: rows to fewer and better rows."""

from typing import Annotated, Any

import typer

from potstill.cli.options import AsJson, Overrides
from potstill.cli.output import emit, working


def curate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A curation: sources, and what is asked of their rows.")],
    overrides: Overrides = None,
    output: Annotated[str | None, typer.Option("--output", help="The .jsonl or .parquet file to write.")] = None,
    allow_unisolated_code: Annotated[
        bool,
        typer.Option(
            "--allow-unisolated-code",
            help="Where no sandbox can be built, run the teacher's programs with limits alone. Never set by a file.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Keep the rows worth learning from: verified, in the right language, no duplicates, nothing of the examination."""
    from potstill.recipe_yaml import load_curation

    job = load_curation(file, overrides or [])
    with working():
        from potstill import curating

        record = curating.curate(job, output, allow_unisolated_code=allow_unisolated_code)
    emit(_text(record), record, as_json=as_json)


def _text(record: dict[str, Any]) -> str:
    lines = [f"{record['output']}: {record['kept']:,} of {record['read']:,} rows"]
    for stage in record["stages"]:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in stage["dropped"].items())
        lines.append(f"  {stage['stage']}: {stage['in']:,} -> {stage['out']:,}" + (f" ({reasons})" if reasons else ""))
    if verify := record["verify"]:
        lines.append(f"prompts with a right answer: {verify['prompts_solved']:,} of {verify['prompts']:,}")
    return "\n".join(lines)
