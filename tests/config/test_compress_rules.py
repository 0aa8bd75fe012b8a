"""Compress against the rest of a stage, each contradiction named where it stands; and what a plan makes of it."""

import pytest

from potstill.compress.settings import CompressSettings
from potstill.estimate import estimate
from potstill.estimate_compress import leaving_shape, trained_shape
from potstill.recipe_yaml import load_recipe, parse_recipe
from potstill.students.shape import of_config
from tests.config.recipes import CAUSAL, CLASSIFY
from tests.config.test_recipe_rules import faults
from tests.students.test_shape import GEMMA


def test_the_valid_ones_are_valid():
    assert faults(CLASSIFY, "compress={movement: {}, quantise: {}}") == {}
    assert faults(CLASSIFY, "compress={prune: {remove: {neurons: 0.5}}, quantise: {scheme: int4-weights}}") == {}
    final = parse_recipe(CLASSIFY, ["compress={quantise: {}}"]).final
    assert final.compress.quantise.calibration_rows == 256
    assert CompressSettings.model_validate({"quantise": {"scheme": "int8-dynamic"}}).quantise.calibration_rows == 0


@pytest.mark.parametrize(
    ("task", "changes", "path", "words"),
    [
        (CLASSIFY, ["compress={}"], "compress", "has none of prune, movement and quantise"),
        (CLASSIFY, ["compress={movement: {}}", "student.freeze=[body]"], "compress.movement", "holds body still"),
        (CAUSAL, ["compress={quantise: {keep: [embeddings]}}", "objective.fused=true"], "objective.fused", "add it"),
    ],
)
def test_contradictions(task, changes, path, words):
    assert words in faults(task, *changes)[path].reason


def test_a_plan_counts_what_is_trained_and_what_leaves():
    shape = of_config(GEMMA)
    prune = CompressSettings.model_validate({"prune": {"keep": {"blocks": 9}, "remove": {"neurons": 0.29}}})
    assert (trained_shape(shape, prune).layers, trained_shape(shape, prune).intermediate) == (9, 2048 - 593)
    movement = CompressSettings.model_validate({"movement": {"keep": {"neurons": 512}}})
    assert trained_shape(shape, movement) == shape
    assert leaving_shape(shape, movement).intermediate == 512
    assert leaving_shape(shape, None) == shape


def test_groups_take_their_heads_along():
    shape = of_config({**GEMMA, "num_attention_heads": 8, "num_key_value_heads": 4})
    found = trained_shape(shape, CompressSettings.model_validate({"prune": {"keep": {"groups": 1}}}))
    assert (found.heads, found.kv_heads) == (2, 1)


def test_a_stage_that_loads_the_product_sees_its_size():
    recipe = load_recipe("jpqd", ["stages.0.compress={prune: {keep: {blocks: 3}}}"])
    teacher, student = estimate(recipe)
    assert (teacher.student.layers, student.teachers[0].layers) == (3, 3)
