"""What a recipe names, and what is known of its terms before anything is opened."""

import json

import pytest

from potstill.core.errors import TermsError
from potstill.data.licences import LICENCES, ORIGINS
from potstill.data.packaged import PACKAGED
from potstill.licensing import clear, of_recipe, place_of
from potstill.recipe_yaml import parse_recipe
from potstill.recipes.catalogue import RECIPES, recipe_text

TEXT = """
name: small
task: causal-lm
data:
  train: [{dataset_name: rows.jsonl, rows: text}, {dataset_name: somebody/rows, rows: text}]
  test: {dataset_name: somebody/test, rows: text, licence: CC-BY-NC-4.0}
teacher: {models: [{model_name_or_path: somebody/large, licence: MIT}]}
student: {model_name_or_path: packaged:smollm2-135m-instruct}
train: {max_steps: 1}
"""


def found(*overrides):
    return {(one.where, one.name): one for one in of_recipe(parse_recipe(TEXT, overrides))}


def test_everything_a_recipe_names_is_there_with_its_place_unless_nothing_is_known_of_it_yet():
    named = found()
    assert list(named) == [
        ("data.train.0", "rows.jsonl"),
        ("data.test", "somebody/test"),
        ("student", "packaged:smollm2-135m-instruct"),
        ("teacher.models.0", "somebody/large"),
    ]
    assert [one.licence for one in named.values()] == ["unknown", "CC-BY-NC-4.0", "Apache-2.0", "MIT"]
    assert [one.ours for one in named.values()] == [True, False, False, False]


def test_what_potstill_wrote_names_its_writer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = {"model": "gpt", "endpoint": "https://api.openai.com/v1", "job": {"licence": None}}
    (tmp_path / "rows.jsonl.json").write_text(json.dumps(record))
    writer = found()[("data.train.0", "gpt")]
    assert (writer.role, [terms.id for terms in writer.terms]) == ("writer", ["OpenAI-API"])
    with pytest.raises(TermsError, match=r"licence\.openai-api: data\.train\.0 gpt"):
        clear(parse_recipe(TEXT), tmp_path)
    (tmp_path / "rows.jsonl.json").write_text("{")
    assert ("data.train.0", "rows.jsonl") in found()


def test_every_stop_is_told_at_once_with_what_answers_it(tmp_path):
    text = TEXT.replace("licence: MIT", "licence: llama3").replace("CC-BY-NC-4.0", "banana")
    with pytest.raises(TermsError) as caught:
        clear(parse_recipe(text), tmp_path / "run")
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["licence.unknown", "licence.llama-3", "licence.name", "Then"]
    assert f"potstill gate {tmp_path / 'run'} --accept unknown --by NAME" in lines[0]
    assert "--override licence.llama-3 --by NAME" in lines[1]
    assert '"small" must begin with Llama 3: set export.name' in lines[2]


def test_the_purpose_of_the_release_decides_on_rows_that_are_not_for_commerce(tmp_path):
    verdicts = {one.name: one.verdict for one in clear(parse_recipe(TEXT), tmp_path)}
    assert verdicts["licence.cc-by-nc"] == "warn"
    with pytest.raises(TermsError, match=r"licence\.cc-by-nc: data\.test somebody/test"):
        clear(parse_recipe(TEXT, ["export.purpose=commercial"]), tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_are_clear(name):
    recipe = parse_recipe(recipe_text(name))
    assert {one.verdict for one in clear(recipe, place_of(recipe))} <= {"pass", "warn"}


def test_the_origins_of_packaged_sets_are_known():
    assert set(ORIGINS) == set(PACKAGED)
    assert {origin for origins in ORIGINS.values() for origin in origins} == set(LICENCES)
