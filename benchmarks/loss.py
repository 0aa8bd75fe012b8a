"""The fused loss against the four matrix products that nobody can avoid, and against others.

    make bench-loss                                  everything
    python -m benchmarks.loss times --rounds 3       one of: times, errors, memory, busy
    python -m benchmarks.loss times --shapes B --dtypes bf16 --names low       a part: names that contain a word

times: CPU seconds of one thread over those of the four products alone, by the matrix library's own routine, all in
turn in one process, medians over rounds. errors: gradients in bf16 against double precision. memory: growth of the
resident set at its peak, each in a process of its own. busy: wall seconds of two threads while two other processes
keep both cores busy, over the products under the same load. Numbers go to benchmarks/results/loss.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import grown
from benchmarks.peers_loss import PEERS, Inputs, Run
from potstill.divergences.catalogue import DIVERGENCES
from potstill.divergences.chunked import linear_divergence

RESULTS = Path(__file__).parent / "results" / "loss.json"
SHAPES = {"A": (2048, 576, 960, 49_152), "B": (512, 640, 1152, 262_144)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TILE = 2048


def ours(name: str, memory: str = "balanced") -> Run:
    def run(given: Inputs) -> None:
        linear_divergence(given.states, given.head, given.spoken, given.teacher, name, memory=memory).backward()

    return run


OURS: Mapping[str, Run] = {
    **{name: ours(name) for name in DIVERGENCES},
    "forward_kl, low memory": ours("forward_kl", "low"),
    "jensen_shannon, low memory": ours("jensen_shannon", "low"),
}


@torch.no_grad()
def products(given: Inputs) -> None:
    """The four products into memory that is there already, a tile of the vocabulary at a time: the limit."""
    tokens, dtype = len(given.states), given.states.dtype
    own, other = torch.empty(tokens, TILE, dtype=dtype), torch.empty(tokens, TILE, dtype=dtype)
    states, head = torch.zeros_like(given.states), torch.empty(TILE, given.head.shape[1], dtype=dtype)
    for first in range(0, len(given.head), TILE):
        weight, teacher = given.head[first : first + TILE], given.teacher[first : first + TILE]
        torch.mm(given.states, weight.T, out=own)
        torch.mm(given.spoken, teacher.T, out=other)
        states.addmm_(own, weight)
        torch.mm(own.T, given.states, out=head)


def seconds(run: Run, given: Inputs, clock: Callable[[], float]) -> float:
    given.forget()
    began = clock()
    run(given)
    return clock() - began


def in_turn(runs: Mapping[str, Run], given: Inputs, rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for done in range(rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run, given, clock))
        print(f"  round {done + 1} of {rounds}", file=sys.stderr)
    return taken


def times(rounds: int, shapes: list[str], dtypes: list[str], runs: Mapping[str, Run]) -> dict[str, Any]:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for shape in shapes:
        for name in dtypes:
            given = Inputs.random(*SHAPES[shape], DTYPES[name])
            taken = in_turn({"products": products, **runs}, given, rounds, time.process_time)
            found[f"{shape} {name}"] = ratios(taken) | {"gflops": gflops(shape, taken["products"])}
            show(f"times, shape {shape}, {name}", found[f"{shape} {name}"])
    return found


def ratios(taken: Mapping[str, list[float]]) -> dict[str, float]:
    limit = statistics.median(taken["products"])
    return {name: round(statistics.median(values) / limit, 3) for name, values in taken.items() if name != "products"}


def gflops(shape: str, taken: list[float]) -> float:
    tokens, student, teacher, entries = SHAPES[shape]
    return round(2 * tokens * entries * (3 * student + teacher) / statistics.median(taken) / 1e9, 1)


def errors(runs: Mapping[str, Run]) -> dict[str, Any]:
    """Relative Frobenius error of the gradients in bf16, [states, head], at 2,048 tokens and 8,192 entries."""
    tokens, student, teacher, _ = SHAPES["A"]
    given = Inputs.random(tokens, student, teacher, 8192, torch.bfloat16)
    exact = Inputs(*(one.detach().double() for one in (given.states, given.head, given.spoken, given.teacher)))
    exact.states.requires_grad_()
    exact.head.requires_grad_()
    found = {}
    for name, run in runs.items():
        truth = name if name in DIVERGENCES else ("jensen_shannon" if "ensen" in name else "forward_kl")
        given.forget()
        exact.forget()
        run(given)
        whole(truth, exact).backward()
        pairs = zip(leaves(given), leaves(exact), strict=True)
        found[name] = [relative(own.grad, true.grad, scaled=name in PEERS) for own, true in pairs]
    show("errors, bf16", found)
    return found


def whole(name: str, given: Inputs) -> torch.Tensor:
    student = torch.log_softmax(given.states @ given.head.T, -1)
    teacher = torch.log_softmax(given.spoken @ given.teacher.T, -1)
    return DIVERGENCES[name].function(teacher, student, **DIVERGENCES[name].parameters).mean()


def leaves(given: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return given.states, given.head


def relative(own: torch.Tensor | None, true: torch.Tensor | None, *, scaled: bool) -> float:
    """scaled: up to one factor, since peers average over other denominators."""
    if own is None or true is None:
        raise AssertionError("both were differentiated")
    own, true = own.double(), true.double()
    factor = float((own * true).sum() / (own * own).sum()) if scaled else 1.0
    return round(float((factor * own - true).norm() / true.norm()), 5)


def memory(shapes: list[str], dtypes: list[str], names: set[str]) -> dict[str, Any]:
    """Peak of the resident set above the inputs, over the bytes of the gradients."""
    found: dict[str, Any] = {}
    for shape in shapes:
        for dtype in dtypes:
            key = f"{shape} {dtype}"
            found[key] = {}
            wanted = ("forward_kl", "jensen_shannon", *list(OURS)[-2:], *PEERS)
            for name in filter(names.__contains__, wanted):
                command = [sys.executable, "-m", "benchmarks.loss", "peak", shape, dtype, name]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                found[key][name] = json.loads(done.stdout) if done.returncode == 0 else "out of memory"
            show(f"memory, shape {shape}, {dtype}: MB above the inputs, and times the gradients", found[key])
    return found


def peak(shape: str, dtype: str, name: str) -> None:
    given = Inputs.random(*SHAPES[shape], DTYPES[dtype])
    run = {**OURS, **PEERS}[name]
    run(Inputs.random(64, *SHAPES[shape][1:3], 1024, DTYPES[dtype]))  # imports and thread pools are not the loss's
    above = grown(lambda: run(given))
    gradients = sum(one.grad.nbytes for one in leaves(given) if one.grad is not None)
    print(json.dumps([round(above / 2**20, 1), round(above / gradients, 2)]))


def burn() -> None:
    own = torch.randn(512, 512)
    torch.set_num_threads(1)
    while True:
        own = torch.nn.functional.normalize(own @ own)


def busy(rounds: int) -> dict[str, Any]:
    """Wall time of two threads beside two processes that never rest."""
    others = [multiprocessing.get_context("spawn").Process(target=burn, daemon=True) for _ in range(2)]
    for one in others:
        one.start()
    torch.set_num_threads(2)
    runs: dict[str, Run] = {"products": products, "forward_kl": OURS["forward_kl"]}
    runs |= {"jensen_shannon": OURS["jensen_shannon"], **{name: PEERS[name] for name in PEERS if "Liger" in name}}
    found = {}
    try:
        for dtype in DTYPES:
            given = Inputs.random(*SHAPES["A"], DTYPES[dtype])
            found[f"A {dtype}"] = ratios(in_turn(runs, given, rounds, time.perf_counter))
            show(f"busy, shape A, {dtype}", found[f"A {dtype}"])
    finally:
        for one in others:
            one.terminate()
    return found


def show(title: str, found: Mapping[str, Any]) -> None:
    print(f"\n{title}")
    for name, value in found.items():
        print(f"  {name:40} {value}", flush=True)


def main() -> None:
    """Measure what was asked for and add it to what was measured before."""
    if sys.argv[1:2] == ["peak"]:
        peak(*sys.argv[2:5])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["times", "errors", "memory", "busy"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--names", nargs="+", default=[""], help="words, one of which a name must contain")
    options = parser.parse_intermixed_args()
    every = {**OURS, **PEERS}
    runs = {name: run for name, run in every.items() if any(word in name for word in options.names)}
    measure = {
        "times": partial(times, options.rounds, options.shapes, options.dtypes, runs),
        "errors": partial(errors, runs),
        "memory": partial(memory, options.shapes, options.dtypes, set(runs)),
        "busy": partial(busy, options.rounds),
    }
    for what in options.what:
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        before = found.get(what, {})
        for key, value in measure[what]().items():
            before[key] = {**before[key], **value} if isinstance(before.get(key), dict) else value
        found[what] = before
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
