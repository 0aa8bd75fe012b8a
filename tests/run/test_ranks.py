"""`torchrun … -m potstill run` is `potstill run`: the same run folder, whoever shares the work and whoever dies."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from potstill.core.errors import FolderError
from potstill.folder import RunFolder
from potstill.recipe_yaml import load_recipe
from tests.run.test_stop import Process
from tests.run.tiny_recipe import language_model, write_recipe

TOLERANCE = 1e-5
PATIENCE = 150


def lines(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def same(one, other):
    """Two curves, each number within the tolerance."""
    assert [(row["arm"], row["event"], row["step"]) for row in one] == [
        (row["arm"], row["event"], row["step"]) for row in other
    ]
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            if isinstance(value, float):
                assert math.isclose(value, right[name], rel_tol=0, abs_tol=TOLERANCE), (name, left, right)
            else:
                assert value == right[name]


class Launch(Process):
    """`torchrun --standalone` on this machine."""

    def __init__(self, size, *words):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        self.child = subprocess.Popen(
            [*launcher, "-m", "potstill", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.lines = []

    def ranks(self):
        """The processes of the ranks, by rank."""
        with open(f"/proc/{self.child.pid}/task/{self.child.pid}/children") as file:
            found = [int(word) for word in file.read().split()]
        by_rank = {}
        for process in found:
            with open(f"/proc/{process}/environ", "rb") as file:
                variables = dict(word.split(b"=", 1) for word in file.read().split(b"\0") if b"=" in word)
            by_rank[int(variables[b"RANK"])] = process
        return by_rank


def recipe_of(materials, steps=8, **more):
    """Without dropout, whose numbers depend on who draws them."""
    recipe = language_model(materials)
    train = {"max_steps": steps, "dropout": 0.0, "gradient_accumulation_steps": 2, "eval_steps": 4, "save_steps": 2}
    recipe["train"].update(train | more)
    return recipe


@pytest.fixture(scope="module")
def alone(materials, tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    process = Process("run", write_recipe(root, recipe_of(materials)), "--output-dir", root / "run")
    assert process.ends() == 0, process.said
    return root / "run"


def test_two_ranks_leave_the_run_folder_of_one_process(alone, materials, tmp_path):
    launch = Launch(2, "run", write_recipe(tmp_path, recipe_of(materials)), "--output-dir", tmp_path / "run", "--json")
    said = {}
    out = launch.child.stdout
    code = launch.child.wait(PATIENCE)
    said["out"], said["err"] = out.read(), launch.child.stderr.read()
    out.close()
    launch.child.stderr.close()
    assert code == 0, said["err"]
    assert json.loads(said["out"])["folder"] == str(tmp_path / "run"), "one rank speaks"
    assert said["err"].count("stage student") == 1
    same(lines(alone), lines(tmp_path / "run"))
    assert {path.name for path in alone.rglob("*")} == {path.name for path in (tmp_path / "run").rglob("*")}
    assert json.loads((tmp_path / "run" / "env.json").read_text())["ranks"] == 2
    one, other = (json.loads((run / "findings.json").read_text()) for run in (alone, tmp_path / "run"))
    for left, right in zip(one, other, strict=True):
        assert left["name"] == right["name"]
        if left["name"].startswith("quality"):
            assert math.isclose(left["value"], right["value"], abs_tol=1e-3)


WAYS = {
    "fused": {"objective": {"fused": True}},
    "fused with labels": {"objective": {"fused": True, "hard_weight": 0.5}},
    "projected": {"objective": {"projection": {}}},
    "layers": {"objective": {"layers": {"hidden": 1, "embedding": 1, "cosine": 1, "projection": {}}}},
    "layers alone": {
        "objective": {"soft_weight": 0, "layers": {"hidden": 1, "projection": {}}},
        "train": {"eval_steps": None},
    },
    "stored": {"teacher": {"store": {"form": "hidden-fp32"}}},
    "chosen": {"teacher": {"choose": "closer"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_learn_is_that_of_one_process(materials, tmp_path, way):
    recipe = recipe_of(materials)
    for name, given in WAYS[way].items():
        recipe.setdefault(name, {}).update(given)
    if "choose" in recipe["teacher"]:  # the teacher is its own tutor: right, or the label alone
        recipe["teacher"]["models"] *= 2
    file = write_recipe(tmp_path, recipe)
    one = Process("run", file, "--output-dir", tmp_path / "one")
    assert one.ends() == 0, one.said
    two = Launch(2, "run", file, "--output-dir", tmp_path / "two")
    assert two.ends() == 0, two.said
    same(lines(tmp_path / "one"), lines(tmp_path / "two"))


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_and_one_process_goes_on(alone, materials, tmp_path):
    recipe = write_recipe(tmp_path, recipe_of(materials, save_steps=2))
    launch = Launch(2, "run", recipe, "--output-dir", tmp_path / "run")
    assert launch.until("checkpoint 2/8"), launch.said
    launch.child.send_signal(signal.SIGTERM)
    assert launch.ends() != 0
    assert "saved at step" in launch.said or "stopped by SIGTERM" in launch.said, launch.said
    again = Process("resume", tmp_path / "run")
    assert again.ends() == 0, again.said
    assert "2 ranks before, 1 now" in again.said or "measuring" in again.said
    same(lines(alone), lines(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGKILL, "is gone: killed, out of memory, or cut off"), (signal.SIGSTOP, "did not answer within 6 s")],
)
def test_a_rank_that_dies_or_hangs_ends_the_job_and_the_run_goes_on(materials, tmp_path, number, says):
    """The deadline of a hang: the ranks' patience, the search for the cause, torchrun's wait before it kills."""
    recipe = write_recipe(tmp_path, recipe_of(materials, steps=400, eval_steps=None, save_steps=50))
    words = (recipe, "--output-dir", tmp_path / "run", "--rank-timeout", "6")
    launch = Launch(2, "run", *words)
    assert launch.until("checkpoint 50/400"), launch.said
    process = launch.ranks()[1]
    struck = time.monotonic()
    os.kill(process, number)
    assert launch.ends() == 1
    assert time.monotonic() - struck < 6 + 5 + 30 + 15
    assert f"rank 1 (process {process} on " in launch.said
    assert says in launch.said
    assert "start the same command again" in launch.said
    again = Launch(2, "run", *words)
    assert again.ends() == 0, again.said
    assert re.search(r"start \d+/400 · resumed step-\d+", again.said)
    steps = [row["step"] for row in lines(tmp_path / "run") if row["event"] == "step"]
    assert steps == list(range(1, 401))


@pytest.mark.slow
def test_a_packaged_encoder_on_two_ranks(tmp_path):
    """MiniLM-L6, one of its blocks, on real questions; two ranks, then stopped and gone on with as one."""
    source = {"dataset_name": "packaged:mmlu-subjects", "split": "labelled", "rows": "labelled", "limit": 400}
    recipe = {
        "name": "minilm",
        "task": "classify",
        "data": {
            "train": [source],
            "validation": {**source, "split": "validation", "limit": 64},
            "max_length": 64,
        },
        "student": {"model_name_or_path": "packaged:minilm-l6-v2", "layers": [0], "head": "fresh", "pooling": "mean"},
        "objective": {"soft_weight": 0, "hard_weight": 1},
        "controls": [],
        "train": {
            "max_steps": 6,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-4,
            "eval_steps": 3,
            "save_steps": 2,
            "logging_steps": 1,
            "dropout": 0.0,
            "bf16": False,
        },
    }
    file = write_recipe(tmp_path, recipe)
    one = Process("run", file, "--output-dir", tmp_path / "one")
    assert one.ends() == 0, one.said
    two = Launch(2, "run", file, "--output-dir", tmp_path / "two")
    assert two.ends() == 0, two.said
    same(lines(tmp_path / "one"), lines(tmp_path / "two"))
    stopped = Launch(2, "run", file, "--output-dir", tmp_path / "three")
    assert stopped.until("checkpoint 2/6"), stopped.said
    os.kill(stopped.ranks()[1], signal.SIGTERM)
    assert stopped.ends() == 1
    again = Process("resume", tmp_path / "three")
    assert again.ends() == 0, again.said
    same(lines(tmp_path / "one"), lines(tmp_path / "three"))


def test_a_machine_that_does_not_see_the_folder_is_refused(materials, tmp_path):
    recipe = load_recipe(write_recipe(tmp_path, recipe_of(materials)))
    RunFolder.open(tmp_path / "run", recipe).refuse_unseen(recipe)
    with pytest.raises(FolderError, match="does not see the run that the first rank began there"):
        RunFolder(tmp_path / "elsewhere").refuse_unseen(recipe)
    other = recipe.model_copy(update={"seed": 5})
    with pytest.raises(FolderError, match="these settings differ: seed"):
        RunFolder(tmp_path / "run").refuse_unseen(other)
