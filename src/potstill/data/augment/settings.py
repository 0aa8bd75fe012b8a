"""How rows are varied before they are learnt from. Numbers and names only, no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from potstill.core.settings import Settings

Positive = Annotated[int, Field(gt=0)]


class AugmentSettings(Settings):
    """More rows from the rows there are: words replaced by words that would fit (TinyBERT: Jiao et al. 2020, alg. 1).

    model_name_or_path: a masked language model that proposes words: a folder, a hub id, or `stage:NAME` of an earlier
    stage with task masked-lm. copies: varied rows beside each original, at most; two that are equal count once.
    p_replace: how likely a word is replaced. candidates: proposals for each word, of which one is drawn. passes: in so
    many turns the words of a text are hidden, every passes-th at once; null hides one at a time, as the paper does.
    labels: `teacher` leaves a varied row without a label, for the teacher to say what it has become; `keep` trusts the
    original's. bf16: whether the model computes in bfloat16; `auto` where the hardware multiplies it.
    """

    model_name_or_path: Annotated[str, Field(min_length=1)]
    # The paper makes 30 and its code 20 to 30; each costs a reading by the teacher and a share of a pass.
    copies: Positive = 2
    # p_t = 0.4 and 15 proposals: the paper's appendix.
    p_replace: Annotated[float, Field(gt=0, le=1)] = 0.4
    candidates: Positive = 15
    # A quarter of the words at once is near the 15 % of the tokens that a masked language model learns with.
    passes: Positive | None = 4
    labels: Literal["teacher", "keep"] = "teacher"
    bf16: bool | Literal["auto"] = "auto"
