"""The judge: findings on what the ancestors' terms allow, and the verdict on all findings of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from potstill.core.finding import Finding, Verdict
from potstill.policy.combine import Ancestor, Answer, Question, answer, join
from potstill.policy.consent import Consent, accepted, overridden
from potstill.policy.terms import BINDING, Permission, Terms
from potstill.policy.terms_table import UNDECLARED

# Terms that change are read again after half a year.
STALE_DAYS = 180


@dataclass(frozen=True, slots=True)
class Gate:
    """The verdict on a run. stops: what is not overridden. overrides: finding and answer, of those that are."""

    stops: tuple[Finding, ...]
    overrides: tuple[tuple[Finding, Consent], ...]

    @property
    def open(self) -> bool:
        """Whether the student may leave."""
        return not self.stops


def decide(findings: Iterable[Finding], consents: Sequence[Consent]) -> Gate:
    """Which `stop` findings hold, and which a person answered for."""
    stops = [one for one in findings if one.verdict == "stop"]
    answered = [(one, overridden(consents, one)) for one in stops]
    return Gate(
        stops=tuple(one for one, by in answered if by is None),
        overrides=tuple((one, by) for one, by in answered if by is not None),
    )


def licence_findings(
    ancestors: Sequence[Ancestor],
    question: Question,
    consents: Sequence[Consent] = (),
    *,
    release: bool = False,
    today: date | None = None,
) -> list[Finding]:
    """One finding for each row of the terms table that an ancestor is under; its value is how many are.

    release: the student is to leave this machine, and what nobody stated a licence for stops it; a run only warns.
    today: for the age of terms that change; the clock's day when absent.
    """
    groups: dict[Terms, list[Ancestor]] = {}
    for one in dict.fromkeys(ancestors):
        for terms in one.terms:
            groups.setdefault(terms, []).append(one)
    found = [
        _judged(terms, under, question, consents, release, today or date.today()) for terms, under in groups.items()
    ]
    return [*found, *_names(groups, question)]


def _judged(
    terms: Terms, under: list[Ancestor], question: Question, consents: Sequence[Consent], release: bool, today: date
) -> Finding:
    said = Answer()
    for one in under:
        said = join(said, answer(terms, one.role, question))
    consented = [accepted(consents, terms, one.name) for one in under]
    by = consented[0] if said.permission in ("accept", "ask") and None not in consented else None
    verdict, why = _verdict(terms, said, by, question, release)
    shown = dict.fromkeys((one.role, one.name, one.licence) for one in under)
    age = (today - date.fromisoformat(terms.read)).days
    if verdict == "pass" and not terms.fixed and age > STALE_DAYS:
        verdict, why = "warn", f"these terms change, and were read {age} days ago: read them again"
    return Finding(
        name=f"licence.{terms.id.lower()}",
        value=float(len(shown)),
        verdict=verdict,
        evidence={
            "unit": "ancestors",
            "terms": terms.title,
            "permission": said.permission,
            "why": why,
            "source": terms.source,
            "clause": terms.clause,
            "read": terms.read,
            "ancestors": [{"role": role, "name": name, "licence": licence} for role, name, licence in shown],
            "duties": [{"kind": duty.kind, "text": duty.text} for duty in sorted(said.duties)],
            "accepted": by.as_json() if by else None,
        },
    )


def _verdict(terms: Terms, said: Answer, by: Consent | None, question: Question, release: bool) -> tuple[Verdict, str]:
    """The verdict on one row, and why."""
    if by is None and terms is UNDECLARED and said.permission == "ask":
        why = "nobody stated a licence for these; declare it (`licence:`) where you hold the rights"
        return ("stop" if release else "warn"), why
    if by is None and said.permission != "yes":
        return "stop", _REFUSED[said.permission]
    binding = sorted({duty.kind for duty in said.duties if duty.kind in BINDING})
    if question.purpose == "research":
        binding = [kind for kind in binding if kind != "non-commercial"]
    if binding:
        return "warn", f"allowed, and whoever passes the student on owes: {', '.join(binding)}"
    return "pass", "allowed" if by is None else f"accepted by {by.by} on {by.day}"


_REFUSED: dict[Permission, str] = {
    "no": "the terms refuse it",
    "ask": "whether the terms allow it is for a person to find out",
    "accept": "the terms must be accepted first",
}


def _names(groups: Iterable[Terms], question: Question) -> list[Finding]:
    """Whether the student's name begins as the terms of its ancestors want it."""
    named = [terms for terms in groups if terms.name_prefix and question.name]
    if not named:
        return []
    wrong = sorted(set().union(*(answer(terms, "base", question).misnamed for terms in named)))
    lacking = f'the name "{question.name}" must begin with {" and ".join(wrong)}: set export.name'
    evidence = {
        "unit": "prefixes",
        "name": question.name,
        "must_begin_with": sorted({terms.name_prefix for terms in named}),
        "why": lacking if wrong else "begins as it must",
    }
    verdict: Verdict = "stop" if wrong else "pass"
    return [Finding("licence.name", float(len(wrong)), bound=0.0, verdict=verdict, evidence=evidence)]
