"""Who taught, as a step tells it: shares over the whole step, and a tutor whose numbers are not finite."""

import dataclasses
import math

import pytest
import torch

from potstill.core.signal import DenseLogits
from potstill.train.loop import train
from potstill.train.step import unsound_signal
from potstill.train.stop import StopFlag
from tests.train.tiny_run import Echo, Half, batch_of, curve, plan


class Told(Half):
    """Rows of even and odd length taught by different sources."""

    def loss(self, batch, signal, outputs, totals=None):
        found = super().loss(batch, signal, outputs, totals)
        weights = batch.weights["soft"]
        even = weights[[len(name) % 2 == 0 for name in batch.ids]].sum()
        shares = {"teacher": float(even) / totals["soft"], "tutor": float(weights.sum() - even) / totals["soft"]}
        return dataclasses.replace(found, shares=shares)


def test_shares_of_micro_batches_add_up_to_those_of_the_step(tmp_path):
    train(plan(tmp_path, objective=Told(), max_steps=4, evaluate=None, eval_steps=None), flag=StopFlag())
    rows = [row for row in curve(tmp_path) if row["event"] == "step"]
    assert len(rows) == 4
    for row in rows:
        assert row["share.teacher"] + row["share.tutor"] == pytest.approx(1, abs=1e-6)
    assert {row["share.tutor"] for row in rows} != {1.0}
    assert list(rows[0])[:2] == ["event", "step"]


def test_an_objective_without_shares_logs_none(tmp_path):
    train(plan(tmp_path, max_steps=1, evaluate=None, eval_steps=None), flag=StopFlag())
    assert not any(key.startswith("share.") for row in curve(tmp_path) for key in row)


def test_a_tutor_that_is_not_finite_is_named_with_its_rows():
    batch = batch_of([0, 1, 2])
    said = Echo().signal(batch, None)
    logits = said.logits.logits_BTV.clone()
    assert unsound_signal(dataclasses.replace(said, tutor=DenseLogits(logits)), batch) is None
    logits[1, 0, 0] = math.inf
    bad = unsound_signal(dataclasses.replace(said, tutor=DenseLogits(logits)), batch)
    assert bad.part == "tutor's logits"
    assert bad.ids == ("row-1",)
    assert torch.isfinite(said.logits.logits_BTV).all()
