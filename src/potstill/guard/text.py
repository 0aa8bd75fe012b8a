"""A prompt as hashed numbers: words to a unit vector, runs of words to shingles, letters and words to a language."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt32

WIDTH = 256
"""Buckets of the hashed bag of words (Weinberger et al. 2009: a signed hash keeps inner products unbiased)."""
RUN = 4
MOST_WORDS = 300

_WORD = re.compile(r"\w+")
_MIX = np.array([0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F], dtype=np.uint32)

_SCRIPTS = (
    ("ru", "Ѐ", "ӿ"),
    ("ar", "؀", "ۿ"),
    ("hi", "ऀ", "ॿ"),
    ("ja", "぀", "ヿ"),
    ("ko", "가", "힣"),
    ("zh", "一", "鿿"),
)
_STOP_WORDS = {
    "en": frozenset(["the", "is", "of", "and", "to", "what", "in", "which", "that", "how", "for", "are", "you"]),
    "de": frozenset(["der", "die", "das", "und", "ist", "nicht", "ein", "eine", "wie", "was", "mit", "zu", "dein"]),
    "fr": frozenset(["le", "la", "les", "et", "est", "des", "une", "que", "dans", "pour", "ton", "ta", "quelle"]),
    "es": frozenset(["el", "los", "y", "es", "una", "que", "en", "para", "tu", "cómo", "con", "del", "por"]),
}

# Demands for what a model does not say of itself. "Think step by step" is not among them: honest people write it.
_COERCION = re.compile(
    r"(hidden|internal|private|full|complete|entire|raw|verbatim|unabridged)\s+(\w+\s+){0,2}"
    r"(reasoning|chain|thoughts?|thinking|scratchpad|monologue)"
    r"|<think|scratchpad|chain[ -]of[ -]thought|system prompt"
    r"|(vollständige|innere|gesamte|verborgene)\w*\s+(\w+\s+){0,2}(gedanken|überlegung|denk|argumentation)\w*"
    r"|(raisonnement|réflexion|pensées?)\s+(\w+\s+){0,2}(complet|complète|interne|caché|intégral)"
    r"|(razonamiento|pensamientos?)\s+(\w+\s+){0,2}(completo|interno|oculto|íntegro)"
    r"|(полн|внутренн|скрыт)\w*\s+(\w+\s+){0,2}(рассужден|мысл|размышл)\w*"
    r"|完整.{0,6}(推理|思考|思维)|内部.{0,6}(推理|思考|思维)|思维链|思考過程",
    re.IGNORECASE,
)
_HINTS = tuple(
    [
        "reason",
        "raison",
        "razon",
        "thought",
        "think",
        "scratch",
        "chain",
        "system",
        "monolog",
        "pens",
        "gedank",
        "überleg",
        "argument",
        "réfl",
    ]
)


@dataclass(frozen=True, slots=True)
class Read:
    """A prompt, read. vector: unit length, or zero for no words. shingles: distinct, sorted."""

    vector: Float[np.ndarray, " 256"]
    shingles: UInt32[np.ndarray, " S"]
    words: int
    language: str
    coerces: bool


def read(prompt: str) -> Read:
    """All that is taken from a prompt; what is not here is forgotten."""
    words = _WORD.findall(prompt.lower())[:MOST_WORDS]
    hashes = np.array([_hash(word) for word in words], dtype=np.uint32)
    return Read(_vector(hashes), shingles(hashes), len(words), language(prompt, words), coerces(prompt))


def shingles(hashes: UInt32[np.ndarray, " N"]) -> UInt32[np.ndarray, " S"]:
    """Distinct runs of RUN words (Broder 1997), each as one number."""
    count = len(hashes) - RUN + 1
    if count < 1:
        return np.zeros(0, np.uint32)
    mixed = hashes[:count] * _MIX[0]
    for step in range(1, RUN):
        mixed = (mixed ^ (mixed >> np.uint32(15))) * _MIX[step] + hashes[step : step + count]
    return np.unique(mixed)


def coerces(prompt: str) -> bool:
    """Whether the prompt demands reasoning that is not meant for it. A cheap look comes first."""
    lower = prompt.lower()
    hinted = any(hint in lower for hint in _HINTS) or (not prompt.isascii())
    return hinted and _COERCION.search(prompt) is not None


def language(prompt: str, words: list[str]) -> str:
    """By script, then by stop words; empty where neither says. Enough to see switching, not to name a language."""
    if not prompt.isascii():
        for name, first, last in _SCRIPTS:
            if sum(first <= letter <= last for letter in prompt[:200]) > 8:
                return name
    found = set(words)
    counts = {name: len(found & stop) for name, stop in _STOP_WORDS.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] > 1 else ""


@lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    """The same on every machine, and far cheaper than a digest."""
    return zlib.crc32(word.encode("utf-8", "replace"))


def _vector(hashes: UInt32[np.ndarray, " N"]) -> Float[np.ndarray, " 256"]:
    signs = np.where(hashes >> np.uint32(31), -1.0, 1.0)
    vector = np.bincount(hashes % np.uint32(WIDTH), signs, WIDTH)
    length = float(np.sqrt(vector @ vector))
    return vector / length if length else vector
