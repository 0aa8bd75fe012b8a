"""The data card: what a curated set is made of and what became of the rest, for a person. JSON is its other half."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

MARKS = "\\`*_[]<>#|!&"


def card(record: Mapping[str, Any]) -> str:
    """Markdown of a curation's record. Names come from data, so nothing of them is read as Markdown or HTML."""
    parts = [
        f"# {plain(record['output'])}",
        f"{record['kept']:,} of {record['read']:,} rows. SHA-256 of the file: `{record['sha256']}`.",
        "## Where the rows come from",
        table(
            ("Source", "Revision", "Licence", "Maker", "Synthetic steps", "Rows"),
            ([*(one[name] for name in ("source", "revision", "licence", "maker", "generation", "rows"))]
             for one in record["lineage"]),
        ),
        "A licence is what the source states; `unknown` is no permission.",
        "## What became of them",
        table(("Stage", "In", "Out", "Dropped"), (_stage(one) for one in record["stages"])),
    ]  # fmt: skip
    if verify := record["verify"]:
        rates = ", ".join(f"pass@{k} {value:.3f}" for k, value in verify["pass_at"].items())
        solved = f"{verify['prompts_solved']:,} of {verify['prompts']:,} prompts have a right answer"
        parts += [
            "## Verified",
            f"{solved}; {rates or 'no rate'}.",
            table(("Verdict", "Rows"), verify["outcomes"].items()),
        ]
    if mixture := record["mixture"]:
        parts += [
            "## Mixture",
            table(("Part", "Rows there", "Rows taken"), ([name, *two] for name, two in mixture.items())),
        ]
    parts += ["## Settings", f"```json\n{json.dumps(record['job'], indent=1, ensure_ascii=True)}\n```"]
    return "\n\n".join(parts) + "\n"


def table(head: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(plain, row))} |" for row in rows)])


def plain(value: Any) -> str:
    """A value that stands in a table or a heading as the text it is."""
    text = f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())
    return "".join(f"&#{ord(letter)};" if letter in MARKS else letter for letter in text)


def _stage(one: Mapping[str, Any]) -> list[Any]:
    reasons = ", ".join(f"{reason}: {number:,}" for reason, number in one["dropped"].items())
    return [one["stage"], one["in"], one["out"], reasons]
