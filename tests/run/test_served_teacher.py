"""Whole runs whose teacher is served elsewhere: out of a store, measured, beside other teachers, of another shape."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM

import potstill
from potstill.core.errors import RecipeError, SignalError, TeacherError
from potstill.serving import Serving, assembled
from potstill.students.layouts import edited
from potstill.students.settings import ModelSettings
from potstill.teachers.ahead import Ahead
from potstill.teachers.remote import RemoteTeacher
from tests.run.test_run import losses, weights
from tests.run.tiny_recipe import classifier, language_model, prose_rows, set_value, write_recipe, write_rows
from tests.students import tiny
from tests.teachers.served import KEY, Served

STEPS = 9  # a pass is six


@contextlib.contextmanager
def served(folder, **serving):
    found = Served(assembled(Serving(model=ModelSettings(model_name_or_path=str(folder)), **serving)))
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture(autouse=True)
def keyed(monkeypatch, tmp_path):
    monkeypatch.setenv("POTSTILL_KEY", KEY)
    monkeypatch.chdir(tmp_path)


def recipe_of(materials, url, *, test=False, **values):
    recipe = language_model(materials)
    recipe["teacher"] = {"urls": [url], "timeout_s": 60}
    recipe["train"] |= {"max_steps": STEPS, "eval_steps": None}
    if not test:
        recipe["data"]["test"] = None
    for path, value in values.items():
        set_value(recipe, path.replace("__", "."), value)
    return recipe


def ran(folder, recipe, name):
    record = potstill.run(write_recipe(folder, recipe, f"{name}.yaml"), output_dir=folder / name)
    return folder / name, record


def soft(record):
    return [row["part.soft"] for row in record.metrics if row["event"] == "step" and row["arm"] == "student"]


@pytest.fixture
def other(materials, tmp_path):
    """A second teacher of the same shape."""
    folder = shutil.copytree(materials.decoder, tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)
    model.save_pretrained(folder)
    return folder


class TestStore:
    @pytest.mark.parametrize("form", ["hidden-bf16", "hidden-fp32", "hidden-int8", "logits-bf16", "top-k"])
    def test_recorded_once_it_is_the_live_teacher_and_needs_nobody(self, materials, tmp_path, monkeypatch, form):
        """Live, recording, and out of the store with nobody there and no key: one curve, one student, to the bit.
        Questions are asked one by one (prefetch 0), so that a live service has no other company for a row."""
        more = {"objective": {"top_k": 7, "temperature": 2.0}} if form == "top-k" else {}
        text = tmp_path / "calibration.txt"
        text.write_text(" ".join(f"w{4 + step % 56}" for step in range(300)))
        with served(materials.decoder, calibration=text) as service:
            quiet = {**more, "teacher__prefetch": 0, "train__max_steps": 6}
            live, _ = ran(tmp_path, recipe_of(materials, service.http, teacher__form=form, **quiet), "live")
            store = {"form": form, "path": "signals"}
            first, _ = ran(tmp_path, recipe_of(materials, service.http, teacher__store=store, **quiet), "first")
            longer = recipe_of(materials, service.http, teacher__store=store, **more)
            second, _ = ran(tmp_path, longer, "second")
        monkeypatch.delenv("POTSTILL_KEY")
        third, record = ran(tmp_path, longer, "third")
        assert weights(live) == weights(first)
        assert losses(live) == losses(first)
        assert weights(second) == weights(third)
        assert losses(second) == losses(third)
        assert "nobody elsewhere is asked" in (third / "log.txt").read_text()
        entry = next(entry for entry in record.ledger["entries"] if entry["role"] == "teacher")
        assert entry["source"] == str(materials.decoder)

    def test_each_row_is_asked_about_once_and_ahead(self, materials, tmp_path, monkeypatch):
        asked, held = [], []
        real = RemoteTeacher.expect
        monkeypatch.setattr(RemoteTeacher, "expect", lambda *words: (asked.append(words[1].ids), real(*words))[1])
        init = RemoteTeacher.__init__
        monkeypatch.setattr(
            RemoteTeacher, "__init__", lambda self, *w, **k: (held.append(self), init(self, *w, **k))[1]
        )
        looked = []
        monkeypatch.setattr(Ahead, "__init__", counted(looked, Ahead.__init__))
        with served(materials.decoder) as service:
            ran(tmp_path, recipe_of(materials, service.http, teacher__store={}, train__max_steps=18), "run")
        assert looked == [2]
        rows = [row for ids in asked for row in ids]
        # Where the first pass ends two batches are looked at before all rows are there, and none after that.
        assert len(asked) <= 6 + 2
        assert len(rows) - len(set(rows)) <= 2 * 8
        assert not held[0]._sent, "what came with another batch is waited for by nobody"

    def test_killed_it_goes_on_to_the_same_student(self, materials, tmp_path):
        program = (
            "import os, signal, sys, potstill\n"
            "from potstill.train import loop\n"
            "real = loop.save\n"
            "def saved(running):\n"
            "    real(running)\n"
            "    if running.standing.step == 4:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "loop.save = saved\n"
            "potstill.run(sys.argv[1], output_dir=sys.argv[2])\n"
        )
        with served(materials.decoder) as service:
            recipe = recipe_of(materials, service.http, teacher__store={}, teacher__prefetch=0, train__save_steps=2)
            whole, _ = ran(tmp_path, recipe, "whole")
            file = write_recipe(tmp_path, recipe, "cut.yaml")
            words = [sys.executable, "-c", program, str(file), str(tmp_path / "cut")]
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode == -signal.SIGKILL, done.stderr
            potstill.run(file, output_dir=tmp_path / "cut")
        assert weights(tmp_path / "cut") == weights(whole)
        assert losses(tmp_path / "cut") == losses(whole)

    def test_a_damaged_shard_is_rebuilt_from_the_teacher(self, materials, tmp_path):
        with served(materials.decoder) as service:
            recipe = recipe_of(materials, service.http, teacher__store={"path": "signals"}, teacher__prefetch=0)
            first, _ = ran(tmp_path, recipe, "first")
            shard = next((tmp_path / "signals").rglob("*.rows"))
            raw = bytearray(shard.read_bytes())
            raw[len(raw) // 2] ^= 1
            shard.write_bytes(raw)
            second, _ = ran(tmp_path, recipe, "second")
        third, _ = ran(tmp_path, recipe, "third")
        assert f"{shard.name} is not as it was written" in (second / "log.txt").read_text()
        assert weights(first) == weights(second) == weights(third)

    def test_with_a_row_missing_and_nobody_there_it_is_refused(self, materials, tmp_path):
        with served(materials.decoder) as service:
            recipe = recipe_of(materials, service.http, teacher__store={"path": "signals"}, train__max_steps=2)
            ran(tmp_path, recipe, "first")
        with pytest.raises(TeacherError, match="no teacher answers"):
            ran(tmp_path, recipe, "second")

    def test_another_teacher_at_the_address_has_a_store_of_its_own(self, materials, other, tmp_path):
        """Asked only where a row is missing: then it is another one, and nothing of the first is mixed in."""
        with served(materials.decoder) as service:
            port = service.port
            recipe = recipe_of(materials, service.http, teacher__store={"path": "signals"}, train__max_steps=2)
            ran(tmp_path, recipe, "first")
        found = Served(assembled(Serving(model=ModelSettings(model_name_or_path=str(other)))), port=port)
        try:
            ran(tmp_path, recipe, "second")
        finally:
            found.stop()
        assert len({json.loads(path.read_text())["teacher"]["weights"] for path in terms(tmp_path)}) == 2


def terms(folder):
    found = list((folder / "signals").glob("*/store.json"))
    for path in found:
        path.write_text(json.dumps(json.loads(path.read_text())["terms"]))
    return found


def counted(looked, real):
    def init(self, source, depth, *more):
        looked.append(depth)
        real(self, source, depth, *more)

    return init


class TestAgreement:
    def test_it_is_that_with_the_teacher_here(self, materials, tmp_path):
        here = language_model(materials)
        here["train"] |= {"max_steps": STEPS, "eval_steps": None}
        here["controls"] = ["labels"]
        _, local = ran(tmp_path, here, "here")
        with served(materials.decoder) as service:
            recipe = recipe_of(materials, service.http, test=True, teacher__form="hidden-fp32", controls=["labels"])
            root, far = ran(tmp_path, recipe, "far")
        for subject in ("student", "labels"):
            for name in ("agreement.kl", "agreement.top1"):
                assert far.value(name, subject) == pytest.approx(local.value(name, subject), rel=1e-4), (name, subject)
        assert far.finding("agreement.kl").evidence["signals"] == "hidden-fp32"
        assert far.finding("agreement.unmeasured") is None
        assert "as they were sent, `hidden-fp32`" in (root / "report.html").read_text()

    def test_top_entries_show_the_first_choice_and_the_report_says_what_is_lacking(self, materials, tmp_path):
        with served(materials.decoder) as service:
            found = {}
            for form in ("top-k", "hidden-fp32"):
                recipe = recipe_of(materials, service.http, test=True, teacher__form=form, train__max_steps=1)
                recipe["objective"] = {"top_k": 7} if form == "top-k" else {}
                recipe["train"]["learning_rate"] = 1e-12  # the same student twice
                found[form] = ran(tmp_path, recipe, form)
        sparse, dense = found["top-k"][1], found["hidden-fp32"][1]
        assert sparse.value("agreement.top1") == dense.value("agreement.top1")
        assert sparse.finding("agreement.kl") is None
        assert sparse.finding("agreement.unmeasured").evidence["measures"] == ["agreement.kl"]
        page = (found["top-k"][0] / "report.html").read_text()
        assert "Not measured: Distance to the teacher (KL, nats)" in page
        assert "its 7 likeliest entries and no more" in page

    def test_who_is_gone_by_then_is_said_and_ends_no_run(self, materials, tmp_path):
        with served(materials.decoder) as service:
            recipe = recipe_of(materials, service.http, teacher__store={"path": "signals"})
            ran(tmp_path, recipe, "first")
            measured = recipe_of(materials, service.http, test=True, teacher__store={"path": "signals"})
        root, record = ran(tmp_path, measured, "second")
        assert record.finding("agreement.kl") is None
        assert record.value("quality.perplexity") > 1
        assert record.value("agreement.unmeasured") == 2
        assert "no teacher answers" in (root / "report.html").read_text()

    def test_test_rows_are_kept_too(self, materials, tmp_path):
        with served(materials.decoder) as service:
            recipe = recipe_of(materials, service.http, test=True, teacher__store={"path": "signals"})
            _, first = ran(tmp_path, recipe, "first")
        _, second = ran(tmp_path, recipe, "second")
        assert second.value("agreement.kl") == first.value("agreement.kl") > 0

    def test_a_classifier_elsewhere(self, materials, tmp_path):
        alone = classifier(materials)
        alone.update(teacher=None, controls=[], stages=[], objective={"soft_weight": 0, "hard_weight": 1})
        alone["student"] = {"model_name_or_path": str(materials.encoder), "head": "fresh"}
        made, _ = ran(tmp_path, alone, "teacher")
        folder = str(made / "model")
        recipe = classifier(materials)
        recipe.update(stages=[], controls=[], teacher={"models": [{"model_name_or_path": folder}], "cache": True})
        recipe["student"] = {"model_name_or_path": folder, "layers": [0], "head": "fresh"}
        _, here = ran(tmp_path, recipe, "here")
        with served(folder, task="classify") as service:
            recipe["teacher"] = {"urls": [service.http], "cache": True}
            _, far = ran(tmp_path, recipe, "far")
        for name in ("agreement.top1", "agreement.kl"):
            assert far.value(name) == pytest.approx(here.value(name), rel=1e-4)
        assert far.value("quality.accuracy", "teacher") == here.value("quality.accuracy", "teacher")


class TestSeveral:
    @pytest.mark.parametrize("combine", ["arithmetic", "geometric"])
    @pytest.mark.parametrize("store", [None, {"form": "hidden-fp32"}])
    def test_one_here_and_one_elsewhere_are_two_here(self, materials, other, tmp_path, monkeypatch, combine, store):
        divergence = {"arithmetic": "forward_kl", "geometric": "reverse_kl"}[combine]
        more = {"teacher__combine": combine, "teacher__weights": [3, 1], "teacher__store": store}
        more |= {"objective__divergence": divergence, "objective__temperature": 2.0}
        models = [{"model_name_or_path": str(folder)} for folder in (materials.decoder, other)]
        looked = []
        monkeypatch.setattr(Ahead, "__init__", counted(looked, Ahead.__init__))
        with served(other) as service:
            recipe = recipe_of(materials, service.http, **more, teacher__models=models[:1])
            if store is None:
                recipe["teacher"]["form"] = "hidden-fp32"
            _, mixed = ran(tmp_path, recipe, "mixed")
            assert looked == [2], "the one elsewhere is asked ahead"
        recipe = recipe_of(materials, "http://127.0.0.1:1", **more)
        recipe["teacher"] = {**recipe["teacher"], "models": models}
        del recipe["teacher"]["urls"], recipe["teacher"]["timeout_s"]
        _, both = ran(tmp_path, recipe, "both")
        assert soft(mixed) == pytest.approx(soft(both), rel=1e-5)
        assert len(soft(both)) == STEPS

    def test_rows_are_routed_to_one_here_and_one_elsewhere(self, materials, other, tmp_path, monkeypatch):
        rows = [{**row, "kind": "ab"[index % 3 == 0]} for index, row in enumerate(prose_rows(0, 24))]
        source = {"dataset_name": str(write_rows(tmp_path / "rows.jsonl", rows)), "rows": "text"}
        source |= {"columns": {"slices": ["kind"]}}
        routes = {"route_by": "kind", "routes": {"a": 0, "b": 1}}
        models = [{"model_name_or_path": str(folder)} for folder in (materials.decoder, other)]
        looked, found = [], {}
        monkeypatch.setattr(Ahead, "__init__", counted(looked, Ahead.__init__))
        with served(other) as service:
            far = {"urls": [service.http], "form": "hidden-fp32", "models": models[:1]}
            for name, teacher in (("mixed", far), ("both", {"models": models})):
                recipe = recipe_of(materials, service.http, data__train=[source], train__max_steps=6)
                recipe["teacher"] = {**teacher, **routes}
                _, found[name] = ran(tmp_path, recipe, name)
        assert soft(found["mixed"]) == pytest.approx(soft(found["both"]), rel=1e-5)
        assert looked == [2]


class TestShapes:
    @pytest.mark.parametrize("store", [None, {"form": "hidden-fp32"}])
    def test_a_longer_table_elsewhere_is_heard_over_the_shared_rows(self, materials, tmp_path, monkeypatch, store):
        folder = shutil.copytree(materials.decoder, tmp_path / "longer")
        model = AutoModelForCausalLM.from_pretrained(folder)
        model.resize_token_embeddings(68, mean_resizing=False)
        model.save_pretrained(folder)
        here = language_model(materials)
        here["teacher"] = {"models": [{"model_name_or_path": str(folder)}], "vocabulary": "padded"}
        here["train"] |= {"max_steps": STEPS, "eval_steps": None}
        _, local = ran(tmp_path, here, "here")
        looked = []
        monkeypatch.setattr(Ahead, "__init__", counted(looked, Ahead.__init__))
        with served(folder) as service:
            recipe = recipe_of(materials, service.http, test=True, teacher__vocabulary="padded", teacher__store=store)
            if store is None:
                recipe["teacher"]["form"] = "hidden-fp32"
            _, far = ran(tmp_path, recipe, "far")
            set_value(recipe, "teacher.vocabulary", "equal")
            with pytest.raises(SignalError, match=r"60 vocabulary rows and the teacher http\S+ has 68"):
                ran(tmp_path, recipe, "equal")
        assert looked == [2]
        assert soft(far) == pytest.approx(soft(local), rel=1e-5)
        for name, subject in (("signal.padding_mass", "teacher"), ("agreement.kl", "student")):
            assert far.value(name, subject) == pytest.approx(local.value(name, subject), rel=1e-4)

    def test_an_allowance_that_nothing_needs_is_refused(self, materials, tmp_path):
        with served(materials.decoder) as service, pytest.raises(SignalError, match="set it to equal"):
            ran(tmp_path, recipe_of(materials, service.http, teacher__vocabulary="padded"), "run")

    def test_the_fused_loss_takes_the_states_that_were_sent(self, materials, tmp_path):
        here = language_model(materials)
        here["data"]["test"] = None
        here["objective"] = {"fused": True, "soft_weight": 0.5, "hard_weight": 0.5}
        here["train"] |= {"max_steps": STEPS, "eval_steps": None}
        _, local = ran(tmp_path, here, "here")
        with served(materials.decoder) as service:
            for form, rel in (("hidden-fp32", 1e-5), ("hidden-bf16", 1e-2)):
                recipe = recipe_of(materials, service.http, objective=here["objective"], teacher__form=form)
                _, far = ran(tmp_path, recipe, form)
                assert soft(far) == pytest.approx(soft(local), rel=rel)
            stored = recipe_of(materials, service.http, objective=here["objective"], teacher__store={"form": form})
            _, kept = ran(tmp_path, stored, "kept")
        assert soft(kept) == pytest.approx(soft(far), rel=1e-3)

    def test_projections_learn_from_the_states_that_were_sent(self, materials, tmp_path):
        folder = shutil.copytree(materials.decoder, tmp_path / "wider")
        for name in ("config.json", "model.safetensors", "generation_config.json"):
            (folder / name).unlink()
        torch.manual_seed(3)
        config = tiny.tiny("gemma3_text", "causal-lm").config
        Gemma3ForCausalLM(edited(config, {"hidden_size": 24})).save_pretrained(folder)
        objective = {"soft_weight": 0.5, "hard_weight": 0.5, "projection": {}}
        here = language_model(materials)
        here["data"]["test"] = None
        here |= {"teacher": {"models": [{"model_name_or_path": str(folder)}]}, "objective": objective}
        here["train"] |= {"max_steps": STEPS, "eval_steps": None}
        _, local = ran(tmp_path, here, "here")
        with served(folder) as service:
            _, far = ran(
                tmp_path, recipe_of(materials, service.http, objective=objective, teacher__form="hidden-fp32"), "far"
            )
        for part in ("part.projector", "part.projected", "part.teacher_space"):
            curves = [[row[part] for row in one.metrics if row["event"] == "step"] for one in (far, local)]
            assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "path", "why"),
    [
        ({"objective.fused": True, "teacher.form": "logits"}, "objective.fused", "teacher.form is `logits`"),
        ({"objective.fused": True, "teacher.form": "top-k"}, "objective.fused", "teacher.form is `top-k`"),
        ({"objective.projection": {}, "teacher.form": "logits"}, "objective.projection", "teacher.form is `logits`"),
        (
            {"objective.fused": True, "teacher.store": {"form": "logits"}},
            "objective.fused",
            "teacher.store is `logits`",
        ),
        ({"teacher.store": {}, "teacher.form": "hidden-int8"}, "teacher", "what travels is what is kept"),
        ({"teacher.vocabulary": "padded", "teacher.form": "top-k"}, "teacher", "largest entries only"),
        ({"teacher.vocabulary": "aligned"}, "teacher", "for models of this process"),
    ],
)
def test_what_a_recipe_may_not_say(materials, tmp_path, changes, path, why):
    recipe = recipe_of(materials, "http://127.0.0.1:1")
    for name, value in changes.items():
        set_value(recipe, name, value)
    with pytest.raises(RecipeError) as caught:
        potstill.load_recipe(write_recipe(tmp_path, recipe))
    assert any(fault.path.startswith(path) and why in fault.reason for fault in caught.value.faults), caught.value
