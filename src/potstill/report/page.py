"""report.html: one file, no script, no request, opens offline. Autoescape is on: teacher text is hostile input."""

from __future__ import annotations

from pathlib import Path

import jinja2

from potstill.core.record import RunRecord
from potstill.report import svg, view
from potstill.report.made_of import made_of


def write_report(record: RunRecord, recipe_text: str, path: Path) -> Path:
    """Write the page for a run record; whatever was not measured is left out, never drawn empty."""
    path.write_text(render(record, recipe_text), encoding="utf-8")
    return path


def render(record: RunRecord, recipe_text: str) -> str:
    """The page as text."""
    loader = jinja2.PackageLoader("potstill", "report")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    higher_is_better = view.HEADLINE[record.recipe["task"]][2]
    return environment.get_template("report.html.j2").render(
        name=record.recipe["name"],
        description=record.recipe.get("description") or "",
        style=loader.get_source(environment, "report.css")[0],
        verdict=view.verdict(record),
        subjects=[view.title(subject) for subject in view.present(record)],
        roles=[view.role(subject) for subject in view.present(record)],
        rows=view.table(record),
        notes=view.notes(record),
        figures=figures(record),
        thoughts=view.thoughts(record),
        similarity=similarity(record),
        slices=slices(record),
        quality=view.HEADLINE[record.recipe["task"]][1],
        higher_is_better=higher_is_better,
        findings=[finding for finding in record.findings if finding.verdict != "pass"],
        ledger=record.ledger,
        graph=made_of(record.ledger.get("graph", {}).get("nodes", ())),
        terms=[one for one in record.findings if one.name.startswith("licence.") and "terms" in one.evidence],
        overrides=record.gate.get("overrides", ()),
        recipe_text=recipe_text,
        percent=view.percent,
    )


def figures(record: RunRecord) -> list[dict[str, object]]:
    """Charts with a title, a sentence and a legend; charts without data are left out."""
    headline, word, _ = view.HEADLINE[record.recipe["task"]]
    metric = headline.removeprefix("quality.")
    loss, quality, parts = view.curves(record, "loss"), view.curves(record, f"validation.{metric}"), view.parts(record)
    taught = view.shares(record)
    latency, size = view.dots(record, "cost.latency_p50_ms"), view.dots(record, "cost.bytes")
    reliable = view.calibration(record)
    log = word == "perplexity"
    drawn = (
        (
            "Loss while learning",
            "Each arm against its own objective, so levels differ; the slope is what counts.",
            svg.lines(loss, x_label="steps", y_label="training loss (nats)"),
            loss,
        ),
        (
            f"{word.capitalize()} while learning",
            "On the validation rows, which choose the checkpoint.",
            svg.lines(quality, x_label="steps", y_label=f"validation {word}", log_y=log),
            quality,
        ),
        (
            "Parts of the student's loss",
            "Weighted contributions; they sum to the training loss.",
            svg.lines(parts, x_label="steps", y_label="contribution (nats)"),
            parts,
        ),
        (
            "Who taught",
            "Share of the examples learnt from the teacher, from its tutor, or from the label alone.",
            svg.lines(taught, x_label="steps", y_label="share of examples"),
            taught,
        ),
        (
            f"{word.capitalize()} against latency",
            "One row at a time, models timed in turn. Whiskers: 95 % interval.",
            svg.scatter(latency, x_label="median latency at batch 1 (ms)", y_label=word),
            (),
        ),
        (
            f"{word.capitalize()} against size",
            "Bytes of the model folder. Whiskers: 95 % interval.",
            svg.scatter(size, x_label="bytes on disk", y_label=word),
            (),
        ),
        (
            "Reliability",
            "On the diagonal a model is as often right as it claims.",
            svg.reliability(reliable) if reliable else "",
            reliable,
        ),
    )
    return [
        {"title": title, "text": text, "drawing": drawing, "legend": [(one.name, one.role) for one in legend]}
        for title, text, drawing, legend in drawn
        if drawing
    ]


def similarity(record: RunRecord) -> list[tuple[str, object]]:
    """The class-similarity matrices of teacher and student side by side."""
    names, matrices = view.similarity(record)
    return [
        (view.SUBJECTS[subject], svg.heatmap(matrices[subject], names))
        for subject in ("teacher", "student")
        if subject in matrices
    ]


def slices(record: RunRecord) -> list[tuple[str, str, list[str]]]:
    """(slice, rows, accuracy per subject) of the named slices."""
    names = sorted({f.name for f in record.findings if f.name.startswith("slice.") and f.name.endswith(".accuracy")})
    rows = []
    for name in names:
        found = [record.finding(name, subject) for subject in view.present(record)]
        counted = next((f.evidence.get("rows") for f in found if f is not None), None)
        cells = ["" if f is None else view.percent(f.value) for f in found]
        rows.append((name.removeprefix("slice.").removesuffix(".accuracy"), str(counted or ""), cells))
    return rows
