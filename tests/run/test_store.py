"""Teach once, train many, as whole runs."""

import json

import pytest

import potstill
from potstill.core.errors import RecipeError, SignalError
from potstill.core.signal import OutputHead
from potstill.students.taps import output_head
from potstill.teachers.local import LocalTeacher
from tests.run.test_run import losses, weights
from tests.run.tiny_recipe import language_model, set_value, write_recipe

STEPS = 9  # a pass is six: the third quarter is read back in the recording run too


@pytest.fixture
def silent(monkeypatch):
    """From now on no teacher may be asked."""

    def asked(self, batch, want):
        raise AssertionError("the teacher was asked again")

    return lambda: monkeypatch.setattr(LocalTeacher, "signal", asked)


def recipe_of(materials, store, **values):
    recipe = language_model(materials)
    recipe["teacher"]["store"] = store
    recipe["data"]["test"] = None
    recipe["train"] |= {"max_steps": STEPS, "eval_steps": None}
    for path, value in values.items():
        set_value(recipe, path.replace("__", "."), value)
    return recipe


def ran(folder, recipe, name):
    record = potstill.run(write_recipe(folder, recipe, f"{name}.yaml"), output_dir=folder / name)
    return folder / name, record


@pytest.mark.parametrize("form", ["hidden-int8", "hidden-fp32", "logits-bf16", "top-k"])
def test_a_run_from_the_store_is_the_recording_run_bit_for_bit(materials, tmp_path, monkeypatch, silent, form):
    """Another output folder, the same store: the curve and the weights are the same, and nobody is asked."""
    monkeypatch.chdir(tmp_path)
    more = {"objective": {"top_k": 7, "temperature": 2.0}} if form == "top-k" else {}
    recipe = recipe_of(materials, {"form": form, "path": "signals"}, **more)
    first, _ = ran(tmp_path, recipe, "first")
    silent()
    second, _ = ran(tmp_path, recipe, "second")
    assert weights(first) == weights(second)
    assert losses(first) == losses(second)
    assert "so far" in (first / "log.txt").read_text()
    assert "it is not asked again" in (second / "log.txt").read_text()
    assert not (first / "stages" / "student" / "signals").exists()


def test_exact_states_are_the_teacher(materials, tmp_path, monkeypatch):
    """fp32 states and the head give the losses of the run without a store, but for the order of summation."""
    monkeypatch.chdir(tmp_path)
    kept, _ = ran(tmp_path, recipe_of(materials, {"form": "hidden-fp32"}), "kept")
    live, _ = ran(tmp_path, recipe_of(materials, None), "live")
    one, other = (losses(run) for run in (kept, live))
    assert [point[:2] for point in one] == [point[:2] for point in other]
    assert [point[2] for point in one if point[2]] == pytest.approx([p[2] for p in other if p[2]], rel=1e-4)
    assert (kept / "stages" / "student" / "signals").is_dir()


def test_another_student_learns_from_the_same_store(materials, tmp_path, monkeypatch, silent):
    monkeypatch.chdir(tmp_path)
    ran(tmp_path, recipe_of(materials, {"path": "signals"}), "first")
    silent()
    ran(tmp_path, recipe_of(materials, {"path": "signals"}, student__every=3, train__learning_rate=1e-2), "second")


def test_a_damaged_shard_is_named_and_rebuilt(materials, tmp_path, monkeypatch):
    """Fault 17."""
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(materials, {"path": "signals"})
    first, _ = ran(tmp_path, recipe, "first")
    shard = next((tmp_path / "signals").rglob("*.rows"))
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    second, _ = ran(tmp_path, recipe, "second")
    assert weights(first) == weights(second)
    assert f"{shard.name} is not as it was written" in (second / "log.txt").read_text()
    third, _ = ran(tmp_path, recipe, "third")
    assert "it is not asked again" in (third / "log.txt").read_text()


def test_a_lost_head_is_taken_from_the_teacher_again(materials, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(materials, {"path": "signals", "form": "hidden-int8"})
    first, _ = ran(tmp_path, recipe, "first")
    next((tmp_path / "signals").rglob("head-*")).write_bytes(b"<html>")
    second, _ = ran(tmp_path, recipe, "second")
    assert weights(first) == weights(second)


def test_teachers_forms_and_precisions_do_not_mix(materials, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, form in (("one", "hidden-bf16"), ("two", "hidden-int8")):
        ran(tmp_path, recipe_of(materials, {"path": "signals", "form": form}), name)
    folders = list((tmp_path / "signals").iterdir())
    assert len(folders) == 2
    assert {json.loads((folder / "store.json").read_text())["terms"]["form"] for folder in folders} == {
        "hidden-bf16",
        "hidden-int8",
    }


def test_an_ensemble_keeps_each_of_its_members(materials, tmp_path, monkeypatch, silent):
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(materials, {"path": "signals"})
    recipe["teacher"]["models"] *= 2
    first, _ = ran(tmp_path, recipe, "first")
    silent()
    second, _ = ran(tmp_path, recipe, "second")
    assert weights(first) == weights(second)


def test_a_head_that_is_not_what_it_seems_is_refused(materials, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "potstill.students.taps.output_head", lambda module: OutputHead(output_head(module).weight_VD, scale=1.1)
    )
    with pytest.raises(SignalError, match="does not give its own logits"):
        ran(tmp_path, recipe_of(materials, {"form": "hidden-fp32"}), "run")


@pytest.mark.parametrize(
    ("changes", "path", "why"),
    [
        ({"teacher.store": {"path": "../elsewhere"}}, "teacher.store.path", "leaves the working directory"),
        ({"teacher.store": {"path": "/etc"}}, "teacher.store.path", "not below the working"),
        ({"teacher.store": {"path": "~/x"}}, "teacher.store.path", "not below the working"),
        ({"teacher.store": {"path": "a\0b"}}, "teacher.store.path", "not below the working"),
        ({"teacher.store": {"path": ""}}, "teacher.store.path", "at least 1"),
        ({"teacher.store": {"form": "top-k"}}, "teacher.store.form", "needs objective.top_k"),
        ({"teacher.store": {"form": "hidden-int4"}}, "teacher.store.form", ""),
        ({"teacher.store": {}, "teacher.cache": True}, "teacher.cache", "keep one of them"),
        ({"teacher.store": {}, "task": "masked-lm"}, "teacher.store", "masks rows anew"),
    ],
)
def test_what_a_recipe_may_not_say(materials, tmp_path, changes, path, why):
    """Fault 27 for the path."""
    recipe = language_model(materials)
    for name, value in changes.items():
        set_value(recipe, name, value)
    with pytest.raises(RecipeError) as caught:
        potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    assert any(fault.path == path and why in fault.reason for fault in caught.value.faults), caught.value
