"""The student as a .gguf file: written, loaded again in llama.cpp and in transformers, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from potstill.core.outcome import Finding
from potstill.core.task import Task
from potstill.durable import writing
from potstill.export.card import CardFacts, model_card
from potstill.export.gguf.compare import compare
from potstill.export.gguf.layout import layout_of
from potstill.export.gguf.write import Scheme, write_gguf
from potstill.export.huggingface import Exported, publish
from potstill.export.rows import Rows
from potstill.export.settings import ExportSettings
from potstill.export.strip import refuse_training_parts
from potstill.students.load import LoadedModel


def export_gguf(
    scheme: Scheme,
    trained: LoadedModel,
    target: Path,
    *,
    task: Task,
    facts: CardFacts,
    settings: ExportSettings,
    rows: Rows,
) -> Exported:
    """model.gguf, which holds all that runs it, and its card in `target`.

    Raises InputError when a package is not installed, ModelError for an architecture, a tokenizer or a setting that
    the format does not hold and for weights which only training needed, FolderError and DiskError.
    """
    layout_of(trained.module)
    refuse_training_parts(trained.module)
    own = replace(facts, library="gguf")

    def write(folder: Path) -> None:
        with writing(folder):
            write_gguf(trained, folder, scheme, name=facts.name, licence=facts.licence)

    def check(folder: Path) -> list[Finding]:
        return compare(scheme, trained, folder, rows=rows, settings=settings)

    def card(findings: Sequence[Finding]) -> str:
        return model_card(own, findings)

    return publish(target, write=write, check=check, card=card, notices=facts.notices)
