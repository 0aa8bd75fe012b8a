"""The student as a Hugging Face folder in bfloat16: half the bytes, and 8 of the 24 bits that a weight is exact to."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from potstill.core.outcome import Finding
from potstill.core.task import Task
from potstill.export.card import CardFacts, model_card
from potstill.export.huggingface import Exported, publish
from potstill.export.parity import near_trained, of_module, reloaded_template
from potstill.export.rows import NO_ROWS, Rows
from potstill.export.settings import ExportSettings
from potstill.export.strip import refuse_training_parts
from potstill.export.verify import folder_finding, reload
from potstill.students.load import LoadedModel
from potstill.students.save import save_model

NAME = "huggingface-bf16"


def export_bf16(
    trained: LoadedModel,
    target: Path,
    *,
    task: Task,
    facts: CardFacts,
    settings: ExportSettings,
    rows: Rows = NO_ROWS,
) -> Exported:
    """As `export_huggingface`, with every weight rounded to bfloat16; loaded by transformers, it computes in it too.

    Raises ModelError for weights that only training needed, FolderError and DiskError when it cannot be written.
    """
    refuse_training_parts(trained.module)

    def write(folder: Path) -> None:
        rounded = copy.deepcopy(trained.module).to(torch.bfloat16)
        save_model(LoadedModel(rounded, trained.tokenizer, trained.record), folder)

    def check(folder: Path) -> list[Finding]:
        answer = of_module(reload(folder, trained, task)[0])
        return [
            folder_finding(folder, task),
            *near_trained(NAME, answer, trained, rows=rows, least_agreement=settings.least_agreement),
            reloaded_template(NAME, trained, folder),
        ]

    return publish(
        target, write=write, check=check, card=lambda findings: model_card(facts, findings), notices=facts.notices
    )
