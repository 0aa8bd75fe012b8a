"""Write the tables of docs/licences.md from the table of terms.

python docs/make_licences.py
"""

from __future__ import annotations

import html
from pathlib import Path

from potstill.policy.terms import Terms
from potstill.policy.terms_table import HOSTS, TERMS, UNDECLARED, UNKNOWN

PAGE = Path(__file__).parent / "licences.md"
BEGIN, END = "<!-- terms: begin -->", "<!-- terms: end -->"


def table() -> str:
    """Markdown, a line per row of terms, then one per address."""
    lines = [
        "| Terms | Cut a student from it | Learn from its output or rows | Compete with its owner | Earn money | Owed "
        "| Read |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(one) for one in TERMS.values() if one not in (UNKNOWN, UNDECLARED)]
    hosts = "; ".join(f"`{pattern}` {name}" for pattern, name in HOSTS.items())
    return "\n".join([*lines, "", f"Known by their address: {hosts}."])


def _line(terms: Terms) -> str:
    owed = "; ".join(f"{duty.kind}: {_plain(duty.text)}" for duty in terms.duties) or "–"
    own = f" (models of the family `{terms.family}`: yes)" if terms.family and terms.outputs == "no" else ""
    note = "" if terms.confirmed else ", unconfirmed: asks a person"
    clause = f", clause {terms.clause}" if terms.clause else ""
    cells = [
        f"`{terms.id}` {_plain(terms.title)}", terms.derive, terms.outputs + own, terms.compete, terms.commercial, owed,
        f"[{terms.read}]({terms.source}){clause}{note}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text inside a table."""
    return html.escape(text, quote=False).replace("|", "&#124;")


def page(before: str) -> str:
    """The page with its tables written anew."""
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
