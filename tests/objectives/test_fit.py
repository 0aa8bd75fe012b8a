"""Signals that do not fit are refused in one sentence with both values and the next step."""

import re

import pytest
import torch

from potstill.core.errors import SignalError
from potstill.core.signal import DenseLogits, HiddenStates, Outputs, Signal, Voice
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import ObjectiveSettings


def refused(case, message, signal, **settings):
    with pytest.raises(SignalError, match=re.escape(message)) as caught:
        case.run(Hinton(ObjectiveSettings(**settings)), signal)
    assert caught.value.exit_code == 2


def test_another_vocabulary(case):
    c = case()
    signal = c.signal(DenseLogits(torch.randn(3, 4, 9)), entries=9)
    refused(
        c,
        "teacher a-teacher speaks of 9 entries and the student of 7: nothing is cut or padded unasked; use models",
        signal,
    )


def test_another_vocabulary_of_a_sparse_signal(case):
    wide = case(entries=9)
    refused(case(), "speaks of 9 entries and the student of 7", wide.sparse(3, 1.0))


def test_logits_that_are_not_what_was_announced(case):
    c = case()
    refused(c, "announced 7 entries but sent logits over 9", c.signal(DenseLogits(torch.randn(3, 4, 9)), entries=7))


def test_another_temperature(case):
    message = "at temperature 1.0, and the objective needs 2.0: a cut tail cannot be softened again; set"
    refused(case(), message, case().sparse(3, 1.0), temperature=2.0)


def test_another_k(case):
    refused(case(), "sent its 3 top entries, and objective.top_k is 5: set it to 3", case().sparse(3, 1.0), top_k=5)


def test_k_beyond_the_vocabulary(case):
    refused(case(), "objective.top_k is 8, but there are only 7 entries: lower it", case().dense(), top_k=8)


def test_other_positions(case):
    message = "answered for [rows, positions] [3, 1] and the student for [3, 4]: both must read the same batch"
    refused(case(), message, case(positions=1).dense())
    refused(case(), message, case(positions=1).sparse(3, 1.0))


def test_no_logits(case):
    message = "objective.soft_weight is above 0, but no teacher sent logits: name a teacher, or set it to 0"
    refused(case(), message, Signal(voice=Voice("a-teacher", 7), hidden=HiddenStates({})))


def test_no_signal(case):
    c = case()
    with pytest.raises(SignalError, match="no teacher sent logits"):
        Hinton(ObjectiveSettings()).loss(c.batch(), None, Outputs(c.student))
