"""math-verify in its own process: expressions that are the same, and those that would never end."""

import time

import pytest

from potstill.data.verify.judge import Asked, judging
from potstill.data.verify.maths import LONGEST, MathsChecker, OutOfTime
from potstill.data.verify.settings import VerifySettings

pytest.importorskip("math_verify")


def test_expressions_and_what_becomes_of_those_that_hang():
    with judging(VerifySettings(kind="maths", time_limit=20)) as judge:

        def outcome(completion, reference):
            return judge(Asked("", completion, reference)).outcome

        assert outcome(r"So \boxed{\frac{1}{2}}", "0.5") == "right"
        assert outcome(r"The answer is $x^2+2x+1$", "$(x+1)^2$") == "right"
        assert outcome(r"\boxed{\sqrt{8}}", r"$2\sqrt{2}$") == "right"
        assert outcome(r"\boxed{3}", "4") == "wrong"
        assert outcome("no expression, my friend", "4") in ("wrong", "no answer found")
        assert outcome(r"\boxed{4}", None) == "no reference"
        assert outcome("\\boxed{" + "1+" * LONGEST + "1}", "4") == "no answer found"


def test_one_that_never_ends_is_ended_and_the_next_is_asked_of_a_new_process():
    with judging(VerifySettings(kind="maths", time_limit=1)) as judge:
        started = time.monotonic()
        assert judge(Asked("", "\\boxed{" + "(" * 900 + "1" + ")" * 900 + "}", "4")).outcome == "out of time"
        assert time.monotonic() - started < 60
    with MathsChecker(20, 512) as checker:
        checker.compare("4", "4")
        checker._kill()
        assert checker.compare("4", "4")["same"]


def test_a_process_that_was_killed_is_told_apart(monkeypatch, tmp_path):
    """The parent's side against children that misbehave in each way."""
    child = tmp_path / "child.py"
    child.write_text(
        "import json, sys, time\nprint('ready', flush=True)\nfor line in sys.stdin:\n"
        "    asked = json.loads(line)['answer']\n    time.sleep(99) if asked == 'hang' else sys.exit(1)\n"
    )
    monkeypatch.setattr("potstill.data.verify.maths.CHILD", child)
    with MathsChecker(0.3, 64) as checker:
        with pytest.raises(OutOfTime):
            checker.compare("4", "hang")
        assert checker._child is None
    with judging(VerifySettings(kind="maths", time_limit=5)) as judge:
        assert judge(Asked("", r"\boxed{die}", "4")).outcome == "out of memory"
