"""What a step costs when its teacher is elsewhere, or its signals lie in a store.

    python benchmarks/overlap.py [--steps 6] [--rounds 5]

SmolLM2-135M-Instruct teaches a student with half of its blocks on packed prose. Four things take turns, each over the
same batches: the student alone, with signals that are in memory; the teacher alone, in this process; the student with
the teacher served by another process on this machine, over each way; and the student with the signals read from a
store. Each process has one thread. A block of steps begins with nothing asked ahead, so the first wait is in its time.

Goals: elsewhere at most 1.05 of the sum of the two computations; from a store at most 1.05 of the student alone.
Results also go to benchmarks/results/overlap.json.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from potstill.assemble import local
from potstill.core.batch import Batch
from potstill.core.protocols import Teacher
from potstill.core.signal import Signal, Voice, Want
from potstill.data.prepare import prepare
from potstill.data.settings import DataSettings, SourceSettings
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import ObjectiveSettings
from potstill.students.inherit import make_student
from potstill.students.load import LoadedModel, load_model
from potstill.students.settings import ModelSettings, StudentSettings
from potstill.students.taps import outputs
from potstill.teachers.ahead import Ahead
from potstill.teachers.channel import Address
from potstill.teachers.remote import RemoteTeacher, Terms
from potstill.teachers.store import SignalStore
from potstill.teachers.stored import StoredTeacher, as_wanted
from potstill.train.optimise import build_optimiser
from potstill.train.plan import TrainPlan
from potstill.train.settings import TrainSettings
from potstill.train.step import take_step

RESULTS = Path(__file__).parent / "results"
MODEL = "packaged:smollm2-135m-instruct"
ROWS, LENGTH = 2, 128


class InMemory:
    """Signals as they came over the wire, kept: what is left is the student's own work."""

    def __init__(self, teacher: Teacher, batches: Sequence[Batch]):
        self.voice: Voice = teacher.voice
        self._said = {id(batch): teacher.signal(batch, Want(logits=False, headed=True)) for batch in batches}

    def signal(self, batch: Batch, want: Want) -> Signal:
        """As it was kept."""
        return as_wanted(self._said[id(batch)], batch, want)


class Given:
    """A batch source over a list, which is not read beyond its end."""

    def __init__(self, batches: Sequence[Batch]):
        self._batches, self._at = list(batches), 0

    def next(self) -> Batch:
        """The next of the list."""
        self._at += 1
        return self._batches[self._at - 1]

    def state(self) -> dict[str, int]:
        """Its place."""
        return {"at": self._at}

    def restore(self, state: Any) -> None:
        """Back to a place."""
        self._at = state["at"]


class Student:
    """Half of the blocks, and one optimiser that all measurements share: what a step costs does not depend on it."""

    def __init__(self, source: LoadedModel, folder: Path):
        settings = StudentSettings(model_name_or_path=MODEL, every=2)
        self.module = make_student(settings, source, task="causal-lm", labels=None, texts=[], seed=0).module.train()
        self.settings = TrainSettings(max_steps=1, bf16=False)
        self.objective = Hinton(ObjectiveSettings(soft_weight=1.0, hard_weight=0.0))
        self.optimiser, self.folder = build_optimiser(self.module, self.settings), folder

    def steps(self, teacher: Teacher, source: Any, number: int) -> None:
        """As the loop takes them, without what is between them."""
        plan = TrainPlan(
            settings=self.settings,
            folder=self.folder,
            fingerprint={},
            max_steps=number,
            seed=0,
            module=self.module,
            forward=lambda batch, want: outputs(self.module, batch, want),
            objective=self.objective,
            source=source,
            teacher=teacher,
        )
        for _ in range(number):
            outcome = take_step(plan, self.optimiser, [source.next()], bf16=False, poll=lambda: None)
            assert outcome.bad is None, outcome.bad


def batches_of(loaded: LoadedModel, number: int, *, rows: int = ROWS, length: int = LENGTH) -> list[Batch]:
    """Packed prose."""
    source = SourceSettings(dataset_name="packaged:english-prose", rows="text", limit=12 * number * rows)
    data = DataSettings(train=(source,), pack=True, max_length=length)
    prepared = prepare(data, loaded.tokenizer, "causal-lm")
    encoded = prepared.train.encoded
    return [prepared.collate(encoded[at : at + rows], 0) for at in range(0, number * rows, rows)]


def served(folder: Path, key: str) -> tuple[subprocess.Popen[str], list[str]]:
    command = [sys.executable, "-m", "potstill", "serve", MODEL, "--port", "0", "--stream-port", "0"]
    environment = {**os.environ, "POTSTILL_KEY": key, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--socket", str(folder / "s.sock")], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [process.stdout.readline().split()[-1] for _ in range(3)]


def with_remote(student: Student, teacher: RemoteTeacher, batches: Sequence[Batch], prefetch: int) -> None:
    """One block: asked ahead, but never beyond its last batch."""
    want, given = student.objective.want(), Given(batches)
    teacher.forget()
    ahead = Ahead(given, prefetch, lambda _, batch: teacher.expect(batch, want), teacher.forget)
    within = len(batches) - prefetch
    student.steps(teacher, ahead, within)
    for _, batch in list(ahead._seen):
        student.steps(teacher, Given([batch]), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefetch", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(ModelSettings(model_name_or_path=MODEL), task="causal-lm", labels=None)
    live = local(loaded, loaded.record.vocabulary_size, bf16=False)
    batches = batches_of(loaded, options.steps)
    key = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        student = Student(loaded, folder)
        process, urls = served(folder, key)
        try:
            terms = Terms(prefetch=options.prefetch)
            remotes = {
                url.partition(":")[0]: RemoteTeacher(
                    [Address(url, key)], terms, task="causal-lm", heads=folder / "heads"
                )
                for url in urls
            }
            packing = next(iter(remotes.values())).packing(student.objective.want())
            store = SignalStore(folder / "store", packing.as_meta())
            kept, memory = StoredTeacher(store, packing, live), InMemory(live, batches)
            for batch in batches:
                kept.signal(batch, Want(logits=False, headed=True))
            blocks: dict[str, Callable[[], None]] = {
                "student alone": lambda: student.steps(memory, Given(batches), len(batches)),
                "teacher alone": lambda: (
                    [live.signal(one, Want(logits=False, headed=True)) for one in batches] and None
                ),
                "from a store": lambda: student.steps(kept, Given(batches), len(batches)),
            }
            for kind, teacher in remotes.items():
                blocks[f"elsewhere, {kind}"] = lambda teacher=teacher: with_remote(
                    student, teacher, batches, options.prefetch
                )
            seconds = measure(blocks, options.rounds, len(batches))
        finally:
            process.terminate()
            process.wait(30)
    show(seconds, options)


def measure(blocks: dict[str, Callable[[], None]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of a step, block by block; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in blocks}
    for turn in range(rounds + 1):
        for name, block in blocks.items():
            started = time.perf_counter()
            block()
            if turn:
                found[name].append((time.perf_counter() - started) / steps)
    return found


def show(seconds: dict[str, list[float]], options: argparse.Namespace) -> None:
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    alone, both = middle["student alone"], middle["student alone"] + middle["teacher alone"]
    print(f"steps of {ROWS} x {LENGTH} tokens, blocks of {options.steps}, median of {options.rounds}, one thread each")
    print("| | ms a step | of the student alone | of the sum of both | paired with its round |")
    print("|---|---|---|---|---|")
    for name, value in middle.items():
        base = [
            s + (t if name.startswith("elsewhere") else 0)
            for s, t in zip(seconds["student alone"], seconds["teacher alone"], strict=True)
        ]
        paired = statistics.median(one / other for one, other in zip(seconds[name], base, strict=True))
        print(f"| {name} | {1e3 * value:.0f} | {value / alone:.2f} | {value / both:.2f} | {paired:.2f} |")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "overlap.json").write_text(json.dumps({**vars(options), "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
