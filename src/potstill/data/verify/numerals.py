"""Numbers as people and models write them: 1,234, $5, 3/4, 1 1/2, 12.5 %, 2e3, -7 degrees."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# Longer numbers are no answers, and exact arithmetic with them costs time that the writer of a text could choose.
LONGEST = 40
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,2}}(?!\d))?"
NUMERAL = re.compile(
    r"(?:(?P<sign>[-−+])\s*)?(?:(?P<money>[$€£¥])\s*)?(?P<minus>[-−])?"
    rf"(?:\\[dt]?frac\{{\s*(?P<over>\d+)\s*\}}\{{\s*(?P<under>\d+)\s*\}}"
    rf"|(?:(?P<mixed>\d+)\s+)?(?P<top>\d+)\s*/\s*(?P<bottom>\d+)(?![\d/])"
    rf"|(?P<decimal>{_DECIMAL}))"
    r"\s*(?P<percent>\\?%|percent\b|per cent\b)?"
)


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number as it was written: its value, and whether a percent sign stood behind it. start: where in the text."""

    value: Fraction
    percent: bool
    start: int = 0


def numerals(text: str) -> list[Numeral]:
    """Every number in a text, in order. What looks like one and is longer than LONGEST, or is over nothing, is none."""
    text = text.replace("\\$", "$").replace("{,}", ",").replace("\\!", "")
    found = []
    for one in NUMERAL.finditer(text):
        if one.start() and (text[one.start() - 1].isalpha() or text[one.start() - 1] in "_."):
            continue  # x2, figure_3, the rest of 1.2.3
        if (value := _value(one)) is not None:
            signed = _is_sign(text, one)
            found.append(Numeral(-value if signed else value, one["percent"] is not None, one.start()))
    return found


def _is_sign(text: str, one: re.Match[str]) -> bool:
    """Whether a minus belongs to the number: in `7 - 5` and `7-5` it stands between two."""
    if one["minus"]:
        return True
    if one["sign"] not in ("-", "−"):
        return False
    before = text[: one.start()].rstrip()
    return not before or not (before[-1].isalnum() or before[-1] in ")]}")


def _value(one: re.Match[str]) -> Fraction | None:
    if len(one[0]) > LONGEST:
        return None
    if one["decimal"]:
        return Fraction(one["decimal"].replace(",", ""))
    top, bottom = int(one["over"] or one["top"]), int(one["under"] or one["bottom"])
    return None if bottom == 0 else int(one["mixed"] or 0) + Fraction(top, bottom)


def only_number(text: str) -> Numeral | None:
    """The number that an answer gives: its only one, or the last of an equation ("3 * 6 = 18"), else None, because
    "18 or 19" is no answer. Units and words may stand around it."""
    found = numerals(text.rpartition("=")[2]) if "=" in text else numerals(text)
    values = {(one.value, one.percent) for one in found}
    return found[0] if len(values) == 1 else None


def same_number(one: Numeral, other: Numeral, tolerance: float = 0.0) -> bool:
    """Equal as values. A percent sign on one side alone may be left out or be a hundredth: 50 % is 50, and is 0.5."""
    values = [one.value]
    if one.percent != other.percent:
        values.append(one.value / 100 if one.percent else one.value * 100)
    bound = abs(other.value) * Fraction(tolerance)
    return any(abs(value - other.value) <= bound for value in values)
