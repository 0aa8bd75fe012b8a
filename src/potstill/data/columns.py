"""From a row to an Example: which column means what, and which values are refused."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from potstill.core.errors import DataError
from potstill.core.example import Example, Message
from potstill.data.quarantine import BadRow
from potstill.data.rows import Row, stated_lineage
from potstill.data.settings import ColumnSettings, SourceSettings

KIND_NAMES = {
    str: "text", int: "a whole number", float: "a number", bool: "true/false", list: "a list", dict: "an object"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Placed:
    """An Example and where it was read, so that whatever refuses it later can still say file and line."""

    example: Example
    file: str
    line: int


def kind_name(value: object) -> str:
    """A type in a reader's words."""
    return "empty" if value is None else KIND_NAMES.get(type(value), type(value).__name__)


class ColumnReader:
    """Reads the rows of one source in order; remembers columns and types seen, because a change is only one in
    comparison.

    labels: class names in order of their index; None: not known, then labels are collected in `found` and left out.
    """

    def __init__(self, source: SourceSettings, labels: Sequence[str] | None):
        self.source = source
        self.labels = labels
        self.seen: dict[str, int] = {}
        self.found: set[str | int] = set()
        self._index = {name: index for index, name in enumerate(labels or ())}
        self._label_type: tuple[type, int] | None = None
        self._build = {
            "labelled": self._labelled,
            "text": self._text,
            "completion": self._completion,
            "messages": self._messages,
        }[source.rows]

    def example(self, row: Row) -> Placed:
        """The row as an Example with its lineage and slices.

        Raises:
            BadRow: a column is missing, empty, of a wrong or changed type, or the label is outside the classes.
        """
        for name in row.values:
            self.seen.setdefault(name, row.line)
        slices = {**row.slices, **{name: self._slice(row, name) for name in self.source.columns.slices}}
        lineage = stated_lineage(row.values) or row.lineage
        example = Example(lineage=lineage, slices=slices, **self._build(row, self.source.columns))
        return Placed(example=example, file=row.file, line=row.line)

    def check_columns(self, file: str, rows: int) -> None:
        """After the last row: columns that were asked for and never came.

        Raises:
            DataError: names the first row and the columns that are there.
        """
        columns = self.source.columns
        wanted = {
            "labelled": [columns.text, columns.pair, columns.label if self._label_is_asked else None],
            "text": [columns.text],
            "completion": [columns.prompt, columns.completion],
            "messages": [columns.messages],
        }[self.source.rows]
        missing = [name for name in (*wanted, *columns.slices) if name is not None and name not in self.seen]
        if rows and missing:
            have = ", ".join(f"`{name}`" for name in list(self.seen)[:20]) or "none"
            first = min(self.seen.values(), default=1)
            raise DataError(
                f"{file}:{first}: no row has the column `{missing[0]}`; the columns are {have}: "
                f"set `columns` of this source"
            )

    @property
    def _label_is_asked(self) -> bool:
        """The default name may be absent (unlabelled rows); a name that somebody chose may not."""
        default = ColumnSettings.model_fields["label"].default
        return self.source.use_labels and self.source.columns.label not in (None, default)

    def _labelled(self, row: Row, columns: ColumnSettings) -> dict[str, Any]:
        fields: dict[str, Any] = {"prompt": _text_of(row, columns.text)}
        if columns.pair is not None:
            fields["pair"] = _text_of(row, columns.pair)
        if self.source.use_labels and columns.label is not None:
            fields["label"] = self._label(row, columns.label)
        return fields

    def _text(self, row: Row, columns: ColumnSettings) -> dict[str, Any]:
        return {"response": _text_of(row, columns.text)}

    def _completion(self, row: Row, columns: ColumnSettings) -> dict[str, Any]:
        response = _text_of(row, columns.completion)
        return {"prompt": _text_of(row, columns.prompt), "response": response, "spans": _spans_of(row, response)}

    def _messages(self, row: Row, columns: ColumnSettings) -> dict[str, Any]:
        turns = _value_of(row, columns.messages)
        if not isinstance(turns, list):
            raise BadRow("wrong type", f"`{columns.messages}` is {kind_name(turns)}, not a list of role and content")
        messages = tuple(_message(turn, number) for number, turn in enumerate(turns, start=1))
        if not any(message.role == "assistant" for message in messages):
            raise BadRow("nothing to learn", "the conversation has no turn of the assistant")
        return {"messages": messages}

    def _slice(self, row: Row, name: str) -> str:
        value = _value_of(row, name)
        if not isinstance(value, str | int):
            raise BadRow("wrong type", f"the slice `{name}` is {kind_name(value)}, not text or a whole number")
        return str(value)

    def _label(self, row: Row, name: str) -> int | None:
        value = row.values.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise BadRow("wrong type", f"`{name}` is {kind_name(value)}, not a class name or a whole number")
        if self._label_type is None:
            self._label_type = (type(value), row.line)
        first, since = self._label_type
        if type(value) is not first:
            was = KIND_NAMES[first]
            raise BadRow("column changes type", f"`{name}` is {kind_name(value)} here and {was} since line {since}")
        if self.labels is None:
            self.found.add(value)
            return None
        return self._class_index(value, name, numeric_text=not row.typed)

    def _class_index(self, value: str | int, name: str, numeric_text: bool) -> int:
        count = len(self._index)
        if isinstance(value, str):
            if (index := self._index.get(value)) is not None:
                return index
            if numeric_text and value.isascii() and value.isdecimal() and int(value) < count:
                return int(value)
            near = difflib.get_close_matches(value, self._index, n=1)
            hint = f" (nearest: `{near[0]}`)" if near else ""
            raise BadRow("label outside the classes", f"`{name}` is {value!r}, not one of the {count} classes{hint}")
        if not 0 <= value < count:
            raise BadRow(
                "label outside the classes", f"`{name}` is {value}; the {count} classes are 0 to {count - 1}"
            )  # fmt: skip
        return value


def _value_of(row: Row, name: str) -> Any:
    if name not in row.values:
        have = ", ".join(f"`{column}`" for column in list(row.values)[:20]) or "none"
        raise BadRow("column missing", f"`{name}` is not in this row; it has {have}")
    return row.values[name]


def _text_of(row: Row, name: str) -> str:
    value = _value_of(row, name)
    if not isinstance(value, str):
        raise BadRow("wrong type", f"`{name}` is {kind_name(value)}, not text")
    if not value.strip():
        raise BadRow("empty text", f"`{name}` has no characters to read")
    if "\0" in value:
        raise BadRow("NUL byte", f"in `{name}`")
    return value


def _spans_of(row: Row, response: str) -> dict[str, tuple[int, int]]:
    """The spans that a row states of its completion in a column `spans`: {name: [begin, end]} in characters; null
    where a row has none of a name. Any other column of that name is one like others."""
    stated = row.values.get("spans")
    if not isinstance(stated, dict) or not all(value is None or isinstance(value, list) for value in stated.values()):
        return {}
    found = {}
    for name, value in stated.items():
        if value is None:
            continue
        if len(value) != 2 or not all(type(place) is int for place in value):
            raise BadRow("span that is none", f"`{name}` is {value}, not [begin, end]")
        if not 0 <= value[0] <= value[1] <= len(response):
            raise BadRow(
                "span outside the text", f"`{name}` is {value} and the completion has {len(response)} characters"
            )
        found[str(name)] = (value[0], value[1])
    return found


def _message(turn: object, number: int) -> Message:
    if not isinstance(turn, dict):
        raise BadRow("wrong type", f"turn {number} is {kind_name(turn)}, not role and content")
    role, content = turn.get("role"), turn.get("content")
    for name, value in (("role", role), ("content", content)):
        if not isinstance(value, str):
            raise BadRow("wrong type", f"`{name}` of turn {number} is {kind_name(value)}, not text")
    if not str(role).strip():
        raise BadRow("empty text", f"turn {number} has no role")
    return Message(role=str(role), content=str(content))
