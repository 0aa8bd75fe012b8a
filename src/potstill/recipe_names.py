"""The names a recipe knows, read from the settings themselves: for suggestions, and to find a value's own path."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from potstill.config import Recipe
from potstill.recipe_rules import Path, nearest

Group = type[BaseModel]


def group_at(path: Path, root: Group = Recipe) -> Group | None:
    """The settings class that holds the names below a path, or None where there are no names."""
    kind: Any = root
    for part in path:
        kind = _below(kind, part)
    return kind if _is_group(kind) else None


def known_part(path: Path, root: Group = Recipe) -> Path:
    """The part of a path that a recipe has; pydantic appends the branches of a union to it."""
    kind: Any = root
    for depth, part in enumerate(path):
        if kind is None:
            return path[:depth]
        if _is_group(kind) and part not in kind.model_fields:
            return path[: depth + 1]
        kind = _below(kind, part)
        if kind is None and isinstance(part, int):
            return path[: depth + 1]
    return path


def suggestion(path: Path, root: Group = Recipe) -> str | None:
    """The setting that a mistyped or misplaced one most likely means.

    Looked for in its own group by likeness, then by the exact name in the groups below and around (which comes with
    its path), then as an abbreviation.
    """
    name = str(path[-1])
    group = group_at(path[:-1], root)
    names = list(group.model_fields) if group else []
    close = nearest(name, names)
    elsewhere = next(_elsewhere(name, path[:-1], root), None)
    return close or elsewhere or next((known for known in names if _stands_for(name, known)), None)


def _stands_for(name: str, known: str) -> bool:
    """`epochs` for num_train_epochs, `lr` for learning_rate."""
    part_of = len(name) >= 4 and (name in known or known in name)
    return part_of or name == "".join(word[0] for word in known.split("_"))


def _elsewhere(name: str, path: Path, root: Group) -> Iterator[str]:
    for depth in range(len(path), -1, -1):
        around = path[:depth]
        if (group := group_at(around, root)) is not None:
            yield from (".".join(map(str, (*around, *found))) for found in _paths_to(name, group))


def _paths_to(name: str, group: Group) -> Iterator[Path]:
    below: list[tuple[Path, Group]] = [((), group)]
    while below:
        path, group = below.pop(0)
        for known, info in group.model_fields.items():
            if known == name and path:
                yield (*path, known)
            kind = _plain(info.annotation)
            if _is_group(kind):
                below.append(((*path, known), kind))


def _below(kind: Any, part: str | int) -> Any:
    if _is_group(kind):
        info = kind.model_fields.get(part)
        return None if info is None else _plain(info.annotation)
    if get_origin(kind) is tuple and isinstance(part, int):
        return _plain(get_args(kind)[0])
    return None


def _plain(annotation: Any) -> Any:
    """A type without `Annotated` and without its `| None`; None for anything that holds no further names."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return next((kind for branch in get_args(annotation) if (kind := _plain(branch)) is not None), None)
    return annotation if _is_group(annotation) or get_origin(annotation) is tuple else None


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
