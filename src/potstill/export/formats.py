"""The formats a student can leave in. Adding one is adding a row; `export.formats` of a recipe names it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from potstill.core.errors import InputError
from potstill.export.graphs import GRAPHS, export_graph
from potstill.export.huggingface import Exported, export_huggingface
from potstill.export.runtimes import RUNTIMES
from potstill.export.settings import place

__all__ = ["FORMATS", "Format", "place", "refuse_not_installed"]


@dataclass(frozen=True, slots=True)
class Format:
    """One format. export: (trained, target, *, task, facts, settings, rows) -> Exported. reader: what loads the result.
    modules: packages it needs, extra: what installs them."""

    name: str
    export: Callable[..., Exported]
    reader: str
    modules: tuple[str, ...] = ()
    extra: str = ""


FORMATS: Mapping[str, Format] = {
    "huggingface": Format("huggingface", export_huggingface, reader="transformers, sentence-transformers"),
    **{
        one.name: Format(one.name, partial(export_graph, one), one.runtime, one.modules, RUNTIMES[one.runtime].extra)
        for one in GRAPHS
    },
}


def refuse_not_installed(formats: Sequence[str]) -> None:
    """Before anything is trained. Raises InputError naming what installs the runtime of a format."""
    for name in formats:
        for module in FORMATS[name].modules:
            if importlib.util.find_spec(module) is None:
                raise InputError(
                    f"export.formats: {name} needs {module}, which is not installed. "
                    f"Next: pip install 'potstill[{FORMATS[name].extra}]', or leave the format out."
                )
