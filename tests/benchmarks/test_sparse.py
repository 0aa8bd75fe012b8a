"""The two pruning benchmarks, on a tiny classifier and on times that are known."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from potstill.students.fingerprint import count_parameters
from tests.benchmarks.scripts import script
from tests.compress.calibration import model, rows_for

one_shot, sparse = script("one_shot"), script("sparse")


@pytest.fixture
def classifier():
    return model("bert", torch.float32)


def test_every_arm_is_made_and_measured(classifier):
    found = one_shot.quality(classifier, [[rows_for("bert")]], [rows_for("bert")])
    assert len(found) == 20
    assert found["whole"]["weights, M"] == count_parameters(classifier) / 1e6
    halves = {found[name]["weights, M"] for name in found if name.startswith("half of the neurons")}
    assert halves == {found["whole"]["weights, M"] - 4 * 12 * 33 / 1e6}
    assert {row["weights, M"] for name, row in found.items() if "zeros" in name} == {found["whole"]["weights, M"]}
    assert all(0 <= row["accuracy, %"] <= 100 for row in found.values())
    row = found["whole"]
    assert row["lowest"] == row["highest"] == row["accuracy, %"]
    said = f"{row['accuracy, %']:.2f}"
    assert one_shot.table(found)[2] == f"| whole | {said} | {said} | {said} | {row['weights, M']:.2f} |"


def test_random_choices_differ_by_seed_and_repeat(classifier):
    sizes = one_shot.sizes_of(classifier)
    first, again, other = (one_shot.random_scores(sizes, seed) for seed in (0, 0, 1))
    assert torch.equal(first.neurons[2], again.neurons[2])
    assert not torch.equal(first.neurons[2], other.neurons[2])


def test_models_that_are_timed_have_the_weights_that_are_said(monkeypatch):
    values = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 96, "vocab_size": 60}
    classifier = BertForSequenceClassification(BertConfig(**values, num_hidden_layers=4))
    monkeypatch.setattr(sparse, "in_turn", lambda runs, rounds: {name: 2.0 for name in runs} | {"dense": 4.0})
    found = sparse.speed(classifier, rows_for("bert"), rounds=1)
    whole = found["dense"]["matrix weights, M"]
    assert whole == 4 * (4 * 16 * 16 + 2 * 16 * 96) / 1e6
    assert found["50 % zeros, global"]["of them not zero, M"] == pytest.approx(whole / 2)
    assert found["50 % zeros, global"]["matrix weights, M"] == whole
    assert found["2:4 zeros"]["of them not zero, M"] == pytest.approx(whole / 2)
    for name in ("half of the blocks", "half of the weights, by neurons"):
        assert found[name]["matrix weights, M"] == pytest.approx(whole / 2)
    assert found["a tenth: one block, fewer neurons"]["matrix weights, M"] == pytest.approx(whole / 10, rel=0.02)
    assert found["half of the blocks"]["times as fast as dense"] == 2


def test_models_take_turns_and_the_first_round_does_not_count(monkeypatch):
    order, clock = [], iter([0, 9, 18, 20, 21, 24, 24, 26, 27, 30])
    monkeypatch.setattr(sparse.time, "process_time", lambda: next(clock))
    runs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    assert sparse.in_turn(runs, 2) == {"a": 2000.0, "b": 3000.0}
    assert order == ["a", "b"] * 3


def test_without_a_model_the_next_step_is_said(tmp_path):
    with pytest.raises(SystemExit, match="make demo"):
        one_shot.loaded(tmp_path, 1, 1)
