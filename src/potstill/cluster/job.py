"""A cluster job from its file: every fault with its line."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from potstill.cluster.settings import ClusterSettings
from potstill.core.errors import Fault, RecipeError
from potstill.recipe_faults import place_of
from potstill.recipe_text import Document, dotted, read_file

PREFIX = "Value error, "


def load_job(path: str | Path) -> ClusterSettings:
    """Read and check the file. Raises RecipeError, which holds every fault found."""
    document = read_file(path)
    if document.faults or not isinstance(document.value, dict):
        raise RecipeError(document.faults or [Fault(str(path), 1, 1, "", "holds no job: it needs `programs:`")])
    try:
        return ClusterSettings.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        raise RecipeError([_fault(one["loc"], one["msg"], document) for one in error.errors()]) from error


def _fault(loc: tuple[int | str, ...], message: str, document: Document) -> Fault:
    reason = message.removeprefix(PREFIX)
    return Fault(*place_of(document, loc), path=dotted(loc), reason=reason[:1].lower() + reason[1:])
