"""What a whole training step gains from `objective.fused`.

    python -m benchmarks.fused [--rounds 7] [--rows 8] [--length 256]

SmolLM2-135M-Instruct teaches half of its blocks on packed prose, all weights learning, half soft and half hard loss.
The two ways take turns over one batch, each step as the loop takes it: teacher, student, loss, gradients, update. Peak
memory is that of the second step in a process of its own for each way, above what the process held before that step.
Results also go to benchmarks/results/fused.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.memory import grown
from benchmarks.overlap import MODEL, Given, batches_of
from potstill.assemble import local
from potstill.objectives.fused import FusedHinton
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import ObjectiveSettings
from potstill.students.inherit import make_student
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings, StudentSettings
from potstill.students.taps import outputs
from potstill.train.optimise import build_optimiser
from potstill.train.plan import TrainPlan
from potstill.train.settings import TrainSettings
from potstill.train.step import take_step

RESULTS = Path(__file__).parent / "results"
WAYS = {"logits": Hinton, "fused": FusedHinton}


class Bench:
    """Teacher, student and one batch."""

    def __init__(self, rows: int, length: int, bf16: bool):
        loaded = load_model(ModelSettings(model_name_or_path=MODEL), task="causal-lm", labels=None)
        self.batch = batches_of(loaded, 1, rows=rows, length=length)[0]
        self.teacher = local(loaded, loaded.record.vocabulary_size, bf16=bf16)
        student = StudentSettings(model_name_or_path=MODEL, every=2)
        self.module = make_student(student, loaded, task="causal-lm", labels=None, texts=[], seed=0).module.train()
        self.settings, self.bf16 = TrainSettings(max_steps=1, bf16=bf16), bf16
        self.optimiser = build_optimiser(self.module, self.settings)

    def step(self, way: str) -> float:
        """Seconds of one step; its loss is printed by nobody but must be a number."""
        plan = TrainPlan(
            settings=self.settings,
            folder=Path(tempfile.gettempdir()),
            fingerprint={},
            max_steps=1,
            seed=0,
            module=self.module,
            forward=lambda batch, want: outputs(self.module, batch, want),
            objective=WAYS[way](ObjectiveSettings(fused=way == "fused", soft_weight=0.5, hard_weight=0.5)),
            source=Given([self.batch]),
            teacher=self.teacher,
        )
        started = time.perf_counter()
        outcome = take_step(plan, self.optimiser, [self.batch], bf16=self.bf16, poll=lambda: None)
        assert outcome.bad is None, outcome.bad
        return time.perf_counter() - started


def peak(way: str, options: argparse.Namespace, bf16: bool) -> float:
    """MiB that a step needs above weights, optimiser and batch."""
    words = ["--peak", way, "--rows", str(options.rows), "--length", str(options.length)]
    command = [sys.executable, "-m", "benchmarks.fused", *words, *(["--bf16"] if bf16 else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Times in turn, then memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("rounds", 7), ("rows", 8), ("length", 256), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--bf16", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        bench = Bench(options.rows, options.length, options.bf16)
        bench.step(options.peak)  # the optimiser's state is no part of a later step
        print(grown(lambda: bench.step(options.peak)) / 2**20)
        return
    found = {}
    for bf16 in (False, True):
        bench, taken = Bench(options.rows, options.length, bf16), {way: [] for way in WAYS}
        for turn in range(options.rounds + 1):
            for way in sorted(WAYS, reverse=bool(turn % 2)):
                seconds = bench.step(way)
                if turn:  # the first round warms up
                    taken[way].append(seconds)
        del bench
        for way in WAYS:
            name = f"{'bf16' if bf16 else 'fp32'} {way}"
            found[name] = {"seconds": statistics.median(taken[way]), "peak_mib": peak(way, options, bf16)}
            print(f"{name:12} {found[name]['seconds']:.3f} s a step, {found[name]['peak_mib']:,.0f} MiB", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fused.json").write_text(json.dumps(vars(options) | {"found": found}, indent=1))


if __name__ == "__main__":
    main()
