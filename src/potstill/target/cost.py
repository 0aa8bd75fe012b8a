"""What each export of a run costs in its own program, all timed in one interleaved run with the teacher.

Tokenisation is outside every time. Thread pools of several programs share one process: see `rest` of time_interleaved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
import torch

from potstill.bench import Bench
from potstill.core.errors import DataError
from potstill.core.outcome import Finding
from potstill.estimate import decode_prediction
from potstill.evaluate.bandwidth import DecodeLoad, decode_finding, measured_bandwidth, prediction_finding
from potstill.evaluate.cost import deployed_bytes
from potstill.evaluate.energy import counters, energy_of
from potstill.evaluate.settings import CostSettings
from potstill.evaluate.timing import (
    Conditions,
    latency_findings,
    rate_findings,
    time_interleaved,
    torch_threads,
)
from potstill.export.rows import tensors_of
from potstill.students.settings import ModelSettings
from potstill.students.shape import shape_of
from potstill.target.memory import memory_of
from potstill.target.subjects import Subject, subjects

# Longer than the threads of any of these programs wait busily for more work.
REST = 0.005
# Short, since the prompt's prefill is inside the time of a decoding.
PROMPT_TOKENS = 8

Call = Callable[[], object]


def measure_cost(bench: Bench) -> list[Finding]:
    """Every finding about every subject. Raises DataError without test rows, FolderError without exports."""
    if bench.recipe.data.test is None:
        raise DataError("there is no data.test, so there are no rows to time: add one to the recipe")
    cost = bench.recipe.evaluate.cost or CostSettings()
    everyone = subjects(bench)
    bench.say(f"timing {len(everyone)} in turn, {cost.threads} threads: {'; '.join(one.name for one in everyone)}")
    findings = [
        Finding("cost.threads", float(cost.threads), one.name, evidence={"held_by": one.program.threads})
        for one in everyone
    ]
    answering = [one for one in everyone if one.program.open is not None]
    with torch_threads(cost.threads):
        findings += _times(bench, answering, cost)
        if bench.recipe.task == "causal-lm":
            findings += _decoding(bench, [one for one in everyone if one.program.write is not None], cost)
    for one in everyone:
        bench.stop.check()
        findings += _sizes(bench, one, cost)
    return findings


def caller(bench: Bench, one: Subject, cost: CostSettings, rows: int) -> Call:
    """A call that answers the next so many test rows; every subject meets the same rows in the same order."""
    assert one.program.open is not None
    answer = one.program.open(one.folder, bench.recipe.task, cost.threads)
    batches = one.batches(rows)
    order = np.random.default_rng(0).permutation(len(batches))
    turns = cycle([tensors_of(batches[int(place)], one.inputs) for place in order])

    def call() -> object:
        bench.stop.check()
        return answer(next(turns))

    return call


def _times(bench: Bench, answering: Sequence[Subject], cost: CostSettings) -> list[Finding]:
    """Latency of one row, its energy, and the rate of a full batch."""
    resamples, seed = bench.recipe.evaluate.bootstrap, bench.recipe.seed
    single = {one.name: caller(bench, one, cost, 1) for one in answering}
    seconds = time_interleaved(single, rounds=cost.rounds, threads=cost.threads, rest=REST)
    length = int(np.median([row.length for row in answering[0].prepared.test.encoded]))  # type: ignore[union-attr]
    findings = latency_findings(seconds, Conditions(1, length, cost.threads, resamples, seed))
    findings += _energy(single, cost)
    full = {one.name: caller(bench, one, cost, cost.batch_size) for one in answering}
    seconds = time_interleaved(full, rounds=max(5, cost.rounds // 4), threads=cost.threads, rest=REST)
    conditions = Conditions(cost.batch_size, length, cost.threads, resamples, seed)
    rate = "cost.throughput_rows_s"
    return findings + rate_findings(rate, seconds, conditions, items=cost.batch_size, unit="rows/s")


def _energy(calls: dict[str, Call], cost: CostSettings) -> list[Finding]:
    read, findings = counters(), []
    for name, call in calls.items():
        with torch.inference_mode():
            spent = energy_of(call, core_watts=cost.core_watts, read=read)
        evidence = {"unit": "J/row", "method": spent.method, "measured": spent.measured}
        findings.append(Finding("cost.energy_j", spent.joules, name, evidence=evidence))
    return findings


def _decoding(bench: Bench, writing: Sequence[Subject], cost: CostSettings) -> list[Finding]:
    """Greedy decoding of one row, how near it comes to what the memory bus allows, and what `plan` would have said."""
    test = writing[0].prepared.test
    assert test is not None
    prompt_BL = torch.from_numpy(test.encoded[0].tokens[:PROMPT_TOKENS]).long()[None]
    decoders = {one.name: one.program.write(one.folder, cost.threads) for one in writing if one.program.write}
    calls = {name: one.run(prompt_BL, cost.new_tokens) for name, one in decoders.items()}
    seconds = time_interleaved(calls, rounds=max(5, cost.rounds // 4), threads=cost.threads, warm_up=1, rest=REST)
    conditions = Conditions(1, cost.new_tokens, cost.threads, bench.recipe.evaluate.bootstrap, bench.recipe.seed)
    findings = rate_findings("cost.decode_tokens_s", seconds, conditions, items=cost.new_tokens, unit="tokens/s")
    for one in writing:
        bench.stop.check()
        load, times = DecodeLoad(decoders[one.name].weight_bytes), seconds[one.name]
        bandwidth = measured_bandwidth(int(load.weight_bytes), threads=cost.threads)
        fastest, usual = cost.new_tokens / min(times), cost.new_tokens / float(np.median(times))
        findings.append(decode_finding(one.name, fastest, load, bytes_per_second=bandwidth))
        if one.engine == "PyTorch":
            shape = shape_of(ModelSettings(model_name_or_path=str(one.folder)), {})
            findings.append(prediction_finding(one.name, decode_prediction(shape, bandwidth), usual))
    return findings


def _sizes(bench: Bench, one: Subject, cost: CostSettings) -> list[Finding]:
    memory = memory_of(
        one.engine,
        one.folder,
        task=bench.recipe.task,
        threads=cost.threads,
        length=min(cost.length, bench.recipe.data.max_length),
        inputs=len(one.inputs),
    )
    counts = "every file of the folder but the card: weights, tokenizer, config"
    held = f"growth of the resident set over the imported libraries: load, one row ({memory.method})"
    return [
        Finding(
            "cost.bytes", float(deployed_bytes(one.folder)), one.name, evidence={"unit": "bytes", "counts": counts}
        ),
        Finding("cost.peak_memory_bytes", float(memory.growth), one.name, evidence={"unit": "bytes", "method": held}),
    ]
