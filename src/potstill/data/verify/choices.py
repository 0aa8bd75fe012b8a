"""Multiple choice: which letter an answer takes, by the letter or by the words of the option."""

from __future__ import annotations

import re
from collections.abc import Mapping

_OPTION = re.compile(r"^[ \t]*\(?([A-Ja-j])[).:][ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_LETTER = re.compile(r"^(?:option|choice|answer)?\s*[\[({]*\s*([A-Ja-j])\s*(?:$|[\])}.:,;*]|\s[-–—]\s)", re.IGNORECASE)
_BRACKETED = re.compile(r"\(([A-J])\)")


def options_of(prompt: str) -> dict[str, str]:
    """Letter -> words of the options in a prompt, where each stands on its own line: `A. Paris`, `(b) Rome`."""
    return {letter.upper(): words for letter, words in _OPTION.findall(prompt)}


def letter_of(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer takes: `B`, `(b)`, `B. Rome`, `Rome`; None where it takes none, or one that is not
    offered."""
    answer = answer.strip()
    words = {_words(text): letter for letter, text in options.items()}
    if (letter := words.get(_words(answer))) is not None:
        return letter
    if (found := _LETTER.match(answer)) is None:
        return None
    letter = found[1].upper()
    return letter if not options or letter in options else None


def last_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The last letter in brackets; a bare A may be an article. None where there is none that is offered."""
    offered = [letter for letter in _BRACKETED.findall(text) if not options or letter in options]
    return offered[-1] if offered else None


def _words(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())
