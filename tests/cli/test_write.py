"""`potstill write` as a person runs it: resumed after kill -9, secrets never told, signals, budgets, wrong files."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from potstill.cli.main import main
from potstill.core.errors import RecipeError
from potstill.recipe_yaml import load_writing_job
from tests.teachers.fake_endpoint import reply, serving

SOURCE = str(Path(__file__).parents[2] / "src")
KEY = "canary-77c0-of-the-writer"


def job_file(folder, url, number=6, **more):
    rows = [{"prompt": f"What is {index} + 1?"} for index in range(number)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {
        "prompts": {"dataset_name": str(folder / "prompts.jsonl"), "rows": "text", "columns": {"text": "prompt"}},
        "endpoint": {"url": url},
        **more,
    }
    (folder / "job.yaml").write_text(json.dumps(job, indent=1))
    return str(folder / "job.yaml")


def answer(route, body, number):
    return reply(f"{body['messages'][-1]['content']} {body['seed']}", prompt_tokens=4, completion_tokens=6)


def start(words, folder, **environment):
    command = [sys.executable, "-m", "potstill", *words]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_job_from_file_to_parquet_and_again_for_nothing(tmp_path, capsys):
    with serving(answer) as endpoint:
        file = job_file(tmp_path, endpoint.url, sampling={"samples": 2})
        assert main(["write", file, "--output", "out/answers.parquet", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        asked = len(endpoint.asked)
        assert main(["write", file, "--output", "out/answers.parquet"]) == 0
        assert len(endpoint.asked) == asked == 12
    assert "12 answers by black-1, 120 tokens" in capsys.readouterr().out
    assert (record["complete"], record["kept"], record["tokens"]) == (True, 12, 120)
    rows = pq.read_table("out/answers.parquet").to_pylist()
    assert [(row["index"], row["sample"]) for row in rows] == [(i, s) for i in range(6) for s in range(2)]
    assert json.loads(Path("out/answers.parquet.json").read_text()) == record
    assert sorted(os.listdir("out")) == ["answers.parquet", "answers.parquet.json"]


def test_another_job_does_not_touch_the_output(tmp_path, capsys):
    with serving(answer) as endpoint:
        file = job_file(tmp_path, endpoint.url, output="a.jsonl")
        assert main(["write", file]) == 0
        before = Path("a.jsonl").read_bytes()
        assert main(["write", file, "seed=1"]) == 2
    assert "another job" in capsys.readouterr().err
    assert Path("a.jsonl").read_bytes() == before


def test_killed_again_and_again_it_writes_what_it_would_have_written_undisturbed(tmp_path):
    def slowly(route, body, number):
        time.sleep(0.01)
        return answer(route, body, number)

    draw, kills = random.Random(3), 0
    with serving(slowly) as endpoint:
        file = job_file(tmp_path, endpoint.url, number=150, sampling={"samples": 2})
        for sitting in range(40):
            running = start(["write", file, "--output", "killed.jsonl"], tmp_path)
            before = len(endpoint.asked)
            while running.poll() is None and len(endpoint.asked) == before:
                time.sleep(0.005)
            try:
                running.wait(draw.uniform(0.01, 0.2) if sitting < 10 else 60)
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
                kills += 1
            running.communicate()
            if running.returncode == 0:
                break
        asked = len(endpoint.asked)
        assert main(["write", file, "--output", "whole.jsonl"]) == 0
    assert kills == 10
    assert Path("killed.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert len(Path("killed.jsonl").read_text().splitlines()) == 300
    # A kill costs the answers that were on their way, and no others: 4 at a time.
    assert 300 <= asked <= 300 + kills * 4


def test_a_signal_ends_it_at_once_and_the_same_command_goes_on(tmp_path):
    def slowly(route, body, number):
        time.sleep(0.05)
        return answer(route, body, number)

    with serving(slowly) as endpoint:
        file = job_file(tmp_path, endpoint.url, number=400)
        running = start(["write", file, "--output", "a.jsonl"], tmp_path)
        while len(endpoint.asked) < 12:
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, said = running.communicate(timeout=20)
        assert running.returncode == 143
        assert time.monotonic() - began < 5
        assert "run the same command again" in said
        kept = Path("a.jsonl.writing/journal.jsonl").read_text().splitlines()
    assert 4 <= len(kept) <= 40


def test_the_key_is_in_no_file_and_on_no_screen(tmp_path, monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)

    def quoting(route, body, number):
        return answer(route, body, number) if number < 4 else (400, {"error": {"message": f"bad key {KEY}"}})

    with serving(quoting) as endpoint:
        file = job_file(tmp_path, endpoint.url, output="a.jsonl")
        (tmp_path / "key").write_text(KEY)
        job = json.loads(Path(file).read_text())
        job["endpoint"]["key_file"] = "key"
        Path(file).write_text(json.dumps(job))
        said = ""
        for more in ([], ["--json"], ["--traceback"]):
            running = start(
                ["write", file, *more] if "--traceback" not in more else ["--traceback", "write", file], tmp_path
            )
            said += "".join(running.communicate(timeout=60))
            assert running.returncode == 1
        assert endpoint.headers["Authorization"] == f"Bearer {KEY}"
    (tmp_path / "key").unlink()
    assert "[redacted]" in said
    assert KEY not in said
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path, capsys):
    file = job_file(tmp_path, f"http://me:{KEY}@127.0.0.1:9/v1", output="a.jsonl")
    for more in ([], ["--json"]):
        assert main(["write", file, *more]) == 2
        told = "".join(capsys.readouterr())
        assert KEY not in told
        assert "environment variable" in told


def test_two_writers_do_not_share_an_output(tmp_path, capsys):
    from potstill.train.lock import RunLock

    with serving(answer) as endpoint:
        file = job_file(tmp_path, endpoint.url, output="a.jsonl")
        with RunLock(Path("a.jsonl.writing")):
            assert main(["write", file]) == 2
    assert "in use by process" in capsys.readouterr().err


def test_the_budget_is_told_and_what_there_is_is_published(tmp_path, capsys):
    with serving(answer) as endpoint:
        file = job_file(tmp_path, endpoint.url, output="a.jsonl", sampling={"max_tokens": 10}, budget=30)
        assert main(["write", file]) == 0
        assert "raise budget and run the same command again" in capsys.readouterr().out
        assert len(Path("a.jsonl").read_text().splitlines()) == 3
        assert main(["write", file, "budget=1000"]) == 0
    assert len(Path("a.jsonl").read_text().splitlines()) == 6


def test_all_rejected_is_a_failure_with_the_reason(tmp_path, capsys):
    with serving(reply("  ")) as endpoint:
        assert main(["write", job_file(tmp_path, endpoint.url, output="a.jsonl")]) == 1
    assert "all 6 answers were rejected (empty answer: 6)" in capsys.readouterr().err
    assert not Path("a.jsonl").exists()
    assert len(Path("a.jsonl.writing/journal.jsonl").read_text().splitlines()) == 6


def test_every_fault_of_a_job_has_its_line(tmp_path):
    text = """\
prompts: {dataset_name: p.jsonl, rows: labelled}
endpoint: {url: nowhere, tiemout: 3}
sampling:
  samples: 2
  temperature: 0
  templat: x
output: ../up.jsonl
bugdet: 3
"""
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_writing_job(tmp_path / "job.yaml")
    told = [(fault.line, fault.path, fault.suggestion) for fault in caught.value.faults]
    assert (2, "endpoint.tiemout", "timeout") in told
    assert (6, "sampling.templat", "template") in told
    assert (8, "bugdet", "budget") in told
    assert {line for line, _, _ in told} >= {2, 4, 6, 8}
    assert not any(re.search("recipe", fault.reason) for fault in caught.value.faults)


def test_output_is_needed(tmp_path, capsys):
    assert main(["write", job_file(tmp_path, "http://127.0.0.1:9/v1")]) == 2
    assert "--output" in capsys.readouterr().err
