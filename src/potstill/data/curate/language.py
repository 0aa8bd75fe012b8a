"""Which language a text is in, by py3langid: a model of byte n-grams in one file, without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from potstill.core.errors import InputError
from potstill.data.curate.settings import LanguageSettings

# What a text says of its language is said early, and scoring takes time by length.
MOST_CHARACTERS = 2000


def language_of(settings: LanguageSettings) -> Callable[[str], tuple[str, str | None]]:
    """From a text to its language ("?" where it is too short to tell) and the reason to drop it, or None.

    Raises InputError: py3langid is not installed, or does not know one of the languages.
    """
    try:
        import py3langid
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise InputError('language needs py3langid: run `pip install "potstill[curate]"`') from error
    identifier = LanguageIdentifier.from_modelpath(Path(py3langid.__file__).parent / MODEL_FILE, norm_probs=True)
    known = {str(name) for name in identifier.labels}
    if unknown := sorted(set(settings.keep) - known):
        raise InputError(f"language.keep: {', '.join(unknown)}: not among the codes {', '.join(sorted(known))}")

    def told(text: str) -> tuple[str, str | None]:
        if len(text.strip()) < settings.min_characters:
            return "?", None
        name, probability = identifier.classify(text[:MOST_CHARACTERS])
        if name not in settings.keep:
            return str(name), "another language"
        return str(name), None if probability >= settings.min_probability else "language in doubt"

    return told
