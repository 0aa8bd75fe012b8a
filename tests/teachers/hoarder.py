"""Records 96 MB of signals and reads them; prints how many MiB each made the process grow, mapped files included.

hoarder.py FOLDER
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

from potstill.core.batch import Batch
from potstill.core.signal import Want
from potstill.teachers import store as module
from potstill.teachers.store import SignalStore
from potstill.teachers.stored import StoredTeacher
from tests.teachers.speech import Speaker, V, batch_of, packing

ROWS, LONGEST, WARM = 96, 16 * 1024, 12


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile"))) >> 10


def long_batch(row: int) -> Batch:
    full = torch.ones(1, LONGEST)
    tokens = (torch.arange(LONGEST) * 7 + row).unsqueeze(0) % V
    weights = {"soft": full, "hard": full}
    return dataclasses.replace(batch_of([row]), attention_BL=full.bool(), tokens_BL=tokens, weights=weights)


def growth(folder: Path, live: Speaker | None) -> int:
    terms = packing("hidden-fp32")
    teacher = StoredTeacher(SignalStore(folder, terms.as_meta(), shard_bytes=4 << 20), terms, live)
    low = 0
    for row in range(ROWS):
        teacher.signal(long_batch(row), Want(logits=False, headed=True))
        if row == WARM:
            low = resident()
    teacher.close()
    return resident() - low


if __name__ == "__main__":
    torch.set_num_threads(1)
    module.MAPPED = 2
    print(growth(Path(sys.argv[1]), Speaker()), growth(Path(sys.argv[1]), None))
