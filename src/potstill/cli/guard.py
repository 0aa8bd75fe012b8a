"""`potstill guard LOG`: which accounts of a query log behave as if they distilled the model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potstill.cli.options import AsJson
from potstill.cli.output import emit
from potstill.core.errors import InputError

if TYPE_CHECKING:
    from potstill.core.outcome import Finding
    from potstill.guard.querylog import LogReading

FORMATS = ("auto", "jsonl", "openai", "nginx")


def guard(
    log: Annotated[str, typer.Argument(metavar="LOG", help="A query log: JSON lines, OpenAI style, or nginx's.")],
    format: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "auto",
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Leave out rows before this ISO 8601 date or time (UTC)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look for accounts that harvest a model. A finding is a reason to look, never a proof."""
    if format not in FORMATS:
        raise InputError(f"--format: `{format}` is no log format; known are {', '.join(FORMATS)}")
    start = _start(since)
    from potstill.guard.detector import detect, shipped, shipped_pools
    from potstill.guard.querylog import LogReading, read_log

    reading, model = LogReading(), shipped()
    queries = (query for query in read_log(Path(log), format, reading) if query.time >= start)
    findings = list(detect(queries, model, shipped_pools()))
    values = {"log": reading.as_json(), "findings": [finding.as_json() for finding in findings]}
    emit(_text(findings, reading), values, as_json=as_json)


def _start(since: str | None) -> float:
    """Seconds since 1970. Raises InputError for what is no date."""
    if since is None:
        return 0.0
    try:
        time = datetime.fromisoformat(since)
    except ValueError:
        raise InputError(f"--since {since!r} is no date or time: write 2026-11-24 or 2026-11-24T12:00") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _text(findings: list[Finding], reading: LogReading) -> str:
    """What strangers wrote is escaped: a log must not write to the terminal of whoever reads it."""
    from potstill.data.quarantine import excerpt

    lines = [
        f"{reading.rows} rows ({reading.format}), {reading.broken.total()} broken, {reading.jumps} clock jumps; "
        f"{len(findings)} account-days and pools to look at"
    ]
    lines += [f"  line {line}: {cause}" for line, cause in reading.named]
    for finding in findings:
        found = finding.evidence
        because = ", ".join(f"{name} {part:+.2f}" for name, part in found["because"].items())
        lines += [
            f"{excerpt(finding.subject)}: score {finding.value:.2f} above {finding.bound:.2f} "
            f"after {found['rows_so_far']} rows of {_day(found['from'])}",
            f"  honest days as high: at most about {found['honest_share']:.1%}; because of {because}",
            *_shared(found),
            f"  lines {', '.join(map(str, found['lines']))}",
        ]
    return "\n".join(lines)


def _day(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).date().isoformat()


def _shared(found: Mapping[str, Any]) -> list[str]:
    from potstill.data.quarantine import excerpt

    if "shared" not in found:
        return []
    names = [f"{excerpt(name)} ({rows})" for name, rows in list(found["accounts"].items())[:5]]
    return [f"  they share `{excerpt(found['shared'])}`; most rows: {', '.join(names)}"]
