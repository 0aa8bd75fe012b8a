"""The formats a student can leave in. Adding one is adding a row; `export.formats` of a recipe names it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from potstill.core.errors import InputError
from potstill.core.task import Task
from potstill.export.gguf.export import export_gguf
from potstill.export.gguf.reading import has_llama, open_gguf
from potstill.export.gguf.write import SCHEMES
from potstill.export.graphs import GRAPHS, export_graph
from potstill.export.half import export_bf16
from potstill.export.huggingface import Exported, export_huggingface
from potstill.export.parity import of_module
from potstill.export.runtimes import RUNTIMES, Answer
from potstill.export.settings import place
from potstill.export.verify import reload
from potstill.students.load import LoadedModel

__all__ = ["FORMATS", "Format", "place", "refuse_not_installed"]


@dataclass(frozen=True, slots=True)
class Format:
    """One format. export: (trained, target, *, task, facts, settings, rows) -> Exported. open: (folder, trained, task,
    threads) -> Answer, in `runtime`. library: what a hub calls it. modules: packages it needs, and extras: what
    installs each."""

    name: str
    export: Callable[..., Exported]
    open: Callable[[Path, LoadedModel, Task, int], Answer]
    runtime: Callable[[], str]
    library: str
    modules: Mapping[str, str]


def _in_transformers(folder: Path, trained: LoadedModel, task: Task, threads: int) -> Answer:
    """As a user loads it; threads are those of torch."""
    return of_module(reload(folder, trained, task)[0])


FORMATS: Mapping[str, Format] = {
    **{
        name: Format(name, export, _in_transformers, lambda: "transformers", "transformers", {})
        for name, export in (("huggingface", export_huggingface), ("huggingface-bf16", export_bf16))
    },
    **{
        one.name: Format(
            name=one.name,
            export=partial(export_graph, one),
            open=lambda folder, trained, task, threads, runtime=one.runtime: RUNTIMES[runtime].open(folder, threads),
            runtime=lambda runtime=one.runtime: runtime,
            library=one.runtime,
            modules=dict.fromkeys(one.modules, RUNTIMES[one.runtime].extra),
        )
        for one in GRAPHS
    },
    **{
        one.name: Format(
            name=one.name,
            export=partial(export_gguf, one),
            open=lambda folder, trained, task, threads: open_gguf(folder, threads),
            runtime=lambda: "llama.cpp" if has_llama() else "transformers, dequantised",
            library="gguf",
            modules={"gguf": "gguf", "accelerate": "gguf"} | ({"llama_cpp": "llama"} if one.llama else {}),
        )
        for one in SCHEMES
    },
}


def refuse_not_installed(formats: Sequence[str]) -> None:
    """Before anything is trained. Raises InputError naming what installs the runtime of a format."""
    for name in formats:
        for module, extra in FORMATS[name].modules.items():
            if importlib.util.find_spec(module) is None:
                raise InputError(
                    f"export.formats: {name} needs {module}, which is not installed. "
                    f"Next: pip install 'potstill[{extra}]', or leave the format out."
                )
