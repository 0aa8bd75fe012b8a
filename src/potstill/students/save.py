"""A model as a folder that other tools load without knowing about this package."""

from __future__ import annotations

from pathlib import Path

from potstill.durable import writing
from potstill.students.load import LoadedModel
from potstill.students.quiet import quiet


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer into `folder`, which is made.

    Raises FolderError when the folder cannot be written and DiskError when the save was cut short.
    """
    with writing(folder), quiet():
        folder.mkdir(parents=True, exist_ok=True)
        loaded.module.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
