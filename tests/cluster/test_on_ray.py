"""Ray starts the programs; where one node is killed, they go on at the other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.cluster.on_ray import connected, exposed
from potstill.core.errors import InputError
from tests.run.tiny_recipe import language_model, make_materials, write_recipe

ROOT = Path(__file__).parents[2]

# The first life never ends by itself; the next one goes on from where it was.
COUNTS = """\
import pathlib, sys, time
# Written aside and renamed: killed in the middle of a write, it would leave an empty file.
place, aside = pathlib.Path("count"), pathlib.Path("count.partial")
done = int(place.read_text()) if place.exists() else 0
print("goes on from", done, flush=True)
for step in range(done, done + (1000 if done == 0 else 5)):
    aside.write_text(str(step + 1))
    aside.replace(place)
    print(step, flush=True)
    time.sleep(0.1)
"""


def colony(tmp_path, programs, mark, patience=150):
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"programs": programs, "directory": str(tmp_path), "grace_seconds": 5}))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "tests.cluster.colony", str(job), str(mark)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patience)


def test_without_tokens_no_cluster_is_used(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InputError, match="without tokens whoever reaches"), connected(None, print):
        pass


@pytest.mark.parametrize(
    ("dashboard", "warns"),
    [("127.0.0.1:8265", False), (None, False), ("", False), ("10.0.0.3:8265", True), ("0.0.0.0:8265", True)],
)
def test_a_dashboard_that_others_can_reach_is_told(dashboard, warns):
    assert bool(exposed(dashboard)) == warns


def lost_and_found(said):
    lines = said.splitlines()
    return lines, lines.index("the first node is killed")


@pytest.mark.slow
def test_the_work_of_a_killed_node_goes_on_at_the_other(tmp_path):
    (tmp_path / "counts.py").write_text(COUNTS)
    done = colony(tmp_path, {"count": {"command": [sys.executable, "counts.py"]}}, tmp_path / "count")
    assert done.returncode == 0, done.stdout + done.stderr
    lines, struck = lost_and_found(done.stdout)
    lost = next(place for place, line in enumerate(lines) if "its machine is lost" in line)
    assert struck < lost
    assert re.search(r"count \| goes on from [1-9]", "\n".join(lines[lost:]))
    assert "count: done" in lines[lost:]


@pytest.mark.slow
def test_a_student_of_two_ranks_and_its_service_move_together(tmp_path):
    """The student resumes from its checkpoint, and is told the service's address anew."""
    recipe = language_model(make_materials(tmp_path))
    recipe["train"].update(max_steps=600, save_steps=20, eval_steps=None, gradient_accumulation_steps=2)
    write_recipe(tmp_path, recipe)
    programs = {
        "teacher": {"command": [sys.executable, "-m", "http.server", "0"], "service": True},
        "student": {
            "command": ["potstill", "run", "recipe.yaml", "--output-dir", "run"],
            "ranks_per_node": 2,
            "environment": {"TEACHER": "http://{teacher.host}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        },
    }
    done = colony(tmp_path, programs, tmp_path / "run/stages/student/precision.json")
    assert done.returncode == 0, done.stdout + done.stderr
    lines, struck = lost_and_found(done.stdout)
    assert sum("student: started on" in line for line in lines) >= 2
    assert any("student | start 0/600" in line for line in lines)
    assert any(re.search(r"start \d+/600 · resumed step-\d+0", line) for line in lines[struck:]), done.stdout
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if row["event"] == "step"] == list(range(1, 601))


@pytest.mark.slow
def test_a_student_over_two_nodes(tmp_path):
    recipe = language_model(make_materials(tmp_path))
    recipe["train"].update(gradient_accumulation_steps=2)
    write_recipe(tmp_path, recipe)
    student = {
        "command": ["potstill", "run", "recipe.yaml", "--output-dir", "run"],
        "nodes": 2,
        "environment": {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    }
    done = colony(tmp_path, {"student": student}, tmp_path / "never")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"student: started on \S+, \S+\n", done.stdout)
    assert json.loads((tmp_path / "run" / "env.json").read_text())["ranks"] == 2


@pytest.mark.slow
def test_what_fails_too_often_ends_the_job_with_its_last_words(tmp_path):
    work = {"command": [sys.executable, "-c", "import sys; sys.exit('the disk is full')"], "restarts": 1}
    done = colony(tmp_path, {"work": work}, tmp_path / "never")
    assert done.returncode == 1
    assert "work ended (exit code 1; failed 2 times), so the job was stopped. Its last lines:" in done.stdout
    assert "  the disk is full" in done.stdout
