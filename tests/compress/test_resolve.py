"""From masks that disagree to units: the OR over members, equal counts, what comes back, and what is said."""

import pytest
import torch

from potstill.compress.movement import Gate, Group, closed_share
from potstill.compress.resolve import joined, margins, resolve, units_kept
from potstill.core.errors import ModelError

HEADS = {"q.weight": (16, 4, 0), "k.weight": (16, 4, 0), "v.weight": (16, 4, 0), "o.weight": (4, 16, 1)}


def group_of(kept, block=0, kind="heads"):
    """A group of members whose masks at threshold 0 keep these units."""
    members = {}
    for name, stay in kept.items():
        rows, columns, axis = HEADS.get(name, (4, 1, 0))
        gate = Gate(torch.zeros(rows, columns), axis, 4 if name in HEADS else 1)
        gate.scores.data = torch.tensor([1.0 if unit in stay else -1.0 for unit in range(4)])
        gate.threshold.fill_(0.0)
        members[name] = gate
    return Group(kind, block, members)


class TestTheOr:
    def test_four_heads_of_which_one_member_keeps_head_2(self):
        """Head 2 survives in all of queries, keys, values and outputs; heads that nobody keeps are gone in all."""
        group = group_of({"q.weight": {0}, "k.weight": {0}, "v.weight": {0, 2}, "o.weight": {0}})
        found = resolve([group])
        assert all(gate.kept.tolist() == [True, False, True, False] for gate in group.members.values())
        assert units_kept([group], "heads") == [(0, 2)]
        assert found.kept == {"heads": 2}

    def test_a_unit_that_only_its_bias_keeps_stays(self):
        group = group_of({"up.weight": {0}, "up.bias": {0, 3}, "down.weight": {0}}, kind="neurons")
        resolve([group])
        assert units_kept([group], "neurons") == [(0, 3)]

    def test_what_was_masked_of_a_unit_that_stays_comes_back(self):
        group = group_of({"q.weight": {0}, "k.weight": {1}, "v.weight": {0}, "o.weight": {0}})
        weight = torch.randn(16, 4)
        hidden = group.members["k.weight"](weight)
        resolve([group])
        assert not hidden[:4].any()
        back = group.members["k.weight"](weight)
        assert torch.equal(back[:8], weight[:8])
        assert not back[8:].any()

    def test_the_sparsity_drops_when_masks_are_resolved(self):
        """Members mask 3 + 3 + 2 + 3 of 16; together they give up 2 of 4 units."""
        group = group_of({"q.weight": {0}, "k.weight": {0}, "v.weight": {0, 2}, "o.weight": {0}})
        before = closed_share([group])
        found = resolve([group])
        assert before == found.masked == 11 / 16
        assert found.joined == found.settled == closed_share([group]) == 0.5

    def test_joined(self):
        masks = [torch.tensor([True, False, False]), torch.tensor([False, False, True])]
        assert joined(masks).tolist() == [True, False, True]


class TestOneNumberForAllBlocks:
    def blocks(self):
        full = {"q.weight": {0, 1, 3}, "k.weight": {0}, "v.weight": {0}, "o.weight": {0}}
        few = {"q.weight": {1}, "k.weight": {1}, "v.weight": {1}, "o.weight": {1}}
        return [group_of(full, block=0), group_of(few, block=1)]

    def test_every_block_keeps_as_many_as_the_one_that_needs_most_and_it_is_said(self):
        groups = self.blocks()
        groups[1].members["v.weight"].scores.data[3] = -0.5
        found = resolve(groups)
        # Block 1 gets its next best units back: 3 by its score, then 0, the first of equals.
        assert units_kept(groups, "heads") == [(0, 1, 3), (0, 1, 3)]
        assert found.joined == pytest.approx(4 / 8)
        assert found.settled == pytest.approx(2 / 8)
        assert found.notes == (
            "heads: the scores keep 3, 1 of 4, block by block (4 in all), and a config has one number for all blocks: "
            "3 stay in each (6 in all)",
        )

    def test_a_number_that_is_asked_for_takes_the_best_scores(self):
        groups = self.blocks()
        groups[0].members["o.weight"].scores.data[3] = 5.0
        found = resolve(groups, {"heads": 2})
        assert units_kept(groups, "heads") == [(0, 3), (0, 1)]
        assert found.settled == pytest.approx(4 / 8)

    @pytest.mark.parametrize("number", [0, 5])
    def test_a_number_that_is_not_there(self, number):
        with pytest.raises(ModelError, match=f"heads: {number} of 4 cannot be kept: use 1 to 4"):
            resolve(self.blocks(), {"heads": number})

    def test_no_key_value_group_left(self):
        with pytest.raises(ModelError, match="No key-value group would be left"):
            resolve([group_of({"k.weight": {0}}, kind="groups")], {"groups": 0})

    def test_a_threshold_that_would_empty_a_block_is_capped_and_said(self):
        groups = [group_of({"q.weight": set(), "k.weight": set(), "v.weight": set(), "o.weight": set()})]
        groups[0].members["k.weight"].scores.data[2] = -0.5
        found = resolve(groups)
        assert len(units_kept(groups, "heads")[0]) >= 1
        assert any("would have emptied block 0: capped" in note for note in found.notes)

    def test_resolving_again_changes_nothing(self):
        groups = self.blocks()
        first = resolve(groups)
        kept = units_kept(groups, "heads")
        assert resolve(groups) == first
        assert units_kept(groups, "heads") == kept


def test_margins_are_above_zero_exactly_where_the_or_keeps():
    group = group_of({"q.weight": {0}, "k.weight": {0, 3}, "v.weight": set(), "o.weight": {0}})
    assert (margins(group) > 0).tolist() == [True, False, False, True]
