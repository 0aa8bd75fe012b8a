"""Twelve kinds of defect, each planted alone in a text that is right otherwise; and the rates by Wilson."""

import json

import pytest

from potstill.core.errors import InputError
from potstill.evaluate.structured import call_schema, compliance, defects, read_structured, strict_json

pytest.importorskip("jsonschema")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "kind": {"enum": ["cat", "dog"]},
        "home": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
    "required": ["name", "age", "kind", "home"],
    "additionalProperties": False,
}
VALUE = {"name": "Ada", "age": 3, "kind": "cat", "home": {"city": "Rome"}}
RIGHT = json.dumps(VALUE)


def changed(**more):
    return json.dumps({**VALUE, **more})


# text, defect, (parsed, extracted, valid)
DEFECTS = [
    (RIGHT[:-1] + ",}", "trailing comma", (False, False, False)),
    (f"```json\n{RIGHT}\n```", "fence", (False, True, True)),
    (RIGHT.replace("3", "NaN"), "not a number", (False, False, False)),
    (RIGHT.replace('"', "'"), "single quotes", (False, False, False)),
    (RIGHT[:-1] + ', "age": 4}', "duplicate key", (False, False, False)),
    (RIGHT[:-9], "truncated", (False, False, False)),
    (changed(age="three"), "wrong type", (True, True, False)),
    (changed(colour="red"), "extra key", (True, True, False)),
    (changed(kind="cow"), "bad enum", (True, True, False)),
    (f"Here you are: {RIGHT}", "prose prefix", (False, True, True)),
    (changed(home="Rome"), "wrong nesting", (True, True, False)),
    (RIGHT.replace("Ada", "A\nda"), "raw newline in a string", (False, False, False)),
]


def test_the_right_text_has_none():
    found = read_structured(RIGHT, SCHEMA, VALUE, compare=True)
    assert (found.parsed, found.extracted, found.valid, found.exact, found.defects) == (True, True, True, True, ())


@pytest.mark.parametrize(("text", "defect", "steps"), DEFECTS, ids=[defect for _, defect, _ in DEFECTS])
def test_each_kind_alone(text, defect, steps):
    found = read_structured(text, SCHEMA)
    assert found.defects == (defect,)
    assert (found.parsed, found.extracted, found.valid) == steps


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("", ("no JSON",)),
        ("I cannot do that.", ("not JSON",)),
        (json.dumps({"name": "Ada"}), ("missing key",)),
        (changed(name={"first": "Ada"}), ("wrong nesting",)),
        (f"```json\n{RIGHT[:-1]},}}\n```", ("fence", "trailing comma")),
        (f"Sure! {changed(kind='cow', age='x')}", ("prose prefix", "wrong type", "bad enum")),
        ("[" * 100_000, ("too deep",)),
        (RIGHT.replace("3", "Infinity"), ("not a number",)),
        (RIGHT.replace("3", "9" * 6000), ("not JSON",)),
    ],
)
def test_others_and_several_at_once(text, kinds):
    assert set(read_structured(text, SCHEMA).defects) == set(kinds)


def test_valid_and_wrong_are_two_things():
    found = read_structured(changed(name="Bob"), SCHEMA, VALUE, compare=True)
    assert (found.valid, found.exact) == (True, False)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        ("1", 1, False),
        (None, False, False),
        ([1, 2], [2, 1], False),
        ({"a": 1}, {"a": 1}, True),
    ],
)
def test_field_exact_is_by_json_types(one, other, same):
    assert read_structured(json.dumps({"x": one}), {}, {"x": other}, compare=True).exact is same


def test_calls_of_functions():
    tools = {
        "add": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        "stop": {"type": "object", "properties": {}},
    }
    schema = call_schema(tools)
    assert read_structured('{"name": "add", "arguments": {"a": 1}}', schema).valid
    for text in (
        '{"name": "mul", "arguments": {"a": 1}}',
        '{"name": "add", "arguments": {"a": "1"}}',
        '{"name": "add", "arguments": {"a": 1, "b": 2}}',
        '{"name": "add"}',
        '{"name": "stop", "arguments": {}, "why": "tired"}',
    ):
        assert not read_structured(text, schema).valid, text


def test_rates_have_wilsons_intervals():
    readings = [read_structured(RIGHT, SCHEMA)] * 50 + [read_structured("no", SCHEMA)] * 50
    rates = compliance(readings)
    assert (rates["parsed"].low, rates["parsed"].high) == pytest.approx((0.404, 0.596), abs=5e-4)
    assert "exact" not in rates
    assert defects(readings) == {"not JSON": 50}
    with pytest.raises(ValueError, match="no reading"):
        compliance([])


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(InputError, match="the schema is none"):
        read_structured("{}", {"type": "objekt"})


def test_strict_json_takes_what_json_is():
    assert strict_json(' {"a": [1, 2.5e3, null, true, "\\u00e9"]} ') == {"a": [1, 2500.0, None, True, "é"]}
