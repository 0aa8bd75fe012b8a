"""A run on the terminal: the verdict, the table of the report, and where the report lies."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.core.finding import Finding
from potstill.core.record import RunRecord
from potstill.report.numbers import FORMATS, NARROW

# Wide enough for every column when nobody has a screen that could wrap them.
UNBOUNDED_WIDTH = 200


def record_text(record: RunRecord) -> str:
    """The verdict, the table of who was measured, and the path of the report."""
    from potstill.report import view

    lines = [view.verdict(record), ""]
    if view.table(record):
        lines += [_table(record), ""]
    report = Path(record.folder) / "report.html"
    lines.append(f"report: {report}" if report.exists() else f"run folder: {record.folder}")
    return "\n".join(lines).replace(NARROW, " ")


def record_values(record: RunRecord) -> dict[str, Any]:
    """The same for a machine: the findings as they stand in findings.json."""
    from potstill.report import view

    return {
        "folder": record.folder,
        "report": str(Path(record.folder) / "report.html"),
        "verdict": view.verdict(record).replace(NARROW, " "),
        "findings": [finding.as_json() for finding in record.findings],
    }


# Finding, column, format.
_COSTS = (
    ("cost.bytes", "on disk", "size"),
    ("cost.peak_memory_bytes", "memory", "size"),
    ("cost.latency_p50_ms", "batch 1", "milliseconds"),
    ("cost.latency_speedup", "faster", "plain"),
    ("cost.throughput_rows_s", "rows/s", "plain"),
    ("cost.energy_j", "J/row", "plain"),
    ("cost.decode_tokens_s", "tokens/s", "plain"),
    ("cost.decode_efficiency", "of the bound", "percent"),
    ("cost.decode_prediction", "predicted", "percent"),
)


def cost_text(findings: Sequence[Finding]) -> str:
    """A row per export and program; where energy is an estimate it says so, and so does a rate above its bound."""
    found = {(one.subject, one.name): one for one in findings}
    subjects = list(dict.fromkeys(one.subject for one in findings))
    columns = [one for one in _COSTS if any((subject, one[0]) in found for subject in subjects)]
    rows = []
    for subject in subjects:
        cells = [(found.get((subject, name)), FORMATS[form]) for name, _, form in columns]
        rows.append((subject, *(write(one.value) if one else "–" for one, write in cells)))
    lines = [_drawn(["", *(label for _, label, _ in columns)], rows)]
    held = next(one for one in findings if one.name == "cost.threads")
    lines.append(f"{held.value:.0f} threads, all in turn in one run; medians; the first row is what `faster` refers to")
    lines += sorted({one.evidence["method"] for one in findings if one.name == "cost.energy_j"})
    lines += [f"STOP {one.subject}: {one.value:.2f} of the bound, which nothing can pass" for one in findings
              if one.verdict == "stop"]  # fmt: skip
    return "\n".join(lines).replace(NARROW, " ")


def _table(record: RunRecord) -> str:
    from potstill.report import view

    rows = [
        (label, *(f"{cell.value}\n{cell.interval}".strip() if cell else "–" for cell in cells))
        for label, cells in view.table(record)
    ]
    return _drawn(["", *(view.title(subject) for subject in view.present(record))], rows)


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNBOUNDED_WIDTH
    drawn = io.StringIO()
    Console(file=drawn, width=width, color_system=None).print(table)
    return drawn.getvalue().strip("\n")
