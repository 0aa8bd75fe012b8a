"""Recipes as files: load with overrides, refuse with every fault at once, write the resolved recipe back."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any, TypeVar

from pydantic import ValidationError

from potstill.config import Recipe
from potstill.core.errors import Fault, RecipeError
from potstill.core.settings import Settings
from potstill.recipe_curating import Curation
from potstill.recipe_faults import Complaint, complaints
from potstill.recipe_overrides import apply_overrides
from potstill.recipe_text import Document, Path, read_file, read_text, write_yaml
from potstill.recipe_writing import WritingJob
from potstill.recipes.catalogue import RECIPES, recipe_text

# Each pass removes what the one before complained of, to see the contradictions behind it.
PASSES = 4
Root = TypeVar("Root", bound=Settings)


def load_recipe(path: str | File, overrides: Sequence[str] = ()) -> Recipe:
    """Load and check a recipe: a file, or the name of a shipped one. `overrides` are `key.sub=value`, values in YAML.

    Raises RecipeError, which holds every fault found: where it stands, the setting, the reason, the nearest name.
    """
    name = str(path)
    if name in RECIPES and not File(path).is_file():
        name = RECIPES[name].file
        return _checked(read_text(recipe_text(str(path)), name), name, overrides, Recipe)
    return _checked(read_file(path), name, overrides, Recipe)


def load_writing_job(path: str | File, overrides: Sequence[str] = ()) -> WritingJob:
    """Load and check a writing job as `load_recipe` does a recipe."""
    return _checked(read_file(path), str(path), overrides, WritingJob)


def load_curation(path: str | File, overrides: Sequence[str] = ()) -> Curation:
    """Load and check a curation as `load_recipe` does a recipe."""
    return _checked(read_file(path), str(path), overrides, Curation)


def parse_recipe(text: str, overrides: Sequence[str] = (), where: str = "recipe") -> Recipe:
    """As `load_recipe`, from the text of a recipe; `where` names its origin in errors."""
    return _checked(read_text(text, where), where, overrides, Recipe)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every setting written out; loading it gives an equal recipe."""
    return "# A resolved recipe: every setting is written out, and running it repeats the run.\n" + write_yaml(
        recipe.model_dump(mode="json")
    )


def _checked(document: Document, where: str, overrides: Sequence[str], root: type[Root]) -> Root:
    if not isinstance(document.value, dict):
        if not document.faults:
            what = "is empty" if document.value is None else "is not a mapping of settings (`name: …` lines)"
            document.faults.append(Fault(where, 1, 1, "", f"{what}; `potstill cp classifier` gives one to start from"))
        raise RecipeError(document.faults)
    apply_overrides(document, overrides)
    recipe, found = _validated(document, root)
    faults = [*document.faults, *(complaint.placed(document) for complaint in found)]
    if faults or recipe is None:
        raise RecipeError(_in_order(faults, where))
    return recipe


def _validated(document: Document, root: type[Root]) -> tuple[Root | None, list[Complaint]]:
    """The recipe, or what is wrong with it.

    Rules of a group are only asked when all of its values are right. So the wrong values are taken out and the rest
    is checked again, and what only follows from the taking out is not reported.
    """
    values = copy.deepcopy(document.value)
    removed = list(document.unread)
    found: list[Complaint] = []
    for path in removed:
        _remove(values, path)
    for attempt in range(PASSES):
        try:
            # As JSON, where a strict check takes a list for a tuple; strict, so that no text becomes a number.
            recipe = root.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            new = complaints(error.errors(include_url=False), document, root)
        else:
            return (recipe if attempt == 0 else None), found
        seen = {(complaint.path, complaint.reason) for complaint in found}
        new = [one for one in new if (one.path, one.reason) not in seen and not _follows(one, removed, found)]
        found += new
        taken = [one.without for one in new if _remove(values, one.without)]
        if not taken:
            break
        removed += taken
    return None, found


def _follows(complaint: Complaint, removed: Sequence[Path], found: Sequence[Complaint]) -> bool:
    """Whether a complaint may only follow from values that were taken out: it is about one, or speaks of one."""
    hints = {one.suggestion.rpartition(".")[2] for one in found if one.suggestion}
    names = hints | {str(part) for path in removed for part in path[-1:]}
    about = complaint.path in removed or any(path[: len(complaint.path)] == complaint.path for path in removed)
    return about or any(name in complaint.reason.replace(".", " ").replace("`", " ").split() for name in names)


def _remove(values: Any, path: Path) -> bool:
    if not path:
        return False
    for part in path[:-1]:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return False
    last = path[-1]
    if isinstance(values, dict) and last in values:
        del values[last]
        return True
    # An entry of a list stays: taking it out would move the entries behind it away from their lines.
    return False


def _in_order(faults: Sequence[Fault], where: str) -> list[Fault]:
    """By place in the file, overrides last, each fault once."""
    unique = list(dict.fromkeys(faults))
    return sorted(unique, key=lambda fault: (fault.where != where, fault.line, fault.column))
