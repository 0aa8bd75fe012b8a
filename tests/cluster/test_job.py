"""A job file: what it means, and every fault with its line."""

import pytest

from potstill.cluster.job import load_job
from potstill.core.errors import RecipeError

FINE = """\
programs:
  teacher:
    command: [potstill, serve, model, --port, "8000"]
    service: true
    gpus: 1
  student:
    command: [potstill, run, recipe.yaml, "teacher.url=http://{teacher.host}:8000"]
    nodes: 2
    ranks_per_node: 4
    resources: {fast-disk: 1}
"""


def job(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return load_job(path)


def test_a_job(tmp_path):
    found = job(tmp_path, FINE)
    assert found.programs["student"].ranks == 8
    assert found.programs["student"].leans_on == {"teacher"}
    assert found.programs["teacher"].leans_on == frozenset()
    assert found.address is None


@pytest.mark.parametrize(
    ("old", "new", "place", "reason"),
    [
        ("gpus: 1", "gpus: -1", "job.yaml:5:11: `programs.teacher.gpus`", "greater than or equal to 0"),
        ("gpus: 1", "gpu: 1", "job.yaml:5:5: `programs.teacher.gpu`", "is not a setting here"),
        ("nodes: 2", 'nodes: "2"', "job.yaml:8:12: `programs.student.nodes`", "valid integer"),
        ("{teacher.host}", "{teach.host}", "job.yaml", "student names the host of teach, which is no program"),
        ("service: true", "service: false", "job.yaml", "names the host of a program that is no service"),
        ("[potstill, run,", "[python, run,", "job.yaml", "are for `potstill`, and the command is python"),
        ("  student:\n", "  Student:\n", "job.yaml", "should match pattern"),
        (FINE, "", "job.yaml:1:1", "programs"),
        (FINE, "programs: {a: {command: [x], service: true}}", "job.yaml:1", "the job would never end"),
    ],
)
def test_a_fault_is_placed(tmp_path, old, new, place, reason):
    assert old in FINE
    with pytest.raises(RecipeError) as caught:
        job(tmp_path, FINE.replace(old, new))
    assert place in str(caught.value)
    assert reason in str(caught.value)
