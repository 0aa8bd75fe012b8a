"""docs/methods.md is the catalogue of methods, which leaves out none that a recipe can ask for."""

from itertools import groupby
from typing import get_args

import pytest

from potstill.config import StageSettings
from potstill.data.order_settings import OrderSettings
from potstill.divergences.catalogue import DIVERGENCES
from potstill.objectives.settings import LayerSettings, ObjectiveSettings
from potstill.recipe_yaml import load_recipe
from potstill.recipes.methods import METHODS, recipes_with, uses
from potstill.students.settings import StudentSettings
from potstill.teachers.settings import TeacherSettings
from potstill.train.settings import RolloutSettings
from tests.docs.generators import DOCS, generator

make = generator("make_methods")

# Settings of these groups that are numbers of a method, not methods.
LAYERS = {"attention", "hidden", "embedding", "cosine"}
NOT_METHODS = {
    "head",
    "freeze",
    "max_positions",
    "model_name_or_path",
    "licence",
    "revision",
    "trust_remote_code",
    "pooling",
}


def test_the_page_is_up_to_date():
    assert (DOCS / "methods.md").read_text(encoding="utf-8") == make.page(), "run `python docs/make_methods.py`"


def test_no_method_that_a_recipe_can_ask_for_is_left_out():
    asked = {
        *DIVERGENCES,
        *(LAYERS & set(LayerSettings.model_fields)),
        *OrderSettings.model_fields,
        *({"lmbda", "adaptive"} & set(RolloutSettings.model_fields)),
        *(set(get_args(TeacherSettings.model_fields["vocabulary"].annotation)) - {"equal"}),
        *(set(StudentSettings.model_fields) - NOT_METHODS),
        *({"top_k", "projection"} & set(ObjectiveSettings.model_fields)),
    }
    assert asked <= set(METHODS), asked - set(METHODS)


def test_each_has_what_was_measured_and_nothing_else_has():
    found = make.effects()
    assert set(found) == set(METHODS)
    for name, effect in found.items():
        assert set(effect) <= {"page", "says"}, name
        assert effect["says"], name
        assert "page" not in effect or (DOCS / effect["page"]).is_file(), name


@pytest.mark.parametrize("name", METHODS)
def test_each_says_whence_how_and_where_not(name):
    method = METHODS[name]
    assert method.title
    assert method.paper
    assert method.limit
    group = StageSettings
    for part in method.setting.split("."):
        field = group.model_fields[part]
        kinds = [one for one in (field.annotation, *get_args(field.annotation)) if hasattr(one, "model_fields")]
        group = kinds[0] if kinds else group
    assert method.setting.rpartition(".")[2] in method.asked


def test_groups_stand_together():
    groups = [name for name, _ in groupby(method.group for method in METHODS.values())]
    assert len(groups) == len(set(groups))


def test_recipes_are_found_by_what_they_ask_for():
    assert recipes_with("skew_kl") == ["composed", "distillm"]
    assert recipes_with("lmbda") == ["gkd"]
    assert "distilbert" not in recipes_with("uniform"), "it compares the last states alone"
    assert "composed" in recipes_with("tutor")
    assert "tinybert" not in recipes_with("ensemble")
    assert recipes_with("zone") == []


def test_a_recipe_that_asks_for_it_uses_it():
    plain = load_recipe("half-decoder")
    assert not uses(plain, "skew_kl")
    assert uses(load_recipe("half-decoder", ["objective.divergence=skew_kl"]), "skew_kl")
    assert not uses(plain, "ensemble")
    two = "teacher.models=[{model_name_or_path: a}, {model_name_or_path: b}]"
    assert uses(load_recipe("half-decoder", [two]), "ensemble")
    assert not uses(plain, "tutor")


def test_composed_composes():
    used = {name for name in METHODS if uses(load_recipe("composed"), name)}
    assert {"tutor", "attention", "hidden", "skew_kl", "difficulty", "layers", "intermediate_size"} <= used
