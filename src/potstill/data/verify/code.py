"""Code judged by its tests: the program that an answer holds, and tests that raise where it is wrong."""

from __future__ import annotations

import re
import secrets

from potstill.data.verify.sandbox import Ran, run_program

_FENCE = re.compile(r"^```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL | re.IGNORECASE)


def program_of(answer: str) -> str | None:
    """The last fenced block of Python in an answer, or the answer where it has no fence at all; None when it has
    fences, and none of them is Python's and closed."""
    if found := _FENCE.findall(answer):
        return str(found[-1])
    return None if "```" in answer else answer


def passes(program: str, tests: str, *, seconds: float, mebibytes: int, isolated: bool = True) -> tuple[bool, Ran]:
    """Whether the program runs, and then all tests, to the end.

    A word that nobody can guess is printed after the last test, so that a program which ends itself has not passed.
    Program and tests share one process, as in HumanEval: one that is written to look for the word could find it.
    """
    word = secrets.token_hex(16)
    ran = run_program(
        f"{program}\n\n{tests}\n\nprint('\\n' + {word!r})\n", seconds=seconds, mebibytes=mebibytes, isolated=isolated
    )
    return ran.ended == "exited" and ran.code == 0 and ran.output.rstrip().endswith(word), ran
