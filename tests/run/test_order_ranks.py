"""The same order on two ranks as on one: what is scored or measured on the weights is the leader's word on both."""

import pytest

from tests.run.test_order import MASTERY, by_skill, order_of, skilled
from tests.run.test_ranks import Launch, lines, same
from tests.run.test_stop import Process
from tests.run.tiny_recipe import language_model, write_recipe

__all__ = ["skilled"]


def difficult(materials, skilled):
    recipe = language_model(materials) | {"order": {"difficulty": {"passes": 3}}}
    del recipe["train"]["max_steps"]
    recipe["train"] |= {"dropout": 0.0, "gradient_accumulation_steps": 2}
    return recipe


def gated(materials, skilled):
    return by_skill(materials, skilled, MASTERY, train__dropout=0.0, train__max_steps=6, stages__0__train__dropout=0.0)


@pytest.mark.parametrize("recipe_of", [gated, pytest.param(difficult, marks=pytest.mark.slow)])
def test_two_ranks_read_the_rows_of_one(materials, skilled, tmp_path, recipe_of):
    recipe = recipe_of(materials, skilled)
    one = Process("run", write_recipe(tmp_path, recipe), "--output-dir", tmp_path / "one")
    assert one.ends() == 0, one.said
    two = Launch(2, "run", write_recipe(tmp_path, recipe), "--output-dir", tmp_path / "two")
    assert two.ends() == 0, two.said
    same(lines(tmp_path / "one"), lines(tmp_path / "two"))
    records = [{k: v for k, v in order_of(tmp_path / run).items() if k != "seconds"} for run in ("one", "two")]
    assert records[0] == records[1]
