"""Whole runs that make their student smaller: jointly, one thing after the other, stopped and gone on."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import potstill
from potstill.compress.grids import quantise
from potstill.compress.integers import load_integers
from potstill.compress.plan_text import load_plan
from potstill.core.errors import InputError, ModelError, RecipeError
from potstill.train import loop, resume
from tests.run.tiny_recipe import classifier, language_model, write_recipe

MOVEMENT = {"start": 0.2, "end": 0.4, "regulariser": 1.0}
JOINT = {"movement": MOVEMENT, "quantise": {"scheme": "int8-static", "rows": 16}}


def joint(materials, **changes):
    """A student of two blocks, pruned and quantised while the teacher teaches it."""
    recipe = classifier(materials)
    recipe["student"]["layers"] = [0, 1]
    recipe["objective"] = {"soft_weight": 1, "hard_weight": 0}
    recipe["train"] |= {"max_steps": 10, "eval_steps": 2, "save_steps": 1}
    recipe["controls"] = []
    recipe["compress"] = {**JOINT, **changes}
    return recipe


def run(folder, recipe):
    return potstill.run(write_recipe(folder, recipe), output_dir=folder / "run")


@pytest.fixture(scope="module")
def undisturbed(materials, tmp_path_factory):
    root = tmp_path_factory.mktemp("joint")
    return root / "run", run(root, joint(materials))


class TestJoint:
    def test_the_student_is_a_plain_smaller_model(self, undisturbed):
        root, record = undisturbed
        stage = root / "stages" / "student"
        plan = load_plan(stage / "plan.json")
        assert plan.after.neurons < plan.before.neurons
        loaded, info = AutoModelForSequenceClassification.from_pretrained(root / "model", output_loading_info=True)
        assert loaded.config.intermediate_size == plan.after.neurons
        assert not any(info.values())
        assert sum(one.numel() for one in loaded.parameters()) == plan.parameters_after
        assert record.value("cost.parameters", "student") == plan.parameters_after

    def test_its_integers_are_those_of_the_saved_weights(self, undisturbed):
        root, _ = undisturbed
        weights = load_file(root / "model" / "model.safetensors")
        integers = load_integers(root / "stages" / "student")
        assert len(integers) == 12
        for name, one in integers.items():
            assert torch.equal(quantise(weights[f"{name}.weight"], one.steps, one.grid), one.codes)

    def test_the_record_says_what_was_pruned_and_what_a_config_gave_back(self, undisturbed):
        root, _ = undisturbed
        told = json.loads((root / "stages" / "student" / "stage.json").read_text())
        movement = told["compress"]["movement"]
        assert movement["masked"] >= movement["joined"] >= movement["settled"] > 0
        assert len(movement["notes"]) >= 1
        assert "pruned: neurons 24 to" in told["model"]
        assert told["compress"]["integers"] == {"layers": 12}
        # No save of a student that still has other shapes or moving ranges was chosen.
        assert told["best_step"] >= 8

    def test_the_curve_has_the_share_that_is_masked_and_the_regulariser(self, undisturbed):
        root, _ = undisturbed
        lines = [json.loads(line) for line in (root / "stages" / "student" / "metrics.jsonl").read_text().splitlines()]
        masked = [line["validation.masked"] for line in lines if "validation.masked" in line]
        assert masked[0] == 0
        assert masked[-1] == masked[-2] > 0
        pressed = [line["step"] for line in lines if "part.importance" in line]
        assert pressed == [4]

    @pytest.mark.parametrize("cut", [*(pytest.param(step, marks=pytest.mark.slow) for step in (1, 2, 3, 5, 7, 8)), 4])
    def test_a_run_that_was_stopped_ends_as_one_that_was_not(self, undisturbed, materials, tmp_path, monkeypatch, cut):
        class Died(Exception):
            pass

        def dying(running):
            resume.save(running)
            if running.plan.folder.name == "student" and running.standing.step == cut:
                raise Died

        with monkeypatch.context() as patch:
            patch.setattr(loop, "save", dying)
            with pytest.raises(Died):
                run(tmp_path, joint(materials))
        torch.rand(cut)
        potstill.resume(tmp_path / "run")
        self.same(undisturbed[0], tmp_path / "run")

    def test_stopped_within_a_step_in_which_something_is_due(self, undisturbed, materials, tmp_path, monkeypatch):
        """Step 4 settles the units: the save describes the moment before it, with what was due done already."""
        real = loop.take_step

        def stopping(plan, *rest, **more):
            if plan.folder.name == "student" and plan.shaping.module.training and stopping.left == 0:
                raise KeyboardInterrupt
            if plan.folder.name == "student":
                stopping.left -= 1
            return real(plan, *rest, **more)

        stopping.left = 4
        with monkeypatch.context() as patch:
            patch.setattr(loop, "take_step", stopping)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, joint(materials))
        potstill.resume(tmp_path / "run")
        self.same(undisturbed[0], tmp_path / "run")

    def same(self, one, two):
        for place in ("stages/student/model/model.safetensors", "stages/student/integers.safetensors"):
            first, second = load_file(one / place), load_file(two / place)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first), place


@pytest.mark.slow
def test_ranges_that_move_go_on_where_they_were(materials, tmp_path, monkeypatch):
    quantise = {"scheme": "int8-static", "rows": 16, "steps": "straight-through"}
    recipe = joint(materials, quantise=quantise)
    run(tmp_path / "whole", recipe)

    def dying(running):
        resume.save(running)
        if running.plan.folder.name == "student" and running.standing.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", recipe)
    potstill.resume(tmp_path / "cut" / "run")
    TestJoint().same(tmp_path / "whole" / "run", tmp_path / "cut" / "run")


def test_one_thing_after_the_other(materials, tmp_path):
    """Prune, then quantise, then go on: stages of one recipe, with the controls of the last."""
    recipe = joint(materials)
    stage = {name: recipe[name] for name in ("teacher", "student", "objective", "train")}
    prune = {"keep": {"blocks": 1}, "remove": {"neurons": 0.5}, "rows": 16}
    recipe["stages"].append({"name": "pruned", **stage, "compress": {"prune": prune}})
    recipe |= {"student": {"model_name_or_path": "stage:pruned"}, "controls": ["labels", "untrained"]}
    recipe["compress"] = {"quantise": {"scheme": "int8-dynamic"}}
    record = run(tmp_path, recipe)
    root = tmp_path / "run"
    plan = load_plan(root / "stages" / "pruned" / "plan.json")
    assert (plan.after.depth, plan.after.neurons) == (1, 12)
    assert AutoModelForSequenceClassification.from_pretrained(root / "model").config.intermediate_size == 12
    assert len(load_integers(root / "stages" / "student")) == 6
    assert len(load_integers(root / "stages" / "labels")) == 6
    assert not (root / "stages" / "untrained" / "integers.json").exists()
    assert record.value("cost.parameters", "student") == plan.parameters_after


def test_a_decoder_loses_blocks_neurons_and_groups_and_bits(materials, tmp_path):
    recipe = language_model(materials)
    recipe["train"] |= {"max_steps": 6}
    movement = {**MOVEMENT, "units": ["neurons", "groups"], "keep": {"groups": 1}}
    recipe["compress"] = {"movement": movement, "quantise": {"scheme": "int8-dynamic"}}
    run(tmp_path, recipe)
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").config
    assert (config.num_hidden_layers, config.num_key_value_heads) == (2, 1)
    assert config.intermediate_size < 24
    assert config.num_attention_heads == 2
    assert config.head_dim == 4


class TestRefusals:
    def fails(self, materials, tmp_path, kind, message, **changes):
        recipe = joint(materials)
        recipe["compress"] = changes.pop("compress", JOINT)
        recipe |= changes
        with pytest.raises(kind, match=message):
            run(tmp_path, recipe)

    def test_heads_of_a_bert_are_refused_before_its_training(self, materials, tmp_path):
        compress = {"movement": {**MOVEMENT, "units": ["heads"]}}
        self.fails(materials, tmp_path, ModelError, "heads: a `bert` config has no head size", compress=compress)
        assert not (tmp_path / "run" / "stages" / "student" / "checkpoints").exists()

    def test_more_units_than_there_are(self, materials, tmp_path):
        compress = {"movement": {**MOVEMENT, "keep": {"neurons": 25}}}
        self.fails(materials, tmp_path, ModelError, "neurons: 25 of 24 cannot be kept", compress=compress)

    @pytest.mark.parametrize(
        ("compress", "message"),
        [
            ({}, "has none of prune, movement and quantise"),
            ({"prune": {}}, "keep and remove are both empty"),
            ({"prune": {"keep": {"neurons": 4}, "remove": {"neurons": 0.5}}}, "neurons is in keep and in remove"),
            ({"prune": {"keep": {"neurons": 4}}, "movement": {}}, "prune and movement contradict each other"),
            ({"movement": {"start": 0.5}}, "start must be earlier"),
            ({"movement": {"units": ["heads", "groups"]}}, "heads or groups, not both"),
            ({"movement": {"keep": {"groups": 1}}}, "keep names groups, which units does not prune"),
            ({"movement": {"end": 0.8}, "quantise": {}}, "before units are settled at movement.end 0.8"),
            ({"movement": {}, "quantise": {"scheme": "int4-weights"}}, "shares a step among 32 inputs"),
            ({"quantise": {"scheme": "int8-dynamic", "rows": 8}}, "rows calibrate static inputs"),
        ],
    )
    def test_what_contradicts_itself(self, materials, tmp_path, compress, message):
        self.fails(materials, tmp_path, RecipeError, message, compress=compress)

    def test_a_frozen_body_does_not_move(self, materials, tmp_path):
        student = {"model_name_or_path": "stage:teacher", "freeze": ["body"]}
        self.fails(materials, tmp_path, RecipeError, "student.freeze holds body still", student=student)

    def test_several_ranks_are_refused_in_a_sentence(self, materials, tmp_path, monkeypatch):
        from potstill.train.ranks import Alone

        monkeypatch.setattr(Alone, "size", 2)
        self.fails(materials, tmp_path, InputError, r"compress \(stage student\): 2 ranks, and movement and quantise")
