"""Fair times: the compared models take turns, so that whatever else the machine does falls on all of them.

Only times of one interleaved run are compared; absolute milliseconds belong to one machine and one moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from potstill.core.errors import RunError
from potstill.core.outcome import Finding
from potstill.evaluate.interval import bootstrap_median

Clock = Callable[[], float]


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """That many torch threads inside, the earlier number again afterwards, also after an error."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def time_interleaved(
    callables: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    threads: int,
    warm_up: int = 3,
    rest: float = 0.0,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[float]]:
    """Seconds of each callable in each round: teacher, student, teacher, student, ... in the order given.

    The first `warm_up` rounds run untimed (caches, allocator, lazy kernels). Round i of one name and round i of another
    are neighbours in time, so their ratio is a paired one. On an accelerator the callable must synchronise.

    rest: seconds of pause before each turn, and then each turn begins with an untimed call. For callables with thread
    pools of their own: the threads of one go on waiting busily for a while after its call, and would take the
    processors from the next; and a pool that has slept is woken by the untimed call, as it is under steady use.
    """
    seconds: dict[str, list[float]] = {name: [] for name in callables}
    with torch_threads(threads), torch.inference_mode():
        for turn in range(warm_up + rounds):
            for name, action in callables.items():
                if rest:
                    sleep(rest)
                    action()
                start = clock()
                action()
                elapsed = clock() - start
                if turn >= warm_up:
                    seconds[name].append(elapsed)
    return seconds


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a time is worthless without. Goes into the evidence of every finding made of it.

    batch_size: rows per call. length: tokens per row. threads: of torch. resamples, seed: of the bootstrap.
    """

    batch_size: int
    length: int
    threads: int
    resamples: int = 1000
    seed: int = 0


def latency_findings(seconds: Mapping[str, list[float]], conditions: Conditions) -> list[Finding]:
    """p50 and p95 in milliseconds per subject, and how many times faster each is than the first subject."""
    findings = []
    for subject, times in seconds.items():
        millis = 1000 * np.array(times)
        median = bootstrap_median(millis, resamples=conditions.resamples, seed=conditions.seed)
        evidence = _evidence("ms", len(times), conditions)
        findings += [
            Finding("cost.latency_p50_ms", median.value, subject, interval=median.interval, evidence=evidence),
            Finding("cost.latency_p95_ms", float(np.percentile(millis, 95)), subject, evidence=evidence),
        ]
    return findings + speed_up_findings("cost.latency_speedup", seconds, conditions)


def rate_findings(
    name: str, seconds: Mapping[str, list[float]], conditions: Conditions, *, items: int, unit: str
) -> list[Finding]:
    """Items per second of the median round, per subject, and the speed-up over the first: throughput, decode rate.

    name: "cost.throughput_rows_s" or "cost.tokens_s". items: rows or tokens per call. unit: "rows/s", "tokens/s".
    """
    findings = []
    for subject, times in seconds.items():
        median = bootstrap_median(np.array(times), resamples=conditions.resamples, seed=conditions.seed)
        bounds = (items / median.high, items / median.low)
        evidence = _evidence(unit, len(times), conditions)
        findings.append(Finding(name, items / median.value, subject, interval=bounds, evidence=evidence))
    return findings + speed_up_findings(f"{name}_speedup", seconds, conditions)


def speed_up_findings(name: str, seconds: Mapping[str, list[float]], conditions: Conditions) -> list[Finding]:
    """Median over rounds of (seconds of the first subject / seconds of this one), for every subject but the first.

    Ratios are taken inside a round before anything is averaged, so a slow minute of the machine cancels.
    """
    reference, *others = seconds
    findings = []
    for subject in others:
        ratios = np.array(seconds[reference]) / np.array(seconds[subject])
        ratio = bootstrap_median(ratios, resamples=conditions.resamples, seed=conditions.seed)
        evidence = {**_evidence(f"times {reference}", len(ratios), conditions), "reference": reference}
        findings.append(Finding(name, ratio.value, subject, interval=ratio.interval, evidence=evidence))
    return findings


def greedy_decode(generate: Callable[..., Tensor], prompt_BL: Tensor, new_tokens: int) -> Callable[[], None]:
    """One timed call: `new_tokens` greedy tokens after the prompt, with the key-value cache.

    generate: a transformers model's bound `generate`. The end token is forbidden until the length is reached, or a
    model that stops early would look fast. Keep the prompt to a few tokens: its prefill is inside the time, so the rate
    reads slightly low, never high. The call raises RunError when another number of tokens came back.
    """

    def decode() -> None:
        output_BL = generate(
            input_ids=prompt_BL,
            attention_mask=torch.ones_like(prompt_BL),
            do_sample=False,
            num_beams=1,
            use_cache=True,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
        )
        made = output_BL.shape[1] - prompt_BL.shape[1]
        if made != new_tokens:
            raise RunError(
                f"The model made {made} tokens where {new_tokens} were asked for, so its decode rate is unknown. "
                "Next: check the stopping rules in its generation_config.json."
            )

    return decode


def _evidence(unit: str, rounds: int, conditions: Conditions) -> dict[str, object]:
    return {
        "unit": unit,
        "rounds": rounds,
        "order": "subjects take turns; warm-up left out; wall time",
        "interval": "bootstrap of the median over rounds",
        **asdict(conditions),
    }
