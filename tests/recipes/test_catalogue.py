"""Every shipped recipe is in the table, loads, says where it comes from, and can be cut short from the command line."""

from importlib.resources import files

import pytest

from potstill.recipe_yaml import dump_recipe, load_recipe, parse_recipe
from potstill.recipes.catalogue import RECIPES, recipe_text


def test_the_table_and_the_folder_hold_the_same_recipes():
    shipped = {entry.name for entry in files("potstill.recipes").iterdir() if entry.name.endswith(".yaml")}
    assert {row.file for row in RECIPES.values()} == shipped


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_valid_under_its_own_name(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert parse_recipe(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_takes_the_override_of_the_documentation(name):
    assert load_recipe(name, ["train.max_steps=100"]).train.max_steps == 100


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_names_its_paper_and_comments_its_numbers(name):
    recipe = load_recipe(name)
    assert "arXiv" in (recipe.paper or "")
    comments = [line for line in recipe_text(name).splitlines() if line.lstrip().startswith("#")]
    assert len(comments) >= 15


def test_both_recipes_have_the_controls_of_their_claim():
    assert load_recipe("classifier").controls == ("labels", "untrained", "tfidf")
    assert load_recipe("half-decoder").controls == ("labels", "untrained")
    assert len(load_recipe("half-decoder").student.layers) == 15


def test_distilberts_recipe_has_the_numbers_of_its_paper():
    recipe = load_recipe("distilbert")
    objective = recipe.objective
    assert (objective.soft_weight, objective.hard_weight, objective.layers.cosine, objective.temperature) == (
        5,
        2,
        1,
        2,
    )
    assert (recipe.data.mask_smoothing, recipe.student.architecture) == (0.7, "distilbert")
    assert recipe.controls == ("labels", "untrained")


def test_the_classifier_begins_from_what_distilberts_run_leaves_behind():
    recipe = load_recipe("distilbert-classifier")
    assert recipe.student.model_name_or_path == "runs/distilbert/model"
    assert recipe.stages[0].student.model_name_or_path == "runs/distilbert/stages/teacher/model"
    assert [stage.name for stage in load_recipe("distilbert").stages] == ["teacher"]
    alike = ("max_steps", "learning_rate", "head_learning_rate", "per_device_train_batch_size", "weight_decay")
    assert all(getattr(recipe.train, name) == getattr(recipe.stages[0].train, name) for name in alike)
    assert recipe.controls[0] == "labels"


def test_tinyberts_recipe_teaches_layers_and_then_answers():
    recipe = load_recipe("tinybert")
    layers = next(stage for stage in recipe.stages if stage.name == "intermediate").objective
    assert not layers.answers
    assert (layers.layers.attention, layers.layers.hidden, layers.layers.embedding, layers.layers.map) == (
        1,
        1,
        1,
        "uniform",
    )
    assert recipe.objective.layers is None
    assert recipe.student.model_name_or_path == "stage:intermediate"
