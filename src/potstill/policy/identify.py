"""From what a card, a wheel or a recipe says of a licence to rows of the table. A name that is not there is unknown;
nothing is guessed from the name of a model."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from potstill.policy.terms import ORDER, Terms, strictest
from potstill.policy.terms_table import HOSTS, TERMS, UNDECLARED, UNKNOWN

# Said of a licence, and nothing is said by it.
_SILENT = frozenset({"", "unknown", "none", "noassertion", "not stated"})
_WORDS = re.compile(r"\b(the|licen[cs]e|agreement|version)\b|licenseref-|\bv(?=\d)")


def key(name: str) -> str:
    """A name without case, punctuation and the words that every licence has."""
    return re.sub(r"[^a-z0-9.+]", "", _WORDS.sub("", name.lower())).strip(".")


def _keys() -> Mapping[str, Terms]:
    named = (one for one in TERMS.values() if one not in (UNKNOWN, UNDECLARED))
    return {key(name): one for one in named for name in (one.id, one.title, *one.aliases)}


BY_KEY = _keys()


def stated(text: str | None) -> bool:
    """Whether anything was said."""
    return (text or "").strip().lower() not in _SILENT


def identify(text: str | None) -> tuple[Terms, ...]:
    """All terms that hold where a licence is stated like this, UNKNOWN among them for each name that nobody knows.

    Two names hold together ("MIT AND CC-BY-4.0", "mit, cc-by-4.0"), unless the text leaves the choice ("MIT OR
    GPL-3.0"): the choice is then the laxest. In brackets, or where both words stand, all hold. Nothing said gives
    UNDECLARED.
    """
    if not stated(text):
        return (UNDECLARED,)
    whole = str(text).strip()
    if known := BY_KEY.get(key(whole)):
        return (known,)
    plain = re.sub(r"\s+with\s+[\w.-]+", "", whole, flags=re.IGNORECASE)
    if re.search(r"\bor\b", plain, re.IGNORECASE) and not re.search(r"\band\b|[(),;/&]", plain, re.IGNORECASE):
        choices = [_one(name) for name in re.split(r"\s+or\s+", plain, flags=re.IGNORECASE)]
        return (min(choices, key=severity),)
    names = [name for name in re.split(r"\s+(?:and|or)\s+|[(),;/&\n]", plain, flags=re.IGNORECASE) if name.strip()]
    return tuple(dict.fromkeys(_one(name) for name in names)) or (UNKNOWN,)


def severity(terms: Terms) -> tuple[int, ...]:
    """How strict terms are, for a choice between two."""
    hold = (terms.derive, terms.outputs, terms.compete, terms.commercial)
    return (ORDER.index(strictest(*hold)), sum(map(ORDER.index, hold)), len(terms.duties))


def _one(name: str) -> Terms:
    return BY_KEY.get(key(name), UNKNOWN)


def at_address(url: str) -> tuple[Terms, ...]:
    """Terms of the company that answers at an address; empty where it is nobody of the table."""
    host = (urlsplit(url).hostname or "").lower()
    return tuple(dict.fromkeys(TERMS[name] for pattern, name in HOSTS.items() if fnmatchcase(host, pattern)))


def is_near(url: str) -> bool:
    """Whether an address is this machine or its private network: whoever runs it there knows its terms."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "unix" or host == "localhost" or not set(".:") & set(host):
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host.endswith((".local", ".internal", ".localhost"))
