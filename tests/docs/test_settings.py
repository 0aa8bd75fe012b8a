"""docs/settings.md says what the settings are today."""

import pytest

from potstill.config import Recipe
from potstill.train.settings import TrainSettings
from tests.docs.generators import DOCS, generator

make = generator("make_settings")


def test_the_page_is_up_to_date():
    written = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert written == make.page(), "run `python docs/make_settings.py`"


def test_every_setting_is_on_the_page():
    page = make.page()
    for group in Recipe.model_json_schema()["$defs"].values():
        for setting in group["properties"]:
            assert f"| `{setting}` | " in page, setting


def test_a_changed_default_changes_the_page():
    line = "| `learning_rate` | number (above 0) | `5e-05` |"
    assert TrainSettings().learning_rate == 5e-5
    assert line in make.page()


@pytest.mark.parametrize(
    ("schema", "phrase"),
    [
        ({"type": "integer", "minimum": 4}, "whole number (at least 4)"),
        ({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}, "number (above 0) or null"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, "list of text (at least 1)"),
        ({"enum": ["stop", "drop"], "type": "string"}, "`stop` or `drop`"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "names, each with a whole number"),
        ({"$ref": "#/$defs/DataSettings"}, "[DataSettings](#datasettings)"),
    ],
)
def test_words(schema, phrase):
    assert make.words(schema) == phrase


def test_explanations_are_taken_out_of_the_docstring():
    text, meanings = make.explanations(
        "A group.\n\nkeep: these; drop:\nthose, and more. Not a: setting.", {"keep", "drop"}
    )
    assert text == "A group."
    assert meanings == {"keep": "these", "drop": "those, and more. Not a: setting"}
