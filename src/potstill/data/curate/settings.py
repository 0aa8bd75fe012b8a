"""What makes a row worth learning from. No torch."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from potstill.core.settings import Settings
from potstill.data.settings import SourceSettings

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class RulesSettings(Settings):
    """Rules of thumb about the text that is learnt; null takes one out. In brackets what Gopher (Rae et al. 2021,
    arXiv:2112.11446, appendix A.1) and C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2) publish for web text; the
    defaults keep what a short worked answer may be.

    min_words: words of the text (Gopher 50). max_words: at most (100,000). min_mean_word: characters of a word, on
    average (3). max_mean_word: at most (10). max_symbols: hash signs and ellipses over words (0.1). max_bullets: lines
    that begin with a bullet (0.9). max_ellipses: lines that end with an ellipsis (0.3). min_alphabetic: words with a
    letter (0.8). min_stop_words: of the, be, to, of, and, that, have, with (2). max_repeated_lines: lines that stood
    before (0.3). max_repeated_ngrams: characters in the commonest phrase of 2, 3, 4 … words, in texts of 50 words and
    more (0.2, 0.18, 0.16, which 5 % of GSM8K's own answers exceed). min_sentences: ends of sentences (C4 3). forbidden:
    texts that no row may hold (C4 `lorem ipsum` and a curly bracket).
    """

    min_words: Count | None = 1
    max_words: Count | None = 100_000
    min_mean_word: Annotated[float, Field(gt=0)] | None = None
    max_mean_word: Annotated[float, Field(gt=0)] | None = 25.0
    max_symbols: Share | None = 0.1
    max_bullets: Share | None = 0.9
    max_ellipses: Share | None = 0.3
    min_alphabetic: Share | None = None
    min_stop_words: Annotated[int, Field(ge=1, le=8)] | None = None
    max_repeated_lines: Share | None = 0.3
    max_repeated_ngrams: tuple[Share, ...] | None = (0.25, 0.25, 0.25)
    min_sentences: Count | None = None
    forbidden: tuple[Annotated[str, Field(min_length=1)], ...] = ("lorem ipsum",)


class LanguageSettings(Settings):
    """Which languages stay, by py3langid (extra `curate`).

    keep: ISO 639-1 codes. min_probability: a kept row's own. min_characters: a shorter text is kept, since nobody could
    tell.
    """

    keep: Annotated[tuple[str, ...], Field(min_length=1)] = ("en",)
    min_probability: Share = 0.5
    min_characters: Annotated[int, Field(ge=0)] = 40


class NearSettings(Settings):
    """Near-duplicates by MinHash (Broder 1997) with banding (Leskovec et al. 2020, section 3.4).

    jaccard: rows as alike as this by the estimate are one. ngram: words of a shingle. permutations: hash functions; the
    estimate is off by sqrt(J (1 - J) / permutations).
    """

    jaccard: Annotated[float, Field(gt=0, le=1)] = 0.8
    ngram: Count = 5
    permutations: Annotated[int, Field(ge=16, le=1024)] = 128


class DuplicateSettings(Settings):
    """Rows that say the same; the first one stays.

    of: what is compared: the whole `row`, its `prompt`, or its `completion`. exact: the same words, whatever the case,
    spaces and punctuation. near: alike enough.
    """

    of: Literal["row", "prompt", "completion"] = "row"
    exact: bool = True
    near: NearSettings | None = NearSettings()


class DecontaminateSettings(Settings):
    """Rows that hold what the student will be examined on.

    against: the evaluation sets. ngram: so many words in a row are no chance (GPT-3, arXiv:2005.14165, appendix C:
    13). shortest: an evaluation text of fewer words than ngram is looked for as a whole down to this length.
    """

    against: Annotated[tuple[SourceSettings, ...], Field(min_length=1)]
    ngram: Annotated[int, Field(ge=2)] = 13
    shortest: Annotated[int, Field(ge=2)] = 8


class BalanceSettings(Settings):
    """At most so many answers to one prompt, since easy prompts have more right ones (SCoTD, arXiv:2306.14050).

    per_prompt: answers that stay. by: the `first`, the likeliest (`likelihood`, needs quality), or those least alike
    (`diverse`: the first, then always the one whose nearest kept neighbour is farthest in shingles of 3 words).
    """

    per_prompt: Count
    by: Literal["first", "likelihood", "diverse"] = "first"


class MixtureSettings(Settings):
    """How much of what, as exact counts.

    by: the `source`, or the name of a slice. temperature: shares are sizes to the power of 1 / temperature (XLM,
    arXiv:1901.07291, section 3.1); 1 keeps them. weights: shares by name, in place of a temperature; a source's name
    is its dataset_name. total: rows; the most that needs no row twice, when absent.
    """

    by: str = "source"
    temperature: Annotated[float, Field(ge=1)] = 1.0
    weights: Mapping[str, Annotated[float, Field(gt=0)]] | None = None
    total: Count | None = None
