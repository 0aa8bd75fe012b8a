"""What a person has answered for: terms accepted, findings overridden, each with name, date and reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Literal

from potstill.core.errors import InputError
from potstill.core.finding import Finding
from potstill.policy.terms import Terms
from potstill.policy.terms_table import TERMS, UNDECLARED, UNKNOWN

# Of an answer that lies beside the output of one writing job, which is about that job.
EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Consent:
    """One answer. about: the id of terms, or the name of a finding. day: ISO. read: the day the accepted terms were
    read for the table; other words ask again. covers: the ancestors it was given for: a later one asks again, unless
    the terms that were accepted speak for themselves."""

    kind: Literal["accept", "override"]
    about: str
    by: str
    day: str
    reason: str
    read: str = ""
    covers: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"covers": list(self.covers)}


def consent(
    kind: Literal["accept", "override"], about: str, *, by: str, day: str, reason: str, covers: Iterable[str] = ()
) -> Consent:
    """An answer that can be kept. Raises InputError where it lacks a name, a reason or a day that has been, or where
    terms are accepted that nobody knows, or that say no."""
    for what, text in (("--by", by), ("--reason", reason), ("--date", day)):
        if not text.strip():
            raise InputError(f"--{kind} {about}: {what} is missing: an answer is kept with name, date and reason")
    try:
        when = date.fromisoformat(day)
    except ValueError as error:
        raise InputError(f"--date {day}: not a day; write it as YYYY-MM-DD") from error
    if when > date.today():
        raise InputError(f"--date {day} is in the future: give the day on which it was decided")
    if kind == "override":
        return Consent(kind, about, by.strip(), day, reason.strip(), covers=tuple(sorted(covers)))
    terms = next((one for one in TERMS.values() if one.id.lower() == about.lower()), None)
    if terms is None:
        raise InputError(f"--accept {about}: no such terms; the table has {', '.join(TERMS)}")
    return Consent(kind, terms.id, by.strip(), day, reason.strip(), terms.read, tuple(sorted(covers)))


def covers(one: Consent, names: set[str]) -> bool:
    """Whether an answer was given for all of these."""
    return EVERYTHING in one.covers or names <= set(one.covers)


def accepted(consents: Sequence[Consent], terms: Terms, name: str) -> Consent | None:
    """The newest answer that accepts these terms for this ancestor. Where the terms are unknown, it was given for
    certain ancestors and for no other."""
    for one in reversed(consents):
        speaks = terms not in (UNKNOWN, UNDECLARED) or covers(one, {name})
        if speaks and (one.kind, one.about, one.read) == ("accept", terms.id, terms.read):
            return one
    return None


def overridden(consents: Sequence[Consent], finding: Finding) -> Consent | None:
    """The newest answer that lets this finding pass: of its name, and about all the ancestors that it is about."""
    about = {one["name"] for one in finding.evidence.get("ancestors", ())}
    return next(
        (
            one
            for one in reversed(consents)
            if (one.kind, one.about) == ("override", finding.name) and covers(one, about)
        ),
        None,
    )


def read_consents(rows: Iterable[Any], where: str) -> list[Consent]:
    """Answers as they were kept. Raises InputError where one is not."""
    try:
        return [Consent(**{**row, "covers": tuple(row.get("covers", ()))}) for row in rows]
    except (TypeError, AttributeError) as error:
        raise InputError(f"{where}: not answers as they were kept ({error}): remove it and answer again") from error
