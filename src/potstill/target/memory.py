"""Peak memory of one export in one program, measured in a process that does nothing else.

python -m potstill.target.memory ENGINE FOLDER TASK THREADS LENGTH INPUTS
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import cast

from potstill.core.task import Task
from potstill.evaluate.footprint import Footprint, child_footprint, measure_growth


def memory_of(engine: str, folder: Path, *, task: Task, threads: int, length: int, inputs: int) -> Footprint:
    """How far loading the folder and answering one row of so many tokens raises the resident set over the imported
    libraries. inputs: tensors that a row is given as. Raises RunError when the child fails."""
    given = (engine, folder, task, threads, length, inputs)
    return child_footprint([sys.executable, "-m", "potstill.target.memory", *map(str, given)])


def _main(engine: str, folder: Path, task: Task, threads: int, length: int, inputs: int) -> None:
    """The child: import first, so that libraries are not charged to the model."""
    import torch

    from potstill.export.runtimes import needed
    from potstill.target.engines import ENGINES

    needed(ENGINES[engine].module, ENGINES[engine].extra)
    torch.set_num_threads(threads)

    row_1L = torch.ones(1, length, dtype=torch.long)

    def load_and_run() -> None:
        with torch.inference_mode():
            if ENGINES[engine].open is not None:
                ENGINES[engine].open(folder, task, threads)([row_1L] * inputs)
            else:
                ENGINES[engine].write(folder, threads).run(row_1L, 1)()

    print(json.dumps(asdict(measure_growth(load_and_run))))


if __name__ == "__main__":
    engine, folder, task, *numbers = sys.argv[1:]
    threads, length, inputs = map(int, numbers)
    _main(engine, Path(folder), cast(Task, task), threads, length, inputs)
