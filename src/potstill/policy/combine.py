"""What may be done with a student, of all that its ancestors' terms say: the strictest of them, and every duty.

Both are unions over ancestors, so one more ancestor can forbid more and ask for more, and never less.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from potstill.policy.identify import at_address, identify, is_near, stated
from potstill.policy.terms import BINDING, Duty, Permission, Terms, strictest
from potstill.policy.terms_table import UNDECLARED, UNKNOWN

# base: the student is cut from it. data: rows it learns from. The others are models whose answers it learns from.
Role = Literal["base", "data", "teacher", "writer"]
Purpose = Literal["unstated", "research", "commercial"]


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One thing a student is made of. name: what the recipe or the row calls it. licence: as it was stated, "unknown"
    where nothing was. url: of a model that answers elsewhere. ours: a file or folder of this machine, or a service of
    its network, of which nobody else can know the terms. where: the setting of the recipe that names it."""

    role: Role
    name: str
    licence: str = "unknown"
    url: str = ""
    ours: bool = False
    where: str = ""

    @property
    def terms(self) -> tuple[Terms, ...]:
        """All that hold: the company's at a known address, and what is declared. Silence is UNDECLARED about
        something of ours, and UNKNOWN about anything else."""
        company = at_address(self.url) if self.url else ()
        if not stated(self.licence) and company:
            return company
        near = self.ours or (bool(self.url) and is_near(self.url))
        declared = tuple(UNKNOWN if one is UNDECLARED and not near else one for one in identify(self.licence))
        return tuple(dict.fromkeys((*company, *declared)))


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the terms. purpose: of the release. family: of the student, where its base has one ("llama").
    name: of the student, "" where there is none yet."""

    purpose: Purpose = "unstated"
    family: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What terms answer. permission: the strictest. duties: all. misnamed: prefixes that the name should begin with
    and does not."""

    permission: Permission = "yes"
    duties: frozenset[Duty] = field(default_factory=frozenset)
    misnamed: frozenset[str] = field(default_factory=frozenset)


def needed(terms: Terms, role: Role, question: Question) -> Permission:
    """What terms answer to one role; what was not confirmed asks a person."""
    wanted: list[Permission] = ["yes" if terms.confirmed else "ask"]
    if role == "base":
        wanted.append(terms.derive)
    elif terms.outputs != "no" or not terms.family or terms.family != question.family:
        wanted.append(terms.outputs)
    if role in ("teacher", "writer"):
        wanted.append(terms.compete)
    if question.purpose == "commercial":
        wanted.append(terms.commercial)
    return strictest(*wanted)


def answer(terms: Terms, role: Role, question: Question) -> Answer:
    """What one row of the table answers about one ancestor."""
    prefix = terms.name_prefix
    wrong = bool(prefix and question.name) and not question.name.startswith(prefix)
    return Answer(
        needed(terms, role, question), frozenset(terms.duties), frozenset((prefix,)) if wrong else frozenset()
    )


def join(one: Answer, other: Answer) -> Answer:
    """Both at once."""
    return Answer(strictest(one.permission, other.permission), one.duties | other.duties, one.misnamed | other.misnamed)


def combine(ancestors: Iterable[Ancestor], question: Question) -> Answer:
    """All of them at once; of nobody, everything is allowed."""
    found = Answer()
    for ancestor in ancestors:
        for terms in ancestor.terms:
            found = join(found, answer(terms, ancestor.role, question))
    return found


def family_of(ancestors: Iterable[Ancestor]) -> str:
    """The family of a student: that of all its bases, where they have one in common."""
    families = {terms.family for one in ancestors if one.role == "base" for terms in one.terms}
    return families.pop() if len(families) == 1 else ""


def licence_of(ancestors: Iterable[Ancestor]) -> str:
    """The licence a student is passed on under: that of what it was cut from, of every teacher whose terms bind those
    who receive it, and of rows that are not for commerce. "unknown" where nobody knows that of the base."""
    names: list[str] = []
    for one in ancestors:
        for terms in one.terms:
            if one.role == "base" and terms in (UNKNOWN, UNDECLARED):
                return "unknown"
            binds = any(duty.kind in BINDING for duty in terms.duties) and one.role in ("teacher", "writer")
            if one.role == "base" or binds or terms.commercial == "no":
                names.append(one.licence if identify(one.licence) == (terms,) else terms.id)
    return " AND ".join(dict.fromkeys(names)) or "unknown"
