"""The search for blocks, on costs that are known and on a tiny model."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from potstill.core.batch import next_token_targets
from tests.benchmarks.scripts import script
from tests.students.tiny import batch_of, tiny

choose = script("choose_layers")


def additive(cost):
    """A scorer whose KL is the sum of the costs of what is missing; it counts how often it is asked."""
    asked = []

    def score(kept):
        asked.append(tuple(kept))
        return choose.Score(tuple(kept), float(sum(cost[block] for block in set(range(len(cost))) - set(kept))), 1.0)

    return score, asked


def test_greedy_drops_the_cheapest():
    score, _ = additive([9, 1, 8, 2, 7, 3])
    found = choose.greedy(score, 6, 3, candidates=2)
    assert found.kept == (0, 2, 4)
    assert found.kl == 6


def test_later_rounds_measure_only_the_candidates():
    score, asked = additive([9, 1, 8, 2, 7, 3])
    choose.greedy(score, 6, 3, candidates=2)
    assert len(asked) == 6 + 2 + 2


def test_greedy_sees_that_a_block_becomes_dear_when_another_has_gone():
    """Blocks 1 and 2 are each other's stand-in: cheap alone, dear together."""

    def score(kept):
        gone = {0, 1, 2, 3, 4} - set(kept)
        return choose.Score(
            tuple(kept), sum({0: 5, 1: 1, 2: 1.5, 3: 2, 4: 5}[b] for b in gone) + 9 * ({1, 2} <= gone), 1.0
        )

    assert choose.greedy(score, 5, 3, candidates=3).kept == (0, 2, 4)


def test_alternatives():
    score, _ = additive([9, 1, 2, 3, 8, 7])
    found = choose.alternatives(score, 6, 3, influence=[0.9, 0.1, 0.5, 0.2, 0.3, 0.8])
    assert found["evenly spaced"].kept == (0, 2, 4)
    assert found["lowest block influence dropped"].kept == (0, 2, 5)
    assert found["contiguous run dropped, best of all"].kept == (0, 4, 5)


def test_the_table_begins_with_the_closest():
    rows = choose.table({"far": choose.Score((0, 2), 3.0, 1234.5), "near": choose.Score((0, 1), 1.0, 50.0)})
    assert rows[2:] == ["| near | 1.000 | 50.0 | 0, 1 |", "| far | 3.000 | 1,234.5 | 0, 2 |"]


@pytest.fixture
def whole():
    batch = batch_of(rows=2, length=7, padded=())
    targets_BT, weights_BT = next_token_targets(batch.tokens_BL, batch.attention_BL)
    weights = {"hard": weights_BT, "soft": weights_BT}
    return tiny("llama", "causal-lm"), [replace(batch, targets_BT=targets_BT, weights=weights, rows=(0, 1))]


def test_the_whole_model_is_no_way_from_itself(whole):
    module, batches = whole
    depth = module.config.num_hidden_layers
    score = partial(choose.measured, module, batches, choose.heard(module, batches))
    assert score(range(depth)).kl == pytest.approx(0, abs=1e-6)
    assert score([0]).kl > 1e-3
    assert module.config.num_hidden_layers == depth


def test_a_block_that_changes_nothing_has_no_influence_and_goes_first(whole):
    module, batches = whole
    idle = 1
    with torch.no_grad():
        module.model.layers[idle].self_attn.o_proj.weight.zero_()
        module.model.layers[idle].mlp.down_proj.weight.zero_()
    influence = choose.block_influence(module, batches)
    assert influence[idle] == pytest.approx(0, abs=1e-6)
    assert min(influence[:idle] + influence[idle + 1 :]) > 1e-4
    score = partial(choose.measured, module, batches, choose.heard(module, batches))
    found = choose.greedy(score, len(influence), len(influence) - 1, candidates=2)
    assert idle not in found.kept
    assert found.kl == pytest.approx(0, abs=1e-6)
