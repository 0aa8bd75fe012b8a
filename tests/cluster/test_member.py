"""One process on one machine."""

import os
import signal
import subprocess
import sys
import time

import pytest

from potstill.cluster.member import Member, command_line


def ended(member, patience=20):
    end, said = time.monotonic() + patience, ""
    while time.monotonic() < end:
        code, text = member.look()
        said += text
        if code is not None:
            return code, said
        time.sleep(0.05)
    raise AssertionError(f"still running; it said {said}")


@pytest.fixture
def member():
    made = Member()
    yield made
    made.kill()


def test_it_hears_all_and_sees_the_end(member, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary-token")
    script = (
        "import os, sys; print(os.getcwd(), os.environ.get('RAY_AUTH_TOKEN'), os.environ['MINE'], end=''); sys.exit(3)"
    )
    member.start([sys.executable, "-c", script], str(tmp_path), {"MINE": "yes"})
    assert ended(member) == (3, f"{tmp_path} None yes")


def test_a_line_is_told_when_it_is_whole(member, tmp_path):
    script = "import time; print('one', flush=True); print('tw', end='', flush=True); time.sleep(1); print('o')"
    member.start([sys.executable, "-c", script], str(tmp_path), {})
    end, texts = time.monotonic() + 20, []
    while time.monotonic() < end:
        code, text = member.look()
        texts.append(text)
        if code is not None:
            break
    assert [text for text in texts if text] == ["one\n", "two\n"]


def test_of_a_flood_the_end_is_kept(member, tmp_path):
    member.start([sys.executable, "-c", "print('x' * 10**6); print('last')"], str(tmp_path), {})
    while member._child.poll() is None:
        time.sleep(0.02)
    code, text = member.look()
    assert (code, len(text), text[-5:]) == (0, 64 * 1024, "last\n")


def test_it_is_asked_before_it_is_killed(member, tmp_path):
    script = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); print('up', flush=True); time.sleep(60)"
    )
    member.start([sys.executable, "-c", script], str(tmp_path), {})
    while not member.look()[1]:
        time.sleep(0.02)
    member.ask_to_stop()
    assert ended(member)[0] == 143


def test_it_does_not_outlive_its_parent(tmp_path):
    parent = (
        "import sys, time; from potstill.cluster.member import Member; one = Member();"
        f"one.start([sys.executable, '-c', 'import time; time.sleep(60)'], {str(tmp_path)!r}, {{}});"
        "print(one._child.pid, flush=True); time.sleep(60)"
    )
    started = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    child = int(started.stdout.readline())
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    started.stdout.close()
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and time.monotonic() < end:
        state = open(f"/proc/{child}/stat").read().split()[2]  # noqa: SIM115
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        assert not os.path.exists(f"/proc/{child}")


def test_one_process_is_the_command_and_several_are_torchrun():
    alone = {"nodes": 1, "ranks_per_node": 1, "node": 0, "master": "m", "port": 1}
    assert command_line(["potstill", "run", "x"], **alone) == [sys.executable, "-m", "potstill", "run", "x"]
    assert command_line(["vllm", "serve"], **alone) == ["vllm", "serve"]
    line = command_line(["potstill", "run", "x"], nodes=2, ranks_per_node=4, node=1, master="10.0.0.1", port=29)
    assert line[1:] == [
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--node-rank=1",
        "--nproc-per-node=4",
        "--master-addr=10.0.0.1",
        "--master-port=29",
        "-m",
        "potstill",
        "run",
        "x",
    ]
