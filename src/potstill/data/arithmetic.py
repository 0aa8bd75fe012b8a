"""Sums of two two-digit numbers, one question a row, in three skills of which one builds on the other two.

`units` asks for the last digit of the sum, `carry` whether the last digits pass ten, `tens` for the digit of the tens,
which nobody can tell without the carry and the addition of digits. 10,000 sums a skill; which of them is in which split
follows from the SHA-256 of the question, as in every packaged set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

SKILLS = ("units", "carry", "tens")
# What `tens` is made of; the recipe `curriculum` names the same.
PREREQUISITES = {"tens": ("units", "carry")}
DIGITS = tuple(str(digit) for digit in range(10))
SIZES = {"test": 500, "validation": 200, "train": 2000}


def answer(skill: str, one: int, other: int) -> int:
    """The digit that is asked for."""
    if skill == "units":
        return (one + other) % 10
    if skill == "carry":
        return (one % 10 + other % 10) // 10
    return (one + other) // 10 % 10


def question(skill: str, one: int, other: int) -> str:
    """As a model reads it: digits stand apart, so that every tokenizer sees them."""
    (a, b), (c, d) = f"{one:02}", f"{other:02}"
    return f"{skill}: {a} {b} + {c} {d}"


def arithmetic_rows(split: str) -> Iterator[tuple[str, str, str]]:
    """Question, answer and skill of one split, in SHA-256 order of the question; of each skill as many."""
    asked = ((question(skill, a, b), str(answer(skill, a, b)), skill) for skill in SKILLS
             for a in range(100) for b in range(100))  # fmt: skip
    by_skill: dict[str, list[tuple[str, str, str]]] = {skill: [] for skill in SKILLS}
    for row in sorted(asked, key=lambda row: hashlib.sha256(row[0].encode()).hexdigest()):
        by_skill[row[2]].append(row)
    start = 0
    for name, size in SIZES.items():
        if name == split:
            chosen = {row for rows in by_skill.values() for row in rows[start : start + size]}
            yield from (row for row in sorted(chosen, key=lambda row: hashlib.sha256(row[0].encode()).hexdigest()))
        start += size
