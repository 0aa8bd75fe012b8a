"""What a licence permits and asks for, as values. The table of them is `terms_table.py`, dated and sourced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

# From free to barred. accept: a person must first accept the terms. ask: a person must first find out. no: refused.
Permission = Literal["yes", "accept", "ask", "no"]
ORDER: tuple[Permission, ...] = get_args(Permission)
DutyKind = Literal[
    "notice", "attribution", "naming", "pass-on", "share-alike", "non-commercial", "use-restrictions", "scale"
]
# Duties that reach beyond a line of text beside the weights: whoever releases must know them.
BINDING: frozenset[DutyKind] = frozenset(get_args(DutyKind)) - {"notice", "attribution"}


@dataclass(frozen=True, slots=True, order=True)
class Duty:
    """One thing that must be done when the student is passed on. text: of a `notice`, the very words of it."""

    kind: DutyKind
    text: str


@dataclass(frozen=True, slots=True)
class Terms:
    """One family of terms.

    id: SPDX identifier where there is one. aliases: how hubs, cards and wheels spell it. source: where the text was
    read, on the day `read` (ISO). confirmed: False where only second-hand accounts were found; it is then treated as
    "ask a person". fixed: the text under this name never changes.
    derive: may the work be changed and the result passed on (a student cut from a model). outputs: may another model
    learn from it (a teacher's answers, a data set's rows). compete: may that model compete with its owner's.
    commercial: may the result earn money. family: outputs may improve models of this family although `outputs` is no.
    name_prefix: how the name of a model made with it must begin. clause: where in the text this stands.
    """

    id: str
    title: str
    source: str
    read: str
    aliases: tuple[str, ...] = ()
    derive: Permission = "yes"
    outputs: Permission = "yes"
    compete: Permission = "yes"
    commercial: Permission = "yes"
    family: str = ""
    name_prefix: str = ""
    duties: tuple[Duty, ...] = ()
    confirmed: bool = True
    fixed: bool = True
    clause: str = ""


def strictest(*permissions: Permission) -> Permission:
    """The one furthest from "yes"; of none, "yes"."""
    return max(permissions, key=ORDER.index, default="yes")
