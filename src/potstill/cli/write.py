"""`potstill write FILE`: prompts to teacher text."""

from typing import Annotated, Any

import typer

from potstill.cli.options import AsJson, Overrides
from potstill.cli.output import emit, working


def write(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A writing job: prompts, endpoint, sampling.")],
    overrides: Overrides = None,
    output: Annotated[str | None, typer.Option("--output", help="The .jsonl or .parquet file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let a teacher write. Any OpenAI-compatible endpoint; stopped at any moment, the same command goes on."""
    from potstill.recipe_yaml import load_writing_job

    job = load_writing_job(file, overrides or [])
    with working():
        from potstill import scribe

        record = scribe.write(job, output)
    emit(_text(record, str(output or job.output)), record, as_json=as_json)


def _text(record: dict[str, Any], place: str) -> str:
    rejected = sum(record["rejected"].values())
    reasons = "".join(f"\n  {number:,} {reason}" for reason, number in sorted(record["rejected"].items()))
    lines = [
        f"{place}: {record['kept']:,} answers by {record['model']}, {record['tokens']:,} tokens",
        f"rejected: {rejected:,}{reasons}",
    ]
    if not record["complete"]:
        left = record["asked"] - record["kept"] - rejected
        lines.append(f"the budget ended it with {left:,} answers to go: raise budget and run the same command again")
    return "\n".join(lines)
