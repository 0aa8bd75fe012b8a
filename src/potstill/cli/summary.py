"""A run on the terminal: the verdict, the table of the report, and where the report lies."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from potstill.core.record import RunRecord
from potstill.report.numbers import NARROW

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


def _table(record: RunRecord) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from potstill.report import view

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for subject in view.present(record):
        table.add_column(view.title(subject), justify="right")
    for label, cells in view.table(record):
        table.add_row(label, *(f"{cell.value}\n{cell.interval}".strip() if cell else "–" for cell in cells))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNBOUNDED_WIDTH
    drawn = io.StringIO()
    Console(file=drawn, width=width, color_system=None).print(table)
    return drawn.getvalue().strip("\n")
