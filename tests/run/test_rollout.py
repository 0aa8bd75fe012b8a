"""Whole runs whose student learns from its own text: which text that is, and that a stopped run ends the same."""

import json

import pytest

import potstill
from potstill.cli.main import main
from potstill.core.errors import DataError
from potstill.data.encoded import encoded_row
from potstill.onpolicy import refuse_empty_prompts
from potstill.students import sample
from potstill.train.settings import RolloutSettings
from tests.run.test_ranks import Launch, same
from tests.run.test_ranks import lines as all_lines
from tests.run.test_stop import Process, losses, product
from tests.run.test_teacher_elsewhere import elsewhere
from tests.run.tiny_recipe import language_model, write_recipe, write_rows
from tests.teachers.served import remote
from tests.train.test_rollout import WAYS, OnPolicy
from tests.train.tiny_run import curve, digest

GKD = {"lmbda": 0.5, "prompt_tokens": 4, "max_new_tokens": 6}
DISTILLM = {
    "adaptive": {"start": 0.6, "rise": 0.3, "capacity": 16},
    "prompt_tokens": 4,
    "max_new_tokens": 6,
}


def recipe_of(materials, rollout, steps=8, objective=None, **more):
    recipe = language_model(materials)
    recipe["rollout"] = rollout
    recipe["objective"] = objective or {"divergence": "jensen_shannon", "beta": 0.5}
    recipe["train"].update({"max_steps": steps, "eval_steps": 2, "save_steps": 2, **more})
    return recipe


def run(folder, recipe):
    return potstill.run(write_recipe(folder, recipe), output_dir=folder / "run")


def origins(folder):
    return json.loads((folder / "run" / "stages" / "student" / "stage.json").read_text())["rollout"]


def test_a_share_of_nothing_is_the_run_without_a_rollout(materials, tmp_path):
    recipe = recipe_of(materials, {**GKD, "lmbda": 0.0})
    run(tmp_path / "with", recipe)
    run(tmp_path / "without", {**recipe, "rollout": None})
    assert product(tmp_path / "with" / "run") == product(tmp_path / "without" / "run")
    assert losses(tmp_path / "with" / "run") == losses(tmp_path / "without" / "run")


@pytest.mark.parametrize(
    "objective",
    [
        {"divergence": "jensen_shannon", "beta": 0.5},
        {"divergence": "skew_kl", "alpha": 0.1, "fused": True},
        {"divergence": "skew_reverse_kl", "alpha": 0.1, "hard_weight": 0.5},
        {"divergence": "adaptive_kl", "fused": True, "hard_weight": 0.5},
    ],
    ids=lambda objective: "-".join(objective),
)
def test_every_objective_learns_from_both_kinds_of_text(materials, tmp_path, objective):
    """The control on labels alone is taught nothing, so it writes nothing."""
    recipe = recipe_of(materials, GKD, objective=objective)
    recipe["controls"] = ["labels"]
    record = run(tmp_path, recipe)
    found = origins(tmp_path)
    assert found["data"] + found["written"] == 8
    assert min(found["data"], found["written"]) > 0
    assert 8 * found["written"] <= found["new_tokens"] <= 6 * 8 * found["written"]
    assert record.value("quality.perplexity") > 0
    assert "rollout" not in json.loads((tmp_path / "run" / "stages" / "labels" / "stage.json").read_text())


def test_the_student_goes_on_from_the_rows_that_an_order_chose(materials, tmp_path, monkeypatch):
    """Every batch is written, so the prompts of a pass are those of its rows: all 46, then the 23 which the
    student found difficult, or which were drawn from the rest."""
    given, write = [], sample.left_padded
    monkeypatch.setattr(sample, "left_padded", lambda prompts: (given.extend(map(tuple, prompts)), write(prompts))[1])
    order = {"difficulty": {"passes": 2}}
    recipe = recipe_of(materials, {**GKD, "lmbda": 1.0}) | {"order": order}
    recipe["train"]["max_steps"] = 9
    run(tmp_path, recipe)
    found = origins(tmp_path)
    assert (found["data"], found["written"], len(given)) == (0, 9, 46 + 23)
    assert set(given[46:]) <= set(given[:46])


def test_a_conversation_is_continued_at_its_last_turn(materials, tmp_path, monkeypatch):
    recipe = language_model(materials, suffix="-messages", rows="messages")
    recipe["rollout"] = {"lmbda": 1.0, "max_new_tokens": 5}
    given = []
    write = sample.left_padded
    monkeypatch.setattr(sample, "left_padded", lambda prompts: (given.extend(map(len, prompts)), write(prompts))[1])
    run(tmp_path, recipe)
    # "w4", three words of the user, and "w5", which opens the answer.
    assert set(given) == {5}
    assert origins(tmp_path)["data"] == 0


ORDERS = {
    "gkd": (GKD, None),
    "distillm": (DISTILLM, None),
    "gkd-difficult": (GKD, {"difficulty": {"passes": 3}}),
    "distillm-difficult": (DISTILLM, {"difficulty": {"passes": 3}}),
}


@pytest.mark.parametrize(("rollout", "order"), ORDERS.values(), ids=ORDERS)
def test_a_killed_run_goes_on_to_the_same_weights(materials, tmp_path, rollout, order):
    """46 rows in batches of 8: with difficulty the second pass begins at step 7, the third at step 12."""
    recipe = recipe_of(materials, rollout, steps=12) | {"order": order}
    run(tmp_path / "whole", recipe)
    killed = Process("run", write_recipe(tmp_path / "cut", recipe), "--output-dir", tmp_path / "cut" / "run")
    assert killed.until("checkpoint 6/12"), killed.said
    killed.child.kill()
    killed.ends()
    run(tmp_path / "cut", recipe)
    assert product(tmp_path / "cut" / "run") == product(tmp_path / "whole" / "run")
    assert losses(tmp_path / "cut" / "run") == losses(tmp_path / "whole" / "run")
    assert origins(tmp_path / "cut") == origins(tmp_path / "whole")
    if rollout is DISTILLM:
        assert origins(tmp_path / "cut")["replayed"] > 0
    if order is not None:
        shares = json.loads((tmp_path / "cut" / "run" / "stages" / "student" / "stage.json").read_text())["order"]
        assert shares["shares"] == pytest.approx([1, 0.75, 0.25])


@pytest.mark.slow
@pytest.mark.parametrize("rollout", [GKD, DISTILLM], ids=["gkd", "distillm"])
def test_two_ranks_learn_from_the_text_of_one(materials, tmp_path, rollout):
    recipe = recipe_of(materials, rollout, dropout=0.0, gradient_accumulation_steps=2)
    run(tmp_path / "one", recipe)
    two = Launch(2, "run", write_recipe(tmp_path / "two", recipe), "--output-dir", tmp_path / "two" / "run")
    assert two.ends() == 0, two.said
    same(all_lines(tmp_path / "one" / "run"), all_lines(tmp_path / "two" / "run"))
    assert origins(tmp_path / "one") == origins(tmp_path / "two")


@pytest.mark.parametrize("way", WAYS)
def test_a_teacher_elsewhere_comments_on_it_as_one_here(tmp_path, way):
    here = OnPolicy(tmp_path / "here", WAYS[way])
    here.run()
    with elsewhere(tmp_path) as served:
        there = OnPolicy(tmp_path / "there", WAYS[way], teacher=remote(served.http, tmp_path))
        there.run()
    assert digest(there.module) == digest(here.module)
    assert curve(tmp_path / "there") == curve(tmp_path / "here")
    assert there.source.counts["written"] > 0


def test_an_empty_prompt_is_refused_where_the_row_is_read(materials, tmp_path):
    rows = [{"prompt": "w5 w6", "completion": "w7 w8"}, {"prompt": "", "completion": "w9 w10 w11"}] * 8
    recipe = language_model(materials)
    source = {"dataset_name": str(write_rows(tmp_path / "rows.jsonl", rows)), "rows": "completion"}
    recipe["data"].update(train=[source], validation=None, test=None, max_length=16)
    recipe["train"].update(eval_steps=None)
    recipe["rollout"] = {"lmbda": 1.0, "max_new_tokens": 4}
    with pytest.raises(DataError, match=r"rows\.jsonl:2: empty text: `prompt` has no characters"):
        run(tmp_path, recipe)


def test_a_row_that_is_learnt_from_its_first_token_has_nothing_to_go_on_from():
    """As a conversation has that the assistant opens."""
    rows = [encoded_row(("a",), [5, 6, 7], [False, True, True]), encoded_row(("b",), [5, 6, 7])]
    with pytest.raises(DataError, match=r"\(b\) has an empty prompt, so the student has nothing to go on from"):
        refuse_empty_prompts(rows, RolloutSettings(lmbda=1.0))
    refuse_empty_prompts(rows[:1], RolloutSettings(lmbda=1.0))
    refuse_empty_prompts(rows, RolloutSettings(lmbda=1.0, prompt_tokens=2))


def test_a_text_that_would_outgrow_a_model_is_refused(materials, tmp_path, capsys):
    file = write_recipe(tmp_path, recipe_of(materials, {**GKD, "max_new_tokens": 61}))
    assert main(["run", str(file), "--output-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "a prompt of 4 with rollout.max_new_tokens is 65" in said
    assert "reads at most 64 tokens" in said
