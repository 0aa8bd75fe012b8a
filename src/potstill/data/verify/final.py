"""Where a text gives its final answer: after a mark that says so, and else nowhere that this file would know."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A mark and what follows it. The latest in a text counts: a chain of thought may correct itself.
_HASHES = re.compile(r"^[ \t]*####[ \t]*", re.MULTILINE)
_PHRASE = re.compile(
    r"(?:\b(?:the|my|your|our|so)\s+)*\b(?:(?:final|correct|right|best)\s+)?(?:answer|option|choice)\s*"
    r"(?:\*\*)?\s*(?:is\s*:?|:|=)\s*",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
# Emphasis and signs around an answer that are none of it.
_AROUND = "*`_ \t\"'“”"


@dataclass(frozen=True, slots=True)
class Final:
    """A final answer. text: it alone. start: where its mark begins in the whole text; reasoning stands before it."""

    text: str
    start: int


def marked_answer(text: str) -> Final | None:
    """The answer after the last mark: `#### 18`, `\\boxed{18}`, "The answer is 18."; None without a mark, or with
    nothing behind it."""
    found = [*_boxed(text), *_lines(text, _HASHES), *_lines(text, _PHRASE)]
    return max(found, key=lambda final: final.start, default=None)


def _lines(text: str, mark: re.Pattern[str]) -> list[Final]:
    """What stands between a mark and the end of its line, or on the next line where the mark ends its own."""
    found = []
    for one in mark.finditer(text):
        line = text[one.end() :].lstrip("\n*_ \t").partition("\n")[0]
        if (cleaned := line.strip(_AROUND)) and not _BOXED.search(cleaned):
            found.append(Final(cleaned, one.start()))
    return found


def _boxed(text: str) -> list[Final]:
    """The content of `\\boxed{…}`, whose braces must close."""
    found = []
    for one in _BOXED.finditer(text):
        depth = 1
        for at in range(one.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                if inside := text[one.end() : at].strip():
                    # A phrase before it on its line ("The answer is \boxed{4}") begins the answer.
                    start = text.rfind("\n", 0, one.start()) + 1
                    phrase = [mark.start() for mark in _PHRASE.finditer(text, start, one.start())]
                    found.append(Final(inside, phrase[-1] if phrase else one.start()))
                break
    return found
