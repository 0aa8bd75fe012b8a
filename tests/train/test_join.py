"""A rank that dies, hangs or never comes: the whole job ends in time and says why, and what was saved can go on."""

import json
import time

import pytest

from potstill.core.errors import RunError
from potstill.train.join import joined
from potstill.train.ranks import Alone
from tests.train.crew import crew
from tests.train.test_ranks import fine, same_curve
from tests.train.tiny_run import curve


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    fine(crew(folder, 1))
    return folder


def test_without_a_launcher_there_is_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert isinstance(ranks, Alone)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as ranks:
        assert isinstance(ranks, Alone)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_rank_is_named_by_the_others(undisturbed, tmp_path, size):
    ended = crew(tmp_path, size, fault="killed", question=7 if size == 2 else 14)
    assert [one.code for one in ended] == [1, -9, 1][:size]
    assert "rank 1 (process " in ended[0].said
    assert "is gone: killed, out of memory, or cut off" in ended[0].said
    assert "rank 0" not in ended[0].said
    assert "start the same command again" in ended[0].said
    fine(crew(tmp_path, size))
    same_curve(curve(undisturbed), curve(tmp_path))


def test_a_killed_leader_ends_the_job_too(undisturbed, tmp_path):
    """Without a launcher the leader keeps the store, so its silence is all that is left of it."""
    ended = crew(tmp_path, 2, fault="killed", rank=0)
    assert [one.code for one in ended] == [-9, 1]
    assert "gone" in ended[1].said
    fine(crew(tmp_path, 2))
    same_curve(curve(undisturbed), curve(tmp_path))


def test_a_rank_that_hangs_is_given_up_in_time_and_named(tmp_path):
    """The hanging process itself is the launcher's to kill; here `crew` does it once the other one has ended."""
    started = time.monotonic()
    ended = crew(tmp_path, 2, fault="hangs", timeout=4, until=0)
    assert time.monotonic() - started < 40
    assert ended[0].code == 1
    assert "rank 1 (process " in ended[0].said
    assert "did not answer within 4 s" in ended[0].said


def test_a_bug_on_one_rank_is_the_reason_on_all(tmp_path):
    ended = crew(tmp_path, 2, fault="bug")
    assert [one.code for one in ended] == [1, 1]
    assert "KeyError" in ended[1].said
    assert "rank 1 (process " in ended[0].said
    assert "failed first: KeyError: 'a bug'" in ended[0].said


def test_ranks_that_never_come_are_told(monkeypatch, tmp_path):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29713"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=r"rank 0 of 2 found no others at 127\.0\.0\.1:29713 within 1 s"), joined(1.0):
        pass


def test_errors_of_this_rank_pass_as_they_are(tmp_path):
    ended = crew(tmp_path, 2, fault="nan", bad_steps=0)
    assert [one.code for one in ended] == [1, 1]
    # Both ranks raise the same sentence; one of them says it.
    assert sum("not finite: teacher's logits" in one.said for one in ended) == 1
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["event"] == "skip"


def test_a_folder_that_is_in_use_is_told_once(tmp_path):
    ended = crew(tmp_path, 3, do="refused")
    assert [one.code for one in ended] == [2, 2, 2]
    assert [one.said.count("no room here") for one in ended] == [1, 0, 0]
