"""A cluster job from its file: every fault with its line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        raise RecipeError([_fault(one, document) for one in error.errors(include_url=False)]) from error


def _fault(error: Mapping[str, Any], document: Document) -> Fault:
    path, unknown = tuple(error["loc"]), error["type"] == "extra_forbidden"
    reason = "is not a setting here" if unknown else error["msg"].removeprefix(PREFIX)
    return Fault(*place_of(document, path, at_key=unknown), path=dotted(path), reason=reason[:1].lower() + reason[1:])
