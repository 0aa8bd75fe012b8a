"""Ray starts the programs; where one node is killed, they go on at the other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.cluster.on_ray import connected, exposed
from potstill.core.errors import InputError

ROOT = Path(__file__).parents[2]

COUNTS = """\
import pathlib, sys, time
place = pathlib.Path(sys.argv[1])
done = int(place.read_text()) if place.exists() else 0
print("goes on from", done, flush=True)
for step in range(done, 30):
    place.write_text(str(step + 1))
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


@pytest.mark.slow
def test_the_work_of_a_killed_node_goes_on_at_the_other(tmp_path):
    """A service and its user, both on the first node until it dies."""
    (tmp_path / "counts.py").write_text(COUNTS)
    programs = {
        "count": {"command": [sys.executable, "counts.py", "count"], "cpus": 1},
    }
    done = colony(tmp_path, programs, tmp_path / "count")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines.index("count | goes on from 0") < lines.index("the first node is killed")
    again = next(line for line in lines if "goes on from" in line and not line.endswith(" 0"))
    assert lines.index(again) > lines.index("the first node is killed")
    assert any("its machine is lost" in line for line in lines)
    assert (tmp_path / "count").read_text() == "30"
    assert "canary" not in done.stdout
