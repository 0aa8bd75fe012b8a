"""Several recipes on one page: the ranking, who cannot be told from whom, every measure with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2

from potstill.core.outcome import Finding
from potstill.evaluate.ranking import Ranking, Standing
from potstill.report import svg, view
from potstill.report.numbers import FORMATS, count
from potstill.report.svg import Dot


@dataclass(frozen=True, slots=True)
class Compared:
    """What the page shows. findings: by arm, merged over seeds. flops: of the trainings, by arm."""

    task: str
    seeds: tuple[int, ...]
    equal_budget: bool
    flops: Mapping[str, int | None]
    ranking: Ranking
    findings: Mapping[str, Sequence[Finding]]


def verdict(found: Compared) -> str:
    """One sentence: who leads, and whom it cannot be told from."""
    first = found.ranking.standings[0]
    word = view.HEADLINE[found.task][1]
    said = f"{first.name} has the best {word}, {interval(found, first)} over {len(found.seeds)} seeds"
    alike = [one.name for one in found.ranking.standings[1:] if one.rank == 1]
    if alike:
        return f"{said}, but it is not distinguishable from {', '.join(alike)}."
    return f"{said}, and is distinguishable from every other."


def interval(found: Compared, one: Standing) -> str:
    """A mean with Student's 95 % interval over seeds."""
    write = FORMATS[_form(found)]
    return f"{write(one.estimate.value)} ({write(one.estimate.low)} to {write(one.estimate.high)})"


def lines(found: Compared) -> list[tuple[str, str, str, str]]:
    """(rank, arm, mean and interval, remark), best first."""
    return [
        (
            str(one.rank),
            one.name,
            interval(found, one),
            f"not distinguishable from {', '.join(one.like)}" if one.like else "",
        )
        for one in found.ranking.standings
    ]


def table(found: Compared) -> list[tuple[str, list[str]]]:
    """Measures of the students by arm, in the order of the ranking: mean ± half an interval."""
    rows = []
    for name, label, form, _ in view.ROWS:
        cells = [_cell(found, one.name, name, form) for one in found.ranking.standings]
        if any(cells):
            rows.append((label, cells))
    budget = [found.flops[one.name] for one in found.ranking.standings]
    return [*rows, ("Training, teachers included (FLOPs)", ["?" if one is None else count(one) for one in budget])]


def render(found: Compared) -> str:
    """The page as text."""
    loader = jinja2.PackageLoader("potstill", "report")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    write = FORMATS[_form(found)]
    differences = [
        (one, other, write(estimate.value), f"{write(estimate.low)} to {write(estimate.high)}")
        for (one, other), estimate in found.ranking.differences.items()
    ]
    return environment.get_template("comparison.html.j2").render(
        style=loader.get_source(environment, "report.css")[0],
        verdict=verdict(found),
        seeds=", ".join(map(str, found.seeds)),
        equal_budget=found.equal_budget,
        lines=lines(found),
        arms=[one.name for one in found.ranking.standings],
        rows=table(found),
        differences=differences,
        level=f"{100 * found.ranking.level:.4g}",
        drawing=svg.scatter(_dots(found), x_label="FLOPs of the trainings", y_label=view.HEADLINE[found.task][1]),
    )


def _form(found: Compared) -> str:
    headline = view.HEADLINE[found.task][0]
    return next(form for name, _, form, _ in view.ROWS if name == headline)


def _cell(found: Compared, arm: str, name: str, form: str) -> str:
    one = next((f for f in found.findings[arm] if f.name == name and f.subject == "student"), None)
    if one is None:
        return ""
    write = FORMATS[form]
    if one.interval is None or one.interval[0] == one.interval[1]:
        return write(one.value)
    return f"{write(one.value)} ± {write(one.interval[1] - one.value)}"


def _dots(found: Compared) -> list[Dot]:
    roles = ("student", "labels", "teacher", "tfidf", "untrained")
    return [
        Dot(one.name, roles[place % len(roles)], spent, one.estimate.value, one.estimate.interval)
        for place, one in enumerate(found.ranking.standings)
        if (spent := found.flops[one.name])
    ]
