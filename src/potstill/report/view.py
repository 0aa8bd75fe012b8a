"""From a run record to what the page shows: plain values, no HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from potstill.core.record import RunRecord
from potstill.report.numbers import FORMATS, percent
from potstill.report.svg import Dot, Series

# Who is on the page, in order, and what a reader calls them.
SUBJECTS = {
    "teacher": "Teacher",
    "student": "Student, taught",
    "labels": "Same student, labels alone",
    "untrained": "Same student, untrained",
    "tfidf": "TF-IDF + logistic regression",
}

# How the subject of an exported format begins.
EXPORTED = "student as "

# Finding, label, format, and whether more is better: the table, top to bottom.
ROWS = (
    ("quality.accuracy", "Accuracy", "percent", True),
    ("quality.macro_f1", "Macro F1", "percent", True),
    ("quality.perplexity", "Perplexity", "plain", False),
    ("quality.nll", "Loss on the labels (nats)", "plain", False),
    ("calibration.ece", "Calibration error (ECE)", "percent", False),
    ("agreement.top1", "Agrees with the teacher", "percent", True),
    ("agreement.kl", "Distance to the teacher (KL, nats)", "plain", False),
    ("cost.parameters", "Parameters", "count", False),
    ("cost.bytes", "On disk", "size", False),
    ("cost.peak_memory_bytes", "Peak memory", "size", False),
    ("cost.latency_p50_ms", "Latency, batch 1, median", "milliseconds", False),
    ("cost.latency_p95_ms", "Latency, batch 1, 95th percentile", "milliseconds", False),
    ("cost.latency_speedup", "Times faster than the teacher, batch 1", "plain", True),
    ("cost.throughput_rows_s", "Throughput (rows/s)", "plain", True),
    ("cost.decode_tokens_s", "Decoding (tokens/s)", "plain", True),
    ("cost.decode_efficiency", "Of the memory bandwidth's bound", "percent", True),
)

HEADLINE = {
    "classify": ("quality.accuracy", "accuracy", True),
    "causal-lm": ("quality.perplexity", "perplexity", False),
    "masked-lm": ("quality.perplexity", "perplexity", False),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of the table, with its interval, as text."""

    value: str
    interval: str = ""


def present(record: RunRecord) -> list[str]:
    """The subjects that were measured, in page order; the student's exports stand beside it."""
    measured = dict.fromkeys(finding.subject for finding in record.findings)
    exports = [subject for subject in measured if subject.startswith(EXPORTED)]
    found = [subject for subject in SUBJECTS if subject in measured]
    place = found.index("student") + 1 if "student" in found else len(found)
    return [*found[:place], *exports, *found[place:]]


def title(subject: str) -> str:
    """What a reader calls a subject."""
    return SUBJECTS.get(subject, subject.capitalize())


def role(subject: str) -> str:
    """The part that a subject plays, which has its colour."""
    return "student" if subject.startswith(EXPORTED) else subject


def table(record: RunRecord) -> list[tuple[str, list[Cell | None]]]:
    """Rows of (label, one cell per present subject); a row nobody has is left out."""
    subjects = present(record)
    rows = []
    for name, label, form, _ in ROWS:
        cells = [_cell(record, name, subject, form) for subject in subjects]
        if any(cells):
            rows.append((label, cells))
    return rows


def _cell(record: RunRecord, name: str, subject: str, form: str) -> Cell | None:
    found = record.finding(name, subject)
    if found is None:
        return None
    write = FORMATS[form]
    interval = f"{write(found.interval[0])} to {write(found.interval[1])}" if found.interval else ""
    return Cell(write(found.value), interval)


def notes(record: RunRecord) -> list[str]:
    """What a reader of the table must know: what was not measured and why, and how a teacher elsewhere was heard."""
    found = []
    for name in ("agreement.kl", "agreement.top1"):
        heard = record.finding(name)
        if heard is not None and heard.evidence.get("signals"):
            form = heard.evidence["signals"]
            found.append(f"The teacher is elsewhere: agreement is with its signals as they were sent, `{form}`.")
            break
    lacking = record.finding("agreement.unmeasured")
    if lacking is not None:
        names = [label for key, label, _, _ in ROWS if key in lacking.evidence["measures"]]
        found.append(f"Not measured: {'; '.join(names)}. Why: {lacking.evidence['reason']}.")
    return found


def verdict(record: RunRecord) -> str:
    """One sentence: what was kept, at what size and speed, and whether anything stops it."""
    name, word, higher = HEADLINE[record.recipe["task"]]
    teacher, student = record.value(name, "teacher"), record.value(name)
    if student is None:
        return "The student of this run was not measured."
    form = percent if higher else FORMATS["plain"]
    said = f"The student reaches {word} {form(student)}"
    if teacher:
        said += f" where its teacher reaches {form(teacher)}"
        said += f" ({percent(student / teacher)} of it)" if higher else ""
    ours, theirs = record.value("cost.parameters"), record.value("cost.parameters", "teacher")
    if ours and theirs:
        said += f", with {theirs / ours:.1f} times fewer parameters"
    faster = speed_up(record)
    if faster:
        said += f", {faster:.1f} times faster at batch 1"
    alone = record.value(name, "labels")
    if alone is not None:
        said += f"; on labels alone the same student reaches {form(alone)}"
    stops = [finding.name for finding in record.findings if finding.verdict == "stop"]
    return said + (f". Stopped by: {', '.join(stops)}." if stops else ".")


def speed_up(record: RunRecord) -> float | None:
    """Times faster than the teacher: the median of paired ratios where it was taken, else the ratio of medians, which a
    machine that was slow for a while can bend."""
    paired = record.value("cost.latency_speedup")
    ours, theirs = record.value("cost.latency_p50_ms"), record.value("cost.latency_p50_ms", "teacher")
    return paired or (theirs / ours if ours and theirs else None)


def curves(record: RunRecord, key: str) -> list[Series]:
    """A logged value over steps, one curve per arm that has it, in page order."""
    found = []
    for arm, label in SUBJECTS.items():
        points = [(row["step"], row[key]) for row in record.metrics if row.get("arm") == arm and key in row]
        if points:
            found.append(Series(label, arm, thin(points)))
    return found


def parts(record: RunRecord) -> list[Series]:
    """The parts of the taught student's loss over steps."""
    rows = [row for row in record.metrics if row.get("arm") == "student"]
    names = sorted({key for row in rows for key in row if key.startswith("part.")})
    roles = ("student", "labels", "teacher", "tfidf")
    return [
        Series(name.removeprefix("part."), role, thin([(row["step"], row[name]) for row in rows if name in row]))
        for name, role in zip(names, roles, strict=False)
    ]


def shares(record: RunRecord) -> list[Series]:
    """By whom the positions were taught over steps, where the student chose between teacher, tutor and label."""
    rows = [row for row in record.metrics if row.get("arm") == "student"]
    named = (
        ("Teacher", "share.teacher", "teacher"),
        ("Tutor", "share.tutor", "student"),
        ("Label", "share.label", "labels"),
    )
    points = {key: [(row["step"], row[key]) for row in rows if key in row] for _, key, _ in named}
    return [Series(label, role, thin(points[key])) for label, key, role in named if points[key]]


def dots(record: RunRecord, cost: str) -> list[Dot]:
    """Quality against a cost, one dot per subject that has both."""
    quality = HEADLINE[record.recipe["task"]][0]
    found = []
    for subject in present(record):
        x, y = record.value(cost, subject), record.finding(quality, subject)
        if x and y:
            found.append(Dot(title(subject), role(subject), x, y.value, y.interval))
    return found


def calibration(record: RunRecord) -> list[Series]:
    """Reliability curves of those who have one, bins that hold nobody left out."""
    found = []
    for subject in present(record):
        ece = record.finding("calibration.ece", subject)
        bins = ece.evidence.get("reliability", ()) if ece else ()
        points = [(one["confidence"], one["accuracy"]) for one in bins]
        if points and subject in ("teacher", "student", "labels"):
            found.append(Series(SUBJECTS[subject], subject, points))
    return found


def thoughts(record: RunRecord) -> list[dict[str, Any]]:
    """Rows where the teacher hesitates: its best classes and what each other subject gives them."""
    found = record.finding("dark_knowledge.entropy", "teacher")
    rows = found.evidence["rows"] if found else ()
    shown = []
    for row in rows:
        others = {subject: row["others"][subject] for subject in SUBJECTS if subject in row["others"]}
        columns = {"teacher": row["teacher"], **others}
        shown.append(
            {
                "text": cut(row["text"] or row["id"]),
                "label": row["label"] or "unknown",
                "roles": list(columns),
                "subjects": [SUBJECTS[subject] for subject in columns],
                "rows": [
                    {"name": name, "shares": [shares[index] for shares in columns.values()]}
                    for index, name in enumerate(row["classes"])
                ],
            }
        )
    return shown


def cut(text: str, most: int = 320) -> str:
    """A text short enough for a card, cut at a word."""
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"


def similarity(record: RunRecord) -> tuple[list[str], dict[str, list[list[float | None]]]]:
    """Class names, and the matrix of mean probabilities per true class of each subject that has one."""
    found = record.finding("dark_knowledge.entropy", "teacher")
    return (found.evidence["classes"], found.evidence["class_similarity"]) if found else ([], {})


def thin(points: Sequence[tuple[float, float]], most: int = 240) -> list[tuple[float, float]]:
    """At most so many points, by means of equal runs: the page stays small and the noise readable."""
    run = max(1, -(-len(points) // most))
    groups = [points[start : start + run] for start in range(0, len(points), run)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
