"""Kills recordings. Forks a child per life, so that a death costs milliseconds.

    recorder.py FOLDER DEATHS SEED

Each trial is one store: its child is killed with SIGKILL at a random instant, again and again, until a child lives to
the end. Prints one JSON object: what an undisturbed store holds, and what each trial's does.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from potstill.core.signal import Want
from potstill.teachers.store import SignalStore
from potstill.teachers.stored import StoredTeacher
from tests.teachers.speech import Speaker, batch_of, packing

DEATHS_OF_A_STORE = 4
BATCHES = [list(range(start, start + 4)) for start in range(0, 240, 4)]


def record(folder: Path) -> None:
    store = SignalStore(folder, packing().as_meta(), shard_bytes=20_000)
    teacher = StoredTeacher(store, packing(), Speaker())
    for rows in BATCHES:
        teacher.signal(batch_of(rows), Want(logits=False, headed=True))
    teacher.close()


def born(folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        record(folder)
        code = 0
    finally:
        os._exit(code)


def lived(child: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def content(folder: Path) -> str:
    """Hash of every file but the lock."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name != ".lock":
            digest.update(path.name.encode() + path.read_bytes())
    assert SignalStore(folder, packing().as_meta()).verify() == []
    return digest.hexdigest()


def trial(folder: Path, draw: random.Random, life: float) -> dict:
    deaths = 0
    for _ in range(DEATHS_OF_A_STORE):
        child = born(folder)
        time.sleep(draw.uniform(0, life))
        os.kill(child, signal.SIGKILL)  # a zombie takes it too: the child is not reaped yet
        if lived(child):
            break
        deaths += 1
    assert lived(born(folder)), "the last life failed"
    return {"deaths": deaths, "content": content(folder)}


def main() -> None:
    root, deaths, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    record(root / "warm")
    started = time.monotonic()
    assert lived(born(root / "undisturbed"))
    life = time.monotonic() - started
    draw, killed = random.Random(seed), []
    while sum(one["deaths"] for one in killed) < deaths:
        killed.append(trial(root / str(len(killed)), draw, life))
    json.dump({"undisturbed": content(root / "undisturbed"), "trials": killed}, sys.stdout)


if __name__ == "__main__":
    main()
