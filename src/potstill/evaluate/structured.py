"""Does a text hold the JSON that was asked for? What is wrong with it, by kind; and how often each step is passed.

Four rates that are not the same: the whole text is JSON; it is after a fence or prose around it is taken away; it fits
the schema (JSON Schema 2020-12); it says what it should. Python's own reader is more lenient than JSON, so NaN and a
key that stands twice are refused here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from potstill.core.errors import InputError
from potstill.evaluate.interval import Estimate, wilson

Defect = Literal[
    "trailing comma", "fence", "not a number", "single quotes", "duplicate key", "truncated", "wrong type", "extra key",
    "bad enum", "prose prefix", "wrong nesting", "raw newline in a string", "missing key", "other schema fault",
    "not JSON", "no JSON", "too deep",
]  # fmt: skip
DEEPEST = 64
_FENCE = re.compile(r"\A\s*```[ \t]*\w*[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)
_TRAILING = re.compile(r",\s*[}\]]")
_BARE_QUOTE = re.compile(r"[{\[,:]\s*'")


@dataclass(frozen=True, slots=True)
class Reading:
    """parsed: the whole text is strict JSON. extracted: it is, once a fence or prose is taken away. valid: what was
    read fits the schema. exact: it equals the expected value, None without one. defects: all that is wrong, in the
    order it was found. cut: the text ran into its limit of tokens, so its truncation is no choice of the model's."""

    parsed: bool
    extracted: bool
    valid: bool
    exact: bool | None
    defects: tuple[Defect, ...]
    cut: bool = False


class _Flaw(ValueError):
    def __init__(self, defect: Defect):
        self.defect = defect
        super().__init__(defect)


def read_structured(
    text: str, schema: Mapping[str, Any], expected: Any = None, *, compare: bool = False, cut: bool = False
) -> Reading:
    """What a text gives of what was asked. compare: hold it against `expected`, field by field, types too.

    Raises InputError: jsonschema is not installed, or the schema is none.
    """
    check = _validator(schema)
    found: list[Defect] = []
    value: Any = None
    parsed = extracted = False
    for piece, defect in _pieces(text):
        if defect is not None:
            found.append(defect)
        try:
            value = strict_json(piece)
        except _Flaw as flaw:
            if (defect is None and not _surrounded(text)) or defect is not None:
                found.append(flaw.defect)
            continue
        extracted, parsed = True, defect is None
        break
    faults = [] if not extracted else list(_schema_defects(check, value))
    exact = None if not compare else extracted and _equal(value, expected)
    return Reading(parsed, extracted, extracted and not faults, exact, (*found, *faults), cut)


def strict_json(text: str) -> Any:
    """The value of a text that is JSON and nothing else (RFC 8259). Raises a ValueError that names the defect."""
    if _depth(text) > DEEPEST:
        raise _Flaw("too deep")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except _Flaw:
        raise
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        raise _Flaw(_kind(text, error)) from error


def _kind(text: str, error: Exception) -> Defect:
    stripped = text.strip()
    if not stripped:
        return "no JSON"
    if _open_at_end(stripped):
        return "truncated"
    if _TRAILING.search(_without_strings(stripped)):
        return "trailing comma"
    if _BARE_QUOTE.search(stripped):
        return "single quotes"
    if "control character" in str(error):
        return "raw newline in a string"
    return "not JSON"


def _pieces(text: str) -> Iterator[tuple[str, Defect | None]]:
    """The whole text; what is within its fence; what is between its first brace and the last one."""
    yield text, None
    if (fence := _FENCE.match(text)) is not None:
        yield fence[1], "fence"
        return
    starts = [place for bracket in "{[" if (place := text.find(bracket)) >= 0]
    if starts and text[: min(starts)].strip():
        end = max(text.rfind("}"), text.rfind("]")) + 1
        inner = text[min(starts) : end] if end > min(starts) else text[min(starts) :]
        yield inner.removesuffix("```"), "prose prefix"


def _surrounded(text: str) -> bool:
    return len(list(_pieces(text))) > 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _Flaw("duplicate key")
    return values


def _no_number(word: str) -> Any:
    raise _Flaw("not a number")


def _without_strings(text: str) -> str:
    return re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)


def _open_at_end(text: str) -> bool:
    """Whether a bracket or a string is still open where the text ends."""
    bare = _without_strings(text)
    opened = bare.count("{") + bare.count("[") - bare.count("}") - bare.count("]")
    return text[0] in "{[" and (opened > 0 or bare.replace('""', "").count('"') % 2 == 1)


def _depth(text: str) -> int:
    depth = most = 0
    for letter in _without_strings(text):
        depth += (letter in "{[") - (letter in "}]")
        most = max(most, depth)
    return most


def _validator(schema: Mapping[str, Any]) -> Any:
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
    except ImportError as error:
        raise InputError('JSON schemas need jsonschema: run `pip install "potstill[structured]"`') from error
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InputError(f"the schema is none ({error.message[:200]}): correct it") from error
    return Draft202012Validator(schema)


SCHEMA_DEFECTS: Mapping[str, Defect] = {
    "additionalProperties": "extra key",
    "unevaluatedProperties": "extra key",
    "enum": "bad enum",
    "const": "bad enum",
    "required": "missing key",
}


def _schema_defects(check: Any, value: Any) -> Iterator[Defect]:
    """Each kind of fault once, in the order of the document. Where a group or list stands in the place of a plain
    value, or the other way round, the nesting is wrong, and else the type."""
    kinds: list[Defect] = []
    for error in sorted(check.iter_errors(value), key=lambda error: [str(part) for part in error.absolute_path]):
        kind = SCHEMA_DEFECTS.get(error.validator, "other schema fault")
        if error.validator == "type":
            wanted = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
            nested = isinstance(error.instance, (dict, list)) or bool({"object", "array"}.intersection(wanted))
            kind = "wrong nesting" if nested else "wrong type"
        if kind not in kinds:
            kinds.append(kind)
    yield from kinds


def _equal(one: Any, other: Any) -> bool:
    """As JSON values: 1 is 1.0, and is neither true nor "1"."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return (type(one) is type(other) and one == other) or (
        isinstance(one, (int, float)) and isinstance(other, (int, float)) and one == other
    )


def call_schema(tools: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of one call of one of these functions: {"name": …, "arguments": {…}} and nothing else.

    tools: parameters of each function, a schema by its name.
    """
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": {"additionalProperties": False, **parameters}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, parameters in tools.items()
    ]
    return calls[0] if len(calls) == 1 else {"oneOf": calls}


def compliance(readings: Sequence[Reading]) -> dict[str, Estimate]:
    """Rates with Wilson's 95 % intervals: `parsed`, `extracted`, `valid`, `exact` (of those held against something),
    and `valid_but_wrong` among these. Raises ValueError without a reading."""
    if not readings:
        raise ValueError("no reading, no rate")
    total, steps = len(readings), ("parsed", "extracted", "valid")
    rates = {name: wilson(sum(getattr(one, name) for one in readings), total) for name in steps}
    held = [one for one in readings if one.exact is not None]
    if held:
        rates["exact"] = wilson(sum(bool(one.exact) for one in held), len(held))
        rates["valid_but_wrong"] = wilson(sum(one.valid and not one.exact for one in held), len(held))
    return rates


def defects(readings: Sequence[Reading]) -> dict[str, int]:
    """How many texts have each defect, the commonest first."""
    return dict(Counter(defect for one in readings for defect in set(one.defects)).most_common())
