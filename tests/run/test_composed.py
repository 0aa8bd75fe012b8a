"""Methods in one recipe: a tutor, layer losses, skew KL and difficult rows, tiny and through the shipped recipe."""

import json

import pytest

import potstill
from potstill.recipe_yaml import load_recipe
from tests.run.test_stop import Process, losses, product
from tests.run.tiny_recipe import classifier, write_recipe

BOTH = {
    "divergence": "skew_kl",
    "alpha": 0.1,
    "layers": {"attention": 0.01, "hidden": 1},
}


def composed(materials):
    """Teacher of four blocks, tutor of two, student of one; the student reads three passes of 96, 72 and 24 rows."""
    recipe = classifier(materials) | {"controls": []}
    train = {name: value for name, value in recipe["train"].items() if name != "save_steps"}
    recipe["stages"].append(
        {
            "name": "tutor",
            "student": {"model_name_or_path": "stage:teacher", "layers": [0, 2]},
            "teacher": {"models": [{"model_name_or_path": "stage:teacher"}]},
            "objective": BOTH,
            "train": train,
        }
    )
    recipe |= {
        "teacher": {"models": [{"model_name_or_path": "stage:tutor"}]},
        "student": {"model_name_or_path": "stage:tutor", "layers": [0], "intermediate_size": 8},
        "objective": BOTH,
        "order": {"difficulty": {"passes": 3, "truth": "teacher"}},
    }
    del recipe["train"]["max_steps"]
    recipe["train"] |= {"save_steps": 1, "dropout": 0.1}
    return recipe


def stage_of(run, name):
    return json.loads((run / "stages" / name / "stage.json").read_text())


def test_four_methods_in_one_recipe_and_after_a_kill(materials, tmp_path):
    """Every part is in the loss, the rows get fewer, and a run that was killed among them ends with the same bits."""
    potstill.run(write_recipe(tmp_path, composed(materials)), output_dir=tmp_path / "whole")
    lines = [line for line in losses(tmp_path / "whole") if line["event"] == "step"]
    for arm in ("tutor", "student"):
        parts = [line for line in lines if line["arm"] == arm]
        assert parts
        assert all(line[f"part.{name}"] > 0 for line in parts for name in ("soft", "attention", "hidden"))
    done = stage_of(tmp_path / "whole", "student")
    assert done["order"]["shares"] == pytest.approx([1, 0.75, 0.25])
    assert done["steps"] == 12 + 9 + 3
    killed = Process("run", write_recipe(tmp_path, composed(materials)), "--output-dir", tmp_path / "cut")
    assert killed.until("stage student"), killed.said
    assert killed.until("checkpoint 14/"), killed.said
    killed.child.kill()
    killed.ends()
    assert Process("resume", tmp_path / "cut").ends() == 0
    assert product(tmp_path / "cut") == product(tmp_path / "whole")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


SMALL = [
    "data.train.0.limit=64", "data.train.1.limit=32", "data.validation.limit=32", "data.test.limit=32",
    "stages.0.train.max_steps=3", "stages.0.train.eval_steps=3",
    "stages.1.train.max_steps=2", "stages.1.train.eval_steps=2",
    "train.per_device_train_batch_size=32", "train.eval_steps=3", "train.save_steps=3", "evaluate.cost=null",
    "evaluate.bootstrap=100", "controls=[]",
]  # fmt: skip


@pytest.mark.slow
def test_the_shipped_recipe_runs(tmp_path):
    record = potstill.run("composed", SMALL, output_dir=tmp_path / "run")
    assert record.value("cost.parameters") < record.value("cost.parameters", "teacher")
    assert stage_of(tmp_path / "run", "student")["order"]["passes"] == 3


def test_each_part_can_be_left_out():
    """As the comment of the recipe says."""
    assert load_recipe("composed", ["order=null", "train.num_train_epochs=2"]).final.order is None
    assert load_recipe("composed", ["objective.layers=null"]).final.objective.layers is None
    plain = load_recipe("composed", ["objective.divergence=forward_kl", "objective.alpha=null"]).final
    assert plain.objective.divergence == "forward_kl"
