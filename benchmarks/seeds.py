"""One recipe over several seeds: the same run again and again, merged into one table with intervals over seeds.

    python benchmarks/seeds.py classifier --seeds 0 1 2
    python benchmarks/seeds.py half-decoder --seeds 0 1 2 evaluate.cost=null

Every seed is an ordinary run in runs/seeds/RECIPE-seed-N, so a stopped benchmark goes on where it was. The table goes
to standard output as Markdown, its numbers to benchmarks/results/RECIPE-seeds.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from paired import claim

import potstill
from potstill.core.outcome import Finding
from potstill.core.record import RunRecord
from potstill.evaluate.suite import over_seeds
from potstill.report import view
from potstill.report.numbers import FORMATS, NARROW

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run, merge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/seeds"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    if len(options.seeds) < 2:
        parser.error("one seed has no interval: give at least two, or use `potstill run`")
    name = Path(options.recipe).stem
    records = [
        potstill.run(
            options.recipe, [f"seed={seed}", *options.overrides], output_dir=options.output_dir / f"{name}-seed-{seed}"
        )
        for seed in options.seeds
    ]
    merged = over_seeds([record.findings for record in records])
    print("\n".join([*table(records, merged), "", *differences(records)]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}-seeds.json").write_text(
        json.dumps({"seeds": options.seeds, "findings": [finding.as_json() for finding in merged]}, indent=1)
    )


def table(records: Sequence[RunRecord], merged: Sequence[Finding]) -> list[str]:
    """Markdown: a row per measure, a column per subject; mean over seeds with Student's 95 % interval."""
    subjects = view.present(records[0])
    found = {(finding.name, finding.subject): finding for finding in merged}
    lines = [f"| | {' | '.join(view.SUBJECTS[subject] for subject in subjects)} |", "|---" * (len(subjects) + 1) + "|"]
    for name, label, form, _ in view.ROWS:
        cells = [_cell(found.get((name, subject)), form) for subject in subjects]
        if any(cells):
            lines.append(f"| {label} | {' | '.join(cell or '–' for cell in cells)} |")
    return lines


def _cell(finding: Finding | None, form: str) -> str:
    if finding is None:
        return ""
    write = FORMATS[form]
    values = finding.evidence["values"]
    if finding.interval is None or max(values) == min(values):
        return write(finding.value).replace(NARROW, " ")
    half = finding.interval[1] - finding.value
    return f"{write(finding.value)} ± {write(half)}".replace(NARROW, " ")


def differences(records: Sequence[RunRecord]) -> list[str]:
    """The claims as paired differences, seed by seed: taught against labels alone, TF-IDF, and the teacher."""
    task = records[0].recipe["task"]
    headline = view.HEADLINE[task][0]
    lines = []
    for name in (headline, "agreement.top1", "agreement.kl"):
        for other in ("labels", "tfidf"):
            pairs = [(record.value(name), record.value(name, other)) for record in records]
            if all(None not in pair for pair in pairs):
                lines.append(claim(f"{name}: student minus {other}", [ours - theirs for ours, theirs in pairs]))
    share = "share of the teacher's" if view.HEADLINE[task][2] else "times the teacher's"
    for name, ratio in ((headline, share), ("cost.parameters", "times fewer parameters")):
        pairs = [(record.value(name), record.value(name, "teacher")) for record in records]
        if all(None not in pair for pair in pairs):
            shares = [theirs / ours if name == "cost.parameters" else ours / theirs for ours, theirs in pairs]
            lines.append(claim(f"{name}: student, {ratio}", shares))
    speed = [record.value("cost.latency_speedup") for record in records]
    if None not in speed:
        lines.append(claim("times faster than the teacher at batch 1", speed))
    return lines


if __name__ == "__main__":
    main()
