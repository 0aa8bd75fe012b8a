"""Several processes that train together, started without any launcher: the four variables are all there is.

    crew.py FOLDER JOB            (JOB is JSON, see `Job`)

As a module, `crew` starts them and waits. The student is small, but has what spreading can break: blocks in a list, a
tied head, a frozen matrix, axes that do not divide by the number of ranks.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Job:
    """fault: what happens to `rank` when its teacher is asked for the `question`-th time."""

    do: str = "train"
    max_steps: int = 12
    rows: int = 3
    accumulation: int = 2
    timeout: float = 60.0
    fault: str | None = None
    rank: int = 1
    question: int = 7
    bad_steps: int = 3


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    said: str


def crew(folder: Path, size: int, *, patience: float = 120, until: int | None = None, **job) -> list[Ended]:
    """How each rank ended. until: the others are killed when this one has ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    group = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if size > 1 else {}
    command = [sys.executable, "-m", "tests.train.crew", str(folder), json.dumps(asdict(Job(**job)))]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**base, **group, **({"RANK": str(rank)} if size > 1 else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    watchdog = threading.Timer(patience, lambda: [one.kill() for one in started])
    watchdog.start()
    try:
        if until is not None:
            started[until].wait()
            for one in started:
                one.kill()
        heard = [one.communicate() for one in started]
    finally:
        watchdog.cancel()
    return [Ended(one.returncode, out, said) for one, (out, said) in zip(started, heard, strict=True)]


def main() -> None:
    import torch

    from potstill.core.errors import PotstillError
    from potstill.train.join import joined
    from potstill.train.stop import StopFlag

    folder, job = Path(sys.argv[1]), Job(**json.loads(sys.argv[2]))
    torch.set_num_threads(1)
    try:
        with joined(job.timeout) as ranks, StopFlag(ranks.signal) as flag:
            {"train": train_here, "talk": talk, "slices": slices, "refused": refused}[job.do](folder, job, ranks, flag)
    except PotstillError as error:
        if not error.told:
            print(error, file=sys.stderr)
        leave(error.exit_code)
    leave(0)


def leave(code):
    """As the command does, past the interpreter's own way out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def student():
    import torch
    from torch import nn

    from tests.train.tiny_run import VOCABULARY

    class Layered(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed = nn.Embedding(VOCABULARY, 5)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5)) for _ in range(2))
            self.norm = nn.LayerNorm(5)
            self.fixed = nn.Linear(5, 5, bias=False)
            self.fixed.weight.requires_grad_(False)
            self.head = nn.Linear(5, VOCABULARY, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            states = self.embed(tokens)
            for block in self.blocks:
                states = states + block(states)
            return self.head(self.norm(states + self.fixed(states)))

    return Layered()


def train_here(folder, job, ranks, flag):
    from potstill.core.signal import Outputs
    from potstill.train.loop import train
    from tests.train import tiny_run

    module, forward = ranks.spread(student(), lambda inner, batch, want: Outputs(inner(batch.tokens_BL)))

    def evaluate():
        import torch

        from potstill.core.signal import Want

        with torch.no_grad():
            batch = tiny_run.batch_of([100, 101, 102])
            flag.check()
            logprobs = forward(batch, Want()).logits_BTV.log_softmax(-1)
        hard = -logprobs.gather(-1, batch.targets_BT[..., None])[..., 0] * batch.weights["hard"]
        # What decides is the leader's figure: another one's must not matter.
        return {"loss": float(hard.sum() / batch.weights["hard"].sum()) + 1e-3 * ranks.rank}

    plan = tiny_run.plan(
        folder,
        module=module,
        forward=forward,
        evaluate=evaluate,
        source=tiny_run.Source(size=job.rows),
        teacher=Faulty(job, ranks.rank),
        ranks=ranks,
        max_steps=12,
        gradient_accumulation_steps=job.accumulation,
        skip_bad_steps=job.bad_steps,
    )
    result = train(plan, flag=flag)
    print(json.dumps({"step": result.step, "best": result.best_step, "skipped": result.skipped}))


class Faulty:
    def __init__(self, job, rank):
        from tests.train.tiny_run import Echo

        self.job, self.rank, self.asked, self.inner = job, rank, 0, Echo()

    @property
    def voice(self):
        return self.inner.voice

    def signal(self, batch, want):
        from potstill.core.errors import RunError
        from potstill.core.signal import DenseLogits, Signal

        self.asked += 1
        signal_ = self.inner.signal(batch, want)
        if self.job.fault is None or self.rank != self.job.rank or self.asked != self.job.question:
            return signal_
        if self.job.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.job.fault == "hangs":
            time.sleep(600)
        if self.job.fault == "stopped":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.job.fault == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
        if self.job.fault == "gone":
            raise RunError("every teacher is gone")
        if self.job.fault == "bug":
            raise KeyError("a bug")
        if self.job.fault == "nan":
            return Signal(signal_.voice, DenseLogits(signal_.logits.logits_BTV * float("nan")))
        return signal_


def talk(folder, job, ranks, flag):
    """Every word that ranks can say to each other; each asserts what it heard."""
    import pytest

    from potstill.core.errors import FolderError, SignalError

    me, size = ranks.rank, ranks.size
    assert ranks.first(None) is None
    assert ranks.first({"by": me} if me else None) == {"by": 1}
    assert ranks.summed({"b": 1.5, "a": float(me)}) == {"a": sum(range(size)), "b": 1.5 * size}
    assert ranks.each(bytes([me])) == [bytes([rank]) for rank in range(size)]
    assert ranks.each(b"") == [b""] * size
    assert ranks.lead(lambda: me) == 0
    assert ranks.lead(lambda: [0.1, None, "é"]) == [0.1, None, "é"]
    assert ranks.everywhere(lambda: me) == me
    clocks = ranks.each(repr(ranks.clock()).encode())
    assert len(set(clocks)) == 1
    assert ranks.signal(15 if me == 1 else None) == 15
    # A rank that works for itself hears only its own signals.
    assert ranks.everywhere(lambda: ranks.signal(None)) is None

    def fails():
        raise FolderError("no room here")

    with pytest.raises(FolderError, match="no room here") as caught:
        ranks.lead(fails)
    assert caught.value.told == (me != 0)

    def one_fails():
        if me == size - 1:
            raise SignalError("wrong answer")

    with pytest.raises(SignalError, match="wrong answer") as caught:
        ranks.everywhere(one_fails)
    assert caught.value.told == (me != size - 1)
    assert ranks.lead(lambda: "still together") == "still together"
    ranks.conclude(lambda: time.sleep(0.3))
    print("heard")


def refused(folder, job, ranks, flag):
    from potstill.core.errors import FolderError

    def fails():
        raise FolderError("no room here")

    ranks.lead(fails)


def slices(folder, job, ranks, flag):
    """A spread module's tensors come together whole, and go apart again, from the leader's weights."""
    import torch

    from potstill.core.batch import Batch  # noqa: F401
    from potstill.core.signal import Outputs, Want
    from potstill.train.capture import unique_tensors
    from potstill.train.shards import is_spread, local, settle, spread_like, whole
    from potstill.train.slices import read_slices, write_slices
    from tests.train.tiny_run import batch_of

    original = student()
    if not ranks.leads:
        with torch.no_grad():
            for parameter in original.parameters():
                parameter.add_(1.0)
    module, forward = ranks.spread(original, lambda inner, batch, want: Outputs(inner(batch.tokens_BL)))
    expected = student().state_dict()
    assert all(is_spread(parameter) for parameter in module.parameters())
    assert not any(is_spread(parameter) for parameter in original.parameters())
    with torch.no_grad():
        batch = batch_of([1, 2])
        torch.testing.assert_close(forward(batch, Want()).logits_BTV, student()(batch.tokens_BL))
    settle(forward)
    tensors, aliases = unique_tensors(module)
    assert aliases == {"head.weight": "embed.weight"}
    ranks.everywhere(lambda: write_slices(folder / "weights", tensors, rank=ranks.rank))
    found = read_slices(folder / "weights", lambda name: None)
    assert set(found) == set(expected) - {"head.weight"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    found = read_slices(folder / "weights", tensors.get)
    assert all(torch.equal(local(tensor), local(tensors[name])) for name, tensor in found.items())
    assert {is_spread(tensor) for tensor in found.values()} == {True}
    for name, parameter in module.named_parameters():
        doubled = spread_like(expected[name] * 2, parameter)
        assert doubled.to_local().shape == parameter.to_local().shape
        assert torch.equal(whole(doubled), expected[name] * 2)
    print("whole")


if __name__ == "__main__":
    main()
