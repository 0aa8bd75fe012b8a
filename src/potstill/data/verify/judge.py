"""From an answer and its reference to a verdict. The table of kinds is at the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from potstill.core.errors import InputError
from potstill.data.verify.choices import last_letter, letter_of, options_of
from potstill.data.verify.code import passes, program_of
from potstill.data.verify.final import Final, marked_answer
from potstill.data.verify.maths import MathsChecker, OutOfMemory, OutOfTime
from potstill.data.verify.numerals import Numeral, numerals, only_number, same_number
from potstill.data.verify.sandbox import isolation
from potstill.data.verify.settings import VerifySettings

Outcome = Literal[
    "right", "wrong", "no answer found", "no reference", "reference not understood", "out of time", "out of memory"
]
_SENTENCE = re.compile(r"(?<=[.;!?])\s+(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is judged. reference: the right answer, None where the row has none. tests: of code. cut: the completion
    ran into its limit, so that its last number or line is where it broke off, and no answer unless it is marked."""

    prompt: str
    completion: str
    reference: str | None = None
    tests: str | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """outcome: what was found. answer: the final answer, "" without one. start: where it begins in the completion, with
    its mark; None where nothing marks it."""

    outcome: Outcome
    answer: str = ""
    start: int | None = None


Judge = Callable[[Asked], Verdict]


@contextmanager
def judging(settings: VerifySettings, *, allow_unisolated_code: bool = False) -> Iterator[Judge]:
    """A judge by these settings; its processes end with the block.

    Raises InputError: math-verify is not installed, or programs cannot be isolated here and nobody allowed them to run
    otherwise.
    """
    if settings.kind == "maths":
        with MathsChecker(settings.time_limit, settings.memory_limit) as checker:
            yield partial(_maths, settings, checker)
        return
    isolated = True
    if settings.kind == "code" and (why := isolation()) is not None:
        if not allow_unisolated_code:
            raise InputError(why)
        isolated = False
    yield partial(_code, settings, isolated) if settings.kind == "code" else partial(JUDGES[settings.kind], settings)


def final_of(settings: VerifySettings, asked: Asked) -> Final | None:
    """The marked answer, or the last line where that may count and there is no mark; its start is then -1."""
    if (found := marked_answer(asked.completion)) is not None or not _last_counts(settings, asked):
        return found
    lines = [line.strip() for line in asked.completion.strip().splitlines() if line.strip()]
    return Final(lines[-1], -1) if lines else None


def _last_counts(settings: VerifySettings, asked: Asked) -> bool:
    return settings.find == "last" and not asked.cut


def _number(settings: VerifySettings, asked: Asked) -> Verdict:
    if asked.reference is None:
        return Verdict("no reference")
    if (right := _one_number(_reference(asked.reference))) is None:
        return Verdict("reference not understood")
    if (final := marked_answer(asked.completion)) is not None:
        found, start = _one_number(final.text), final.start
        text = final.text
    else:
        last = numerals(asked.completion)[-1:] if _last_counts(settings, asked) else []
        found, start = (last[0], None) if last else (None, None)
        text = "" if found is None else str(found.value)
    if found is None:
        return Verdict("no answer found", text, start)
    return Verdict("right" if same_number(found, right, settings.tolerance) else "wrong", text, start)


def _one_number(text: str) -> Numeral | None:
    """The only number of an answer, or of its first sentence: "18. That is 9 * 2." is 18."""
    return only_number(_SENTENCE.split(text)[0]) or only_number(text)


def _choice(settings: VerifySettings, asked: Asked) -> Verdict:
    if asked.reference is None:
        return Verdict("no reference")
    options = options_of(asked.prompt)
    if (right := letter_of(_reference(asked.reference), options)) is None:
        return Verdict("reference not understood")
    final = marked_answer(asked.completion)
    if final is not None:
        letter = letter_of(final.text, options)
    else:
        letter = letter_of(asked.completion, options)
        if letter is None and _last_counts(settings, asked):
            letter = last_letter(asked.completion, options)
    if letter is None:
        return Verdict("no answer found", final.text if final else "", final.start if final else None)
    return Verdict("right" if letter == right else "wrong", letter, final.start if final else None)


def _text(settings: VerifySettings, asked: Asked) -> Verdict:
    if asked.reference is None:
        return Verdict("no reference")
    final = final_of(settings, asked)
    if final is None:
        return Verdict("no answer found")
    same = _folded(final.text) == _folded(_reference(asked.reference))
    return Verdict("right" if same else "wrong", final.text, None if final.start < 0 else final.start)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!?")


def _maths(settings: VerifySettings, checker: MathsChecker, asked: Asked) -> Verdict:
    if asked.reference is None:
        return Verdict("no reference")
    final = final_of(settings, asked)
    if final is None:
        return Verdict("no answer found")
    start = None if final.start < 0 else final.start
    try:
        found = checker.compare(_reference(asked.reference), final.text)
    except OutOfTime:
        return Verdict("out of time", final.text, start)
    except OutOfMemory:
        return Verdict("out of memory", final.text, start)
    if not found["reference"]:
        return Verdict("reference not understood", final.text, start)
    if not found["answer"]:
        return Verdict("no answer found", final.text, start)
    return Verdict("right" if found["same"] else "wrong", final.text, start)


def _code(settings: VerifySettings, isolated: bool, asked: Asked) -> Verdict:
    if asked.tests is None:
        return Verdict("no reference")
    if (program := program_of(asked.completion)) is None:
        return Verdict("no answer found")
    right, ran = passes(
        program, asked.tests, seconds=settings.time_limit, mebibytes=settings.memory_limit, isolated=isolated
    )
    if ran.ended != "exited":
        return Verdict(ran.ended)
    return Verdict("right" if right else "wrong")


def _reference(text: str) -> str:
    """The final answer of a reference: behind its mark, else all of it."""
    final = marked_answer(text)
    return text.strip() if final is None else final.text


JUDGES: Mapping[str, Callable[[VerifySettings, Asked], Verdict]] = {"number": _number, "choice": _choice, "text": _text}
