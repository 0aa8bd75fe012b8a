"""The shipped recipes: a literal table of name, file, what it does in one line, and the paper behind it."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple


class Row(NamedTuple):
    """One shipped recipe."""

    file: str
    line: str
    paper: str


RECIPES: dict[str, Row] = {
    "classifier": Row(
        file="classifier.yaml",
        line="57-way subject of a question: MiniLM-L6 fine-tuned, then one of its blocks taught on unlabelled rows",
        paper="Hinton, Vinyals and Dean 2015, arXiv 1503.02531; layers copied as in DistilBERT, arXiv 1910.01108",
    ),
    "headline": Row(
        file="headline.yaml",
        line="the classifier's task in a twentieth of the teacher's bytes: one block, 7,500 pieces, exported in int8",
        paper="Hinton, Vinyals and Dean 2015, arXiv 1503.02531",
    ),
    "composed": Row(
        file="composed.yaml",
        line="the classifier's task by a tutor, layer losses, skew KL and difficult rows, all in one recipe",
        paper="Mirzadeh et al. 2020, arXiv 1902.03393; TinyBERT, arXiv 1909.10351; DistiLLM, arXiv 2402.03898; DA-KD",
    ),
    "curriculum": Row(
        file="curriculum.yaml",
        line="three skills of arithmetic, the third of which opens when the other two are mastered",
        paper="Pedagogically-Inspired Data Synthesis, ICLR 2026, arXiv 2602.12172",
    ),
    "da-kd": Row(
        file="da-kd.yaml",
        line="the classifier's task in half of the steps, on the rows that are difficult for the student",
        paper="He et al. 2025, DA-KD, ICML 2025, PMLR 267:22379-22391",
    ),
    "half-decoder": Row(
        file="half-decoder.yaml",
        line="SmolLM2-135M-Instruct to half of its layers, healed with forward KL and cross-entropy on English prose",
        paper="Gromov et al. 2024, arXiv 2403.17887 and Muralidharan et al. 2024, arXiv 2407.14679",
    ),
    "gkd": Row(
        file="gkd.yaml",
        line="SmolLM2-135M-Instruct to half of its layers, then taught half on text that it writes itself",
        paper="Agarwal et al. 2023, GKD, arXiv 2306.13649",
    ),
    "distillm": Row(
        file="distillm.yaml",
        line="SmolLM2-135M-Instruct to half of its layers, then skew KL with an adaptive share of its own text",
        paper="Ko et al. 2024, DistiLLM, arXiv 2402.03898",
    ),
    "jpqd": Row(
        file="jpqd.yaml",
        line="57-way subject of a question: two blocks lose most of their neurons and their bits, taught",
        paper="Sanh et al. 2020, Movement pruning, arXiv 2005.07683; JPQD as NNCF had it until 3.0",
    ),
    "takd": Row(
        file="takd.yaml",
        line="57-way subject of a question: MiniLM-L6 teaches a tutor, which teaches a student a 24th of its size",
        paper="Mirzadeh et al. 2020, TAKD, arXiv 1902.03393",
    ),
    "teid": Row(
        file="teid.yaml",
        line="the same in rounds: each example learnt from teacher, tutor or label, the next student smaller",
        paper="TEID, an abstract of the Lebanese American University; Hinton et al. 2015, arXiv 1503.02531",
    ),
    "distilbert": Row(
        file="distilbert.yaml",
        line="MiniLM-L6 with a masked-language-model head, to three of its blocks by DistilBERT's triple loss",
        paper="Sanh et al. 2019 (DistilBERT), arXiv 1910.01108",
    ),
    "distilbert-classifier": Row(
        file="distilbert-classifier.yaml",
        line="57-way subject of a question: the student of `distilbert`, which is run first, beside its teacher",
        paper="Sanh et al. 2019 (DistilBERT), arXiv 1910.01108",
    ),
    "tinybert": Row(
        file="tinybert.yaml",
        line="57-way subject of a question: two narrow blocks learn the layers of MiniLM-L6, then its answers",
        paper="Jiao et al. 2020 (TinyBERT), arXiv 1909.10351",
    ),
}


def recipe_text(name: str) -> str:
    """The text of a shipped recipe, comments included. Raises KeyError for a name that is not in the table."""
    return files("potstill.recipes").joinpath(RECIPES[name].file).read_text(encoding="utf-8")
