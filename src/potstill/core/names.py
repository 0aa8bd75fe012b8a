"""What may be the name of a folder, and what a path that stays below the working directory. A recipe may come from
anybody, and its folders go to other systems."""

from __future__ import annotations

import re
import unicodedata

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LONGEST_PART, LONGEST_PATH = 255, 1024
# Device names of Windows, with any ending (learn.microsoft.com, "Naming Files, Paths, and Namespaces").
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
# Characters that look like a slash and have no compatibility form that is one.
_LIKE_A_SLASH = "\u2044\u2215\u29f5\u29f8\u29f9"


def why_no_name(name: str) -> str | None:
    """Why this cannot be the name of a folder, or None."""
    if not NAME.fullmatch(name):
        return "is not a name: letters, digits and . _ - only, at most 100, first a letter or digit"
    return _why_reserved(name)


def why_not_below(place: str) -> str | None:
    """Why this is no path below the working directory, or None. What links do there is up to whoever made them."""
    parts = re.split(r"[/\\]", place)
    if not place.strip() or "\0" in place or place.startswith("~") or not parts[0] or ":" in parts[0]:
        return "is not below the working directory"
    if ".." in parts:
        return "leaves the working directory with `..`"
    if all(part in ("", ".") for part in parts):
        return "is the working directory itself, not below it"
    if len(place) > LONGEST_PATH or max(len(part.encode(errors="replace")) for part in parts) > LONGEST_PART:
        most = f"at most {LONGEST_PATH} characters, and {LONGEST_PART} bytes in one part"
        return f"is too long for a path below the working directory: {most}"
    if any(_disguised(letter) for letter in place):
        return "holds characters that are not seen or look like others: it may not be below the working directory"
    return next((reason for part in parts if part != "." and (reason := _why_reserved(part))), None)


def _why_reserved(name: str) -> str | None:
    if _DEVICE.fullmatch(name):
        return "is a name that Windows keeps for a device: choose another"
    if name.endswith((".", " ")):
        return "ends with a dot or a space, which Windows takes away: choose another"
    return None


def _disguised(letter: str) -> bool:
    unseen = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return unseen or letter in _LIKE_A_SLASH or unicodedata.normalize("NFKC", letter).isascii() != letter.isascii()
