"""What a program in the sandbox cannot do, tried; and code judged by tests there."""

import time

import pytest

from potstill.core.errors import InputError
from potstill.data.verify import sandbox
from potstill.data.verify.code import passes, program_of
from potstill.data.verify.judge import Asked, judging
from potstill.data.verify.sandbox import isolation, run_program
from potstill.data.verify.settings import VerifySettings

needs_isolation = pytest.mark.skipif(isolation() is not None, reason=str(isolation()))
ANSWER = "Here you are:\n```python\ndef double(x):\n    return x * 2\n```\nIt doubles."
TESTS = "assert double(4) == 8\nassert double(-1) == -2"


def run(program, seconds=5.0):
    return run_program(program, seconds=seconds, mebibytes=256)


@needs_isolation
def test_nothing_of_this_machine_is_within_reach(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("canary-5f1c")
    for program in (
        f"print(open({str(secret)!r}).read())",
        f"open({str(secret)!r}, 'w')",
        f"import os; os.remove({str(secret)!r})",
        "open('/usr/canary', 'w')",
        "import os; os.kill(1, 0); os.listdir('/proc')",
        "import os; os.listdir('/home'); os.listdir('/tmp')",
        "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "import os; os.setuid(0); os.chroot('/work'); os.listdir('/old')",
    ):
        ran = run(program)
        assert ran.ended == "exited"
        assert ran.code != 0, program
        assert "canary-5f1c" not in ran.output
    assert secret.read_text() == "canary-5f1c"
    assert run("import os; print(sorted(os.environ))").output.strip() in (
        "['HOME', 'LANG', 'PATH']",
        "['HOME', 'LANG', 'PATH', 'LC_CTYPE']",
    )


@needs_isolation
def test_it_may_compute_and_write_into_its_own_memory():
    ran = run("import json, math, re\nopen('/work/a', 'w').write('x')\nprint(open('/work/a').read() * 3)")
    assert (ran.ended, ran.code, ran.output) == ("exited", 0, "xxx\n")


@needs_isolation
@pytest.mark.parametrize(
    ("program", "ended", "seconds"),
    [
        ("while True: pass", "out of time", 0.5),
        ("import time; time.sleep(60)", "out of time", 0.5),
        ("x = bytearray(1 << 32)", "out of memory", 5.0),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "out of memory", 5.0),
        ("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass", "out of time", 0.7),
    ],
)
def test_limits_end_it_and_it_is_said_which(program, ended, seconds):
    started = time.monotonic()
    assert run(program, seconds=seconds).ended == ended
    assert time.monotonic() - started < 6


@needs_isolation
def test_a_flood_of_output_is_bounded():
    assert len(run("while True: print('x' * 1000)", seconds=0.5).output) <= sandbox.OUTPUT_BYTES


@needs_isolation
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (ANSWER, "right"),
        (ANSWER.replace("* 2", "* 3"), "wrong"),
        ("def double(x): return x + x", "right"),
        ("```python\nimport sys\nsys.exit(0)\n```", "wrong"),
        ("```python\nimport os\nos._exit(0)\n```", "wrong"),
        ("```python\ndef double(x):\n```", "wrong"),
        ("```python\ndef double(x):\n    while True: pass\n```", "out of time"),
        ("```python\ndef double(x): return bytearray(1 << 33)\n```", "out of memory"),
        ("```text\nno code\n```", "no answer found"),
    ],
)
def test_code_by_its_tests(answer, outcome):
    with judging(VerifySettings(kind="code", time_limit=2, memory_limit=256)) as judge:
        assert judge(Asked("", answer, tests=TESTS)).outcome == outcome
        assert judge(Asked("", answer)).outcome == "no reference"


def test_programs_of_answers():
    assert program_of("a\n```py\n1\n```\n```python\n2\n```") == "2\n"
    assert program_of("x = 1") == "x = 1"
    assert program_of("```python\nx = 1") is None


def test_without_isolation_nothing_is_run_unless_it_is_allowed(monkeypatch, tmp_path):
    monkeypatch.setattr("potstill.data.verify.judge.isolation", lambda: "no sandbox can be built here (none)")
    with pytest.raises(InputError, match="no sandbox"), judging(VerifySettings(kind="code")):
        pass
    with judging(VerifySettings(kind="code"), allow_unisolated_code=True) as judge:
        assert judge(Asked("", ANSWER, tests=TESTS)).outcome == "right"


def test_a_sandbox_that_cannot_be_built_is_an_error_with_the_next_step(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/bin/false")
    ran = run_program("print(1)", seconds=5, mebibytes=64)
    assert "1" not in ran.output  # nothing was run
    monkeypatch.setattr(sandbox, "SPACES", ("--no-such-flag",))
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    isolation.cache_clear()
    assert isolation() is not None
    isolation.cache_clear()


def test_the_limits_hold_without_isolation_too():
    passed, ran = passes("while True: pass", "", seconds=0.5, mebibytes=256, isolated=False)
    assert (passed, ran.ended) == (False, "out of time")
