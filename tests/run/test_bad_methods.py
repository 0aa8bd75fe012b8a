"""What a method cannot work with, as a user meets it: the command says what is wrong, where, and what to do, and exits
with 2 before the first step; or goes on soundly where there is a sound way."""

import json
import math

import numpy as np
import pytest

from potstill import ordering
from potstill.cli.main import main
from tests.run.test_layers import LAYERS, SIZE, tinybert
from tests.run.test_order import MASTERY, by_skill, difficult, skilled
from tests.run.test_rollout import recipe_of
from tests.run.tiny_recipe import write_recipe, write_rows

assert skilled, "the fixture"


def refused(folder, recipe, capsys):
    """What the command says of it."""
    assert main(["run", str(write_recipe(folder, recipe)), "--output-dir", str(folder / "run")]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([2, 2], "map: 2 comes after 2: name each state once, in increasing order"),
        ([2, 1], "map: 1 comes after 2: name each state once, in increasing order"),
        ([2], "map names 1 teacher states and the student has 2 blocks: name one for each"),
        ([1, 2, 3], "map names 3 teacher states and the student has 2 blocks: name one for each"),
        ([1, 5], "state 5 is out of range"),
        ([0, 1], "must be at least 1; it is 0"),
    ],
)
def test_a_layer_map_that_repeats_skips_or_leaves_the_teacher(materials, tmp_path, capsys, states, words):
    recipe = tinybert(materials)
    recipe["stages"][1]["objective"]["layers"] = LAYERS | {"map": states}
    assert words in refused(tmp_path, recipe, capsys)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"num_attention_heads": 3}, "hidden_size 8 is not a multiple of num_attention_heads 3"),
        ({"num_key_value_heads": 4}, "num_attention_heads 2 is not a multiple of num_key_value_heads 4"),
    ],
)
def test_a_head_count_that_does_not_divide(materials, tmp_path, capsys, size, words):
    recipe = tinybert(materials)
    recipe["stages"][1]["student"]["size"] = SIZE | size
    said = refused(tmp_path, recipe, capsys)
    assert words in said
    assert "stages.1.student.size" in said


def test_heads_that_cannot_be_paired(materials, tmp_path, capsys):
    recipe = tinybert(materials)
    recipe["stages"][1]["student"]["size"] = SIZE | {"num_attention_heads": 4}
    assert "the student has 4 and the teacher 2: give the student 2 heads" in refused(tmp_path, recipe, capsys)


def test_prerequisites_that_form_a_circle(materials, skilled, tmp_path, capsys):
    order = {
        "mastery": MASTERY["mastery"] | {"prerequisites": {"add": ["times"], "carry": ["add"], "times": ["carry"]}}
    }
    said = refused(tmp_path, by_skill(materials, skilled, order), capsys)
    assert "prerequisites form a circle: add -> times -> carry -> add" in said


def test_an_empty_prompt_of_a_student_that_writes(materials, tmp_path, capsys):
    rows = [{"prompt": "w5 w6", "completion": "w7 w8"}, {"prompt": "", "completion": "w9 w10 w11"}] * 8
    recipe = recipe_of(materials, {"lmbda": 1.0, "max_new_tokens": 4}, eval_steps=None)
    source = {"dataset_name": str(write_rows(tmp_path / "rows.jsonl", rows)), "rows": "completion"}
    recipe["data"].update(train=[source], validation=None, test=None)
    assert "rows.jsonl:2: empty text: `prompt` has no characters" in refused(tmp_path, recipe, capsys)


def test_a_teacher_that_loses_nothing_ranks_by_what_the_student_loses(materials, tmp_path, monkeypatch):
    """Half of the rows with a loss of exactly zero: no infinite ratio, the run goes through, and the rows that the last
    pass keeps are among those."""
    asked = ordering.RowLosses.teacher
    kept = []
    monkeypatch.setattr(
        ordering.RowLosses, "teacher", lambda self: np.where(np.arange(len(self.rows)) % 2 == 0, 0.0, asked(self))
    )
    begin = ordering.DifficultBatches._begin
    monkeypatch.setattr(ordering.DifficultBatches, "_begin", lambda self, one: kept.append(one) or begin(self, one))
    recipe = difficult(materials) | {"order": {"difficulty": {"passes": 3, "truth": "teacher", "tau": 0.0}}}
    recipe["train"] |= {"gradient_accumulation_steps": 1}
    assert main(["run", str(write_recipe(tmp_path, recipe)), "--output-dir", str(tmp_path / "run")]) == 0
    hardest = np.flatnonzero(kept[-1])
    assert len(hardest) == 24
    assert (hardest % 2 == 0).all()
    steps = [json.loads(line) for line in (tmp_path / "run/stages/student/metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in steps if row["event"] == "step")
