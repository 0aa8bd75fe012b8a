"""Who is timed: the teacher as it was trained, and every export of a run in every program that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from potstill import assemble
from potstill.bench import Bench
from potstill.core.batch import Batch
from potstill.core.errors import FolderError
from potstill.data.order import in_order
from potstill.data.prepare import Prepared
from potstill.export.formats import FORMATS, place
from potstill.export.graph import input_names
from potstill.measure import who
from potstill.students.settings import ModelSettings
from potstill.target.engines import ENGINES, Engine


@dataclass(frozen=True, slots=True)
class Subject:
    """One folder in one program. name: as findings call it. engine: of ENGINES. inputs: names of the tensors that it
    takes, as `tensors_of` gives them."""

    name: str
    engine: str
    folder: Path
    inputs: tuple[str, ...]
    prepared: Prepared

    @property
    def program(self) -> Engine:
        """The row of the table."""
        return ENGINES[self.engine]

    def batches(self, rows: int) -> list[Batch]:
        """The test rows, so many at a time; no batch is smaller."""
        assert self.prepared.test is not None
        encoded = self.prepared.test.encoded
        return in_order(encoded[: max(rows, len(encoded) // rows * rows)], self.prepared.collate, rows)


def exports(root: Path) -> dict[str, Path]:
    """The folders that a run has exported, by format."""
    return {name: root / place(name) for name in FORMATS if (root / place(name)).is_dir()}


def subjects(bench: Bench) -> list[Subject]:
    """The teacher first, if it is one model that lies here. A program that is not installed is said, not asked.

    Raises FolderError when the run has exported nothing.
    """
    found: list[Subject] = []
    named = who(bench)
    if "teacher" in named:
        loaded, prepared = assemble.model(bench, named["teacher"])
        if loaded.record.folder is not None:
            folder = loaded.record.folder
            found.append(Subject("teacher, PyTorch", "PyTorch", folder, input_names(loaded), prepared))
    loaded, prepared = assemble.model(bench, ModelSettings(model_name_or_path="stage:student"))
    folders = exports(bench.folder.root)
    if not folders:
        raise FolderError(f"{bench.folder.root}: nothing is exported: `potstill export {bench.folder.root}` first.")
    for name, program in ENGINES.items():
        read = {form: folder for form, folder in folders.items() if form.startswith(program.reads)}
        if read and not program.installed:
            bench.say(f"{', '.join(read)} not timed: {program.module} is not installed (potstill[{program.extra}])")
            continue
        found += [
            Subject(f"{form}, {name}", name, folder, input_names(loaded), prepared) for form, folder in read.items()
        ]
    return found
