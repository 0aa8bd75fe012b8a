"""Rules of thumb about a text: the first one that it breaks is its reason. Sources stand at the settings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from potstill.data.curate.settings import RulesSettings
from potstill.data.curate.words import ngrams, words_of

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("-", "*", "•", "‣", "●")
ELLIPSES = ("...", "…")
# Gopher's documents have fifty words; in fewer, `5 + 5 + 5` is no repetition.
WORDS_FOR_REPETITION = 50
# Names of control tokens of the models in use, whichever tokenizer will read the row.
CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad|unk|mask|start_of_turn|end_of_turn)>"
    r"|\[(?:CLS|SEP|MASK|PAD|UNK)\]"
)
_MARKED = r"(?:(?:answer|solution|result)\s*(?:is|:|=)\s*|####\s*|\\boxed\{{\s*)\$?{}(?![\w.,]*\d)"
WORDS_OF_A_LEAK, SHARE_OF_A_LEAK = 8, 0.5


def broken_rule(text: str, rules: RulesSettings) -> str | None:
    """The name of the first rule that a text breaks, or None."""
    words = text.split()
    return next((name for name, breaks in RULES if breaks(text, words, rules)), None)


def control_token(texts: Sequence[str]) -> str | None:
    """The first name of a control token in any text: rendered by a chat template, it would end a turn."""
    return next((found[0] for text in texts if (found := CONTROL.search(text))), None)


def leaked(prompt: str, answer: str, reference: str) -> bool:
    """Whether a prompt gives its own answer away: marked as the answer ("the answer is 18"), or by half of the worked
    reference, in phrases of WORDS_OF_A_LEAK words. A worked answer often repeats a sentence of its question."""
    if answer and re.search(_MARKED.format(re.escape(answer.strip("$ ."))), prompt, re.IGNORECASE):
        return True
    worked = set(ngrams(words_of(reference), WORDS_OF_A_LEAK))
    shared = worked.intersection(ngrams(words_of(prompt), WORDS_OF_A_LEAK))
    return bool(worked) and len(shared) >= SHARE_OF_A_LEAK * len(worked)


def _few_words(text: str, words: list[str], rules: RulesSettings) -> bool:
    return rules.min_words is not None and len(words) < rules.min_words


def _many_words(text: str, words: list[str], rules: RulesSettings) -> bool:
    return rules.max_words is not None and len(words) > rules.max_words


def _word_length(text: str, words: list[str], rules: RulesSettings) -> bool:
    mean = sum(map(len, words)) / max(1, len(words))
    short = rules.min_mean_word is not None and mean < rules.min_mean_word
    return short or (rules.max_mean_word is not None and mean > rules.max_mean_word)


def _symbols(text: str, words: list[str], rules: RulesSettings) -> bool:
    if rules.max_symbols is None:
        return False
    # `####` before an answer is one mark and no noise.
    found = len(re.findall(r"#+", text)) + text.count("...") + text.count("…")
    return found > 1 and found / max(1, len(words)) > rules.max_symbols


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _bullets(text: str, words: list[str], rules: RulesSettings) -> bool:
    lines = _lines(text)
    share = sum(line.startswith(BULLETS) for line in lines) / max(1, len(lines))
    return rules.max_bullets is not None and share > rules.max_bullets


def _ellipses(text: str, words: list[str], rules: RulesSettings) -> bool:
    lines = _lines(text)
    share = sum(line.endswith(ELLIPSES) for line in lines) / max(1, len(lines))
    return rules.max_ellipses is not None and share > rules.max_ellipses


def _alphabetic(text: str, words: list[str], rules: RulesSettings) -> bool:
    share = sum(any(map(str.isalpha, word)) for word in words) / max(1, len(words))
    return rules.min_alphabetic is not None and share < rules.min_alphabetic


def _stop_words(text: str, words: list[str], rules: RulesSettings) -> bool:
    return rules.min_stop_words is not None and len(STOP_WORDS.intersection(words_of(text))) < rules.min_stop_words


def _repeated_lines(text: str, words: list[str], rules: RulesSettings) -> bool:
    lines = _lines(text)
    share = 1 - len(set(lines)) / max(1, len(lines))
    return rules.max_repeated_lines is not None and share > rules.max_repeated_lines


def _repeated_ngrams(text: str, words: list[str], rules: RulesSettings) -> bool:
    if rules.max_repeated_ngrams is None or len(words) < WORDS_FOR_REPETITION:
        return False
    characters = sum(map(len, words))
    for n, bound in enumerate(rules.max_repeated_ngrams, start=2):
        counts = Counter(ngrams(words, n))
        most = max((count * sum(map(len, gram)) for gram, count in counts.items() if count > 1), default=0)
        if most / characters > bound:
            return True
    return False


def _sentences(text: str, words: list[str], rules: RulesSettings) -> bool:
    return rules.min_sentences is not None and len(re.findall(r"[.!?](?:\s|$)", text)) < rules.min_sentences


def _forbidden(text: str, words: list[str], rules: RulesSettings) -> bool:
    folded = text.casefold()
    return any(one.casefold() in folded for one in rules.forbidden)


RULES: tuple[tuple[str, Callable[[str, list[str], RulesSettings], bool]], ...] = (
    ("too few words", _few_words),
    ("too many words", _many_words),
    ("words too short or too long", _word_length),
    ("too many symbols", _symbols),
    ("too many bullet lines", _bullets),
    ("too many ellipses", _ellipses),
    ("too few words with letters", _alphabetic),
    ("too few stop words", _stop_words),
    ("repeated lines", _repeated_lines),
    ("repeated phrases", _repeated_ngrams),
    ("too few sentences", _sentences),
    ("forbidden text", _forbidden),
)
