"""Chains of teachers as whole runs: hashes that chain, choices that equal what they must, and hops that stop paying."""

import json
import random
import shutil
import signal
import time

import pytest
from safetensors.torch import load_file

import potstill
from potstill.cli.main import main
from potstill.core.errors import DataError, FolderError, RecipeError
from potstill.still import resume
from potstill.train import resume as resuming
from tests.run.test_stop import Process, losses, product
from tests.run.tiny_recipe import classifier, language_model, set_value, write_recipe


def stage(name, student, teacher, steps=4, **more):
    """A link of a chain."""
    taught = {"teacher": {"models": [{"model_name_or_path": f"stage:{one}"} for one in teacher], "cache": True}}
    train = {"max_steps": steps, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1}
    return {"name": name, "student": student, **taught, "train": {**train, "bf16": False}, **more}


def takd(materials, hops=2):
    """A teacher of two blocks, and as many tutors of one; the student is a narrow one."""
    recipe = classifier(materials) | {"controls": []}
    before = "teacher"
    for hop in range(hops):
        recipe["stages"].append(stage(f"tutor-{hop}", {"model_name_or_path": "stage:teacher", "layers": [0]}, [before]))
        before = f"tutor-{hop}"
    recipe["teacher"]["models"] = [{"model_name_or_path": f"stage:{before}"}]
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    recipe["student"] = {"model_name_or_path": "stage:teacher", "size": size}
    recipe["train"] |= {"max_steps": 6, "eval_steps": 3}
    return recipe


def teid(materials, choose="closer", **changes):
    """A teacher, its tutor, and a student of one block that learns from either."""
    recipe = takd(materials, hops=1)
    recipe["teacher"] = {
        "models": [{"model_name_or_path": "stage:teacher"}, {"model_name_or_path": "stage:tutor-0"}],
        "cache": True,
        "choose": choose,
    }
    recipe["student"] = {"model_name_or_path": "stage:teacher", "layers": [0]}
    for path, value in changes.items():
        set_value(recipe, path.replace("__", "."), value)
    return recipe


def done(run, name="student"):
    return json.loads((run / "stages" / name / "stage.json").read_text())


def weights(run, name="student"):
    return (run / "stages" / name / "model" / "model.safetensors").read_bytes()


def steps_of(run, name="student"):
    lines = (run / "stages" / name / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == "step"]


@pytest.fixture(scope="module")
def chain(materials, tmp_path_factory):
    """teacher -> tutor-0 -> tutor-1 -> student: three hops; read only."""
    root = tmp_path_factory.mktemp("chain")
    record = potstill.run(write_recipe(root, takd(materials)), output_dir=root / "run")
    return root / "run", record


def test_each_hops_teacher_is_the_product_of_the_hop_before(chain):
    run, record = chain
    entries = {entry["role"]: entry for entry in record.ledger["entries"] if entry["role"].startswith("stage")}
    links = [("tutor-0", "teacher"), ("tutor-1", "tutor-0"), ("student", "tutor-1")]
    for name, before in links:
        (teacher,) = [one for one in entries[f"stage {name}"]["parents"] if one["role"] == "teacher"]
        assert teacher == {"role": "teacher", "name": f"stage:{before}", "hash": entries[f"stage {before}"]["hash"]}
    hashes = [entry["hash"] for entry in entries.values()]
    assert len(set(hashes)) == 4
    assert all(len(one) == 16 for one in hashes)
    page = (run / "report.html").read_text()
    assert f"taught by stage:tutor-1 <code>{entries['stage tutor-1']['hash']}</code>" in page


def test_a_link_that_was_changed_is_refused(chain, tmp_path):
    """The student's stage is to be done again, and somebody put the teacher's weights into the tutor's place."""
    run = shutil.copytree(chain[0], tmp_path / "run")
    shutil.rmtree(run / "stages" / "student")
    shutil.rmtree(run / "stages" / "tutor-1" / "model")
    shutil.copytree(run / "stages" / "tutor-0" / "model", run / "stages" / "tutor-1" / "model")
    ours, theirs = done(run, "tutor-1")["hash"], done(run, "tutor-0")["hash"]
    with pytest.raises(FolderError, match=f"hash {theirs}, and stage tutor-1 left {ours}.*restore the folder, or"):
        resume(run)


def test_always_the_tutor_is_the_plain_chain_bit_for_bit(materials, tmp_path):
    """And always the teacher is distillation without the tutor. With dropout, unlabelled rows and padding."""
    trained = {}
    for choose in ("teacher", "tutor", "closer"):
        recipe = teid(materials, choose, train__dropout=0.2, train__gradient_accumulation_steps=2)
        potstill.run(write_recipe(tmp_path, recipe, f"{choose}.yaml"), output_dir=tmp_path / choose)
        trained[choose] = weights(tmp_path / choose)
    for choose, name in (("teacher", "teacher"), ("tutor", "tutor-0")):
        recipe = teid(materials, train__dropout=0.2, train__gradient_accumulation_steps=2)
        recipe["teacher"] = {"models": [{"model_name_or_path": f"stage:{name}"}], "cache": True}
        potstill.run(write_recipe(tmp_path, recipe, f"{name}-alone.yaml"), output_dir=tmp_path / f"{name}-alone")
        assert trained[choose] == weights(tmp_path / f"{name}-alone"), choose
        assert all(row[f"share.{choose}"] == 1 for row in steps_of(tmp_path / choose))
    assert len(set(trained.values())) == 3, "they teach differently"


def test_shares_are_logged_and_drawn_and_the_tutor_learns_nothing(materials, tmp_path):
    recipe = teid(materials, train__max_steps=12, stages__1__train__max_steps=12)
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    rows = steps_of(tmp_path / "run")
    assert len(rows) == 12
    names = [f"share.{name}" for name in ("teacher", "tutor", "label")]
    assert all(sum(row[name] for name in names) == pytest.approx(1, abs=1e-6) for row in rows)
    assert all(any(row[name] > 0 for row in rows) for name in names), "each has taught"
    assert "Who taught" in (tmp_path / "run" / "report.html").read_text()
    assert record.value("quality.accuracy", "teacher") is not None, "held against the teacher, not the tutor"
    loaded = {one["name"]: one["hash"] for one in done(tmp_path / "run")["parents"]}
    assert loaded["stage:tutor-0"] == done(tmp_path / "run", "tutor-0")["hash"]


def test_teachers_that_are_asked_live_teach_the_same(materials, tmp_path):
    """Without recorded answers, where a classifier is read in batches of the student."""
    for name, cache in (("cached", True), ("live", False)):
        recipe = teid(materials, teacher__cache=cache)
        potstill.run(write_recipe(tmp_path, recipe, f"{name}.yaml"), output_dir=tmp_path / name)
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("cached", "live"))
    assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-4


@pytest.mark.parametrize(("task", "suffix"), [("causal-lm", "-prose"), ("masked-lm", "")])
def test_language_models_choose_token_by_token(materials, tmp_path, task, suffix):
    recipe = language_model(materials, task, suffix)
    recipe["train"] |= {"eval_steps": None}
    whole = recipe["student"]["model_name_or_path"]
    labels = {"soft_weight": 0, "hard_weight": 1}
    learnt = recipe["train"] | {"max_steps": 60, "learning_rate": 1e-2}
    teacher = {"name": "teacher", "student": {"model_name_or_path": whole}, "objective": labels, "train": learnt}
    tutor = stage("tutor", {"model_name_or_path": "stage:teacher", "layers": [1]}, ["teacher"])
    del tutor["teacher"]["cache"]
    models = [{"model_name_or_path": "stage:teacher"}, {"model_name_or_path": "stage:tutor"}]
    recipe |= {"stages": [teacher, tutor], "teacher": {"models": models, "choose": "closer"}}
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    for row in steps_of(tmp_path / "run"):
        shares = [row[f"share.{name}"] for name in ("teacher", "tutor", "label")]
        assert sum(shares) == pytest.approx(1, abs=1e-6)
        assert 0 < max(shares) < 1
    assert record.value("agreement.kl") >= 0


def test_killed_at_random_instants_the_choice_is_the_same_in_the_end(materials, tmp_path):
    recipe = teid(materials, train__save_steps=1, train__dropout=0.2, train__max_steps=20)
    potstill.run(write_recipe(tmp_path, recipe, "whole.yaml"), output_dir=tmp_path / "whole")
    draw, died = random.Random(5), 0
    for step in (3, 11):
        process = Process("run", write_recipe(tmp_path, recipe), "--output-dir", tmp_path / "killed")
        if process.until("stage student") and process.until(f"checkpoint {step}/"):
            time.sleep(draw.uniform(0.0, 0.05))
        process.child.send_signal(signal.SIGKILL)
        died += process.ends() == -signal.SIGKILL
    assert died == 2
    assert Process("resume", tmp_path / "killed").ends() == 0
    assert product(tmp_path / "killed") == product(tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def hopping(materials, least, **changes):
    """The tutor goes on learning in two more stages, each a hop over the one before; then a student."""
    recipe = takd(materials, hops=1)
    recipe["stages"][1]["train"] |= {"eval_steps": 2, "metric_for_best_model": "loss"}
    for number in (1, 2):
        hop = {"over": f"tutor-{number - 1}", "least_gain": least}
        again = stage(f"tutor-{number}", {"model_name_or_path": f"stage:tutor-{number - 1}"}, ["teacher"], hop=hop)
        again["train"]["learning_rate"] = 3e-3
        recipe["stages"].append(again)
    recipe["teacher"]["models"] = [{"model_name_or_path": "stage:tutor-2"}]
    for path, value in changes.items():
        set_value(recipe, path.replace("__", "."), value)
    return recipe


def test_a_chain_ends_where_a_hop_no_longer_pays(materials, tmp_path, capsys):
    """No hop gains 5 nats: the second is trained and judged, the third is not trained, and the student is taught by
    the better of the first two."""
    run = tmp_path / "run"
    record = potstill.run(write_recipe(tmp_path, hopping(materials, 5.0)), output_dir=run)
    first, second, third = (done(run, f"tutor-{number}") for number in range(3))
    assert (second["steps"], third["steps"]) == (4, 0)
    hop = second["hop"]
    assert hop["gain"] == pytest.approx(first["best_value"] - second["best_value"])
    assert (hop["pays"], hop["least_gain"], hop["metric"]) == (False, 5.0, "loss")
    better = "tutor-1" if hop["gain"] > 0 else "tutor-0"
    assert hop["product"] == third["hop"]["product"] == better
    (teacher,) = [one for one in done(run)["parents"] if one["role"] == "teacher"]
    assert teacher == {"role": "teacher", "name": "stage:tutor-2", "hash": done(run, better)["hash"]}
    hops = record.ledger["hops"]
    assert [(one["stage"], one["trained"], one["pays"]) for one in hops] == [
        ("tutor-1", True, False), ("tutor-2", False, False)
    ]  # fmt: skip
    assert "and hop.least_gain is 5: the hop no longer pays" in hops[0]["words"]
    assert "its hop is over tutor-1, which no longer paid" in hops[1]["words"]
    assert hops[0]["words"] in capsys.readouterr().err
    assert "the hop no longer pays" in (run / "report.html").read_text()
    assert resume(run).ledger == record.ledger


def test_a_hop_that_pays_goes_on(materials, tmp_path):
    recipe = hopping(materials, 0.0, hop={"over": "tutor-2", "least_gain": 100})
    recipe["stages"][0]["train"] |= {"max_steps": 60, "learning_rate": 5e-3}
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    hops = {one["stage"]: one for one in record.ledger["hops"]}
    assert hops["tutor-1"]["pays"], "it went on learning, and its loss is lower"
    assert hops["tutor-1"]["gain"] > 0
    assert hops["tutor-2"]["trained"]
    assert done(tmp_path / "run", "tutor-2")["steps"] == 4
    last = hops["student"]
    assert (last["pays"], last["product"]) == (False, "student"), "the last stage is judged, and stays what it is"
    assert last["words"].endswith("the hop no longer pays")


def test_a_worse_hop_gives_way_to_what_was_there(materials, tmp_path):
    """Learning that destroys: the product that later stages load is that of the stage before."""
    recipe = hopping(materials, 0.0, stages__2__train__learning_rate=5.0)
    potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    hop = done(tmp_path / "run", "tutor-1")["hop"]
    assert hop["gain"] < 0
    assert (hop["product"], done(tmp_path / "run", "tutor-2")["hop"]["product"]) == ("tutor-0", "tutor-0")


WIDE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
LARGER = {
    "in a chain": (
        {"stages.1.student": {"model_name_or_path": "stage:teacher", "size": WIDE}},
        ("stages.1.student: the tutor `tutor-0` has", "its teacher stage:teacher has", "fewer layers"),
    ),
    "in a choice": (
        {"teacher.models": [{"model_name_or_path": "stage:tutor-0"}, {"model_name_or_path": "stage:teacher"}]},
        ("teacher.models.1: the tutor stage:teacher has", "stage:tutor-0 has", "name the larger model first"),
    ),
}


@pytest.mark.parametrize(("changes", "words"), LARGER.values(), ids=LARGER)
def test_a_tutor_larger_than_its_teacher_is_refused_before_anything_is_trained(
    materials, tmp_path, capsys, changes, words
):
    recipe = teid(materials)
    for path, value in changes.items():
        set_value(recipe, path, value)
    assert main(["run", str(write_recipe(tmp_path, recipe)), "--output-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert said.count("potstill: ") == 1
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "stages").exists()
    assert main(["plan", str(tmp_path / "recipe.yaml")]) == 2
    assert capsys.readouterr().err == said, "a plan says the same"


@pytest.mark.parametrize(("changes", "words"), LARGER.values(), ids=LARGER)
def test_sizes_that_only_the_models_tell_are_compared_when_they_are_loaded(
    materials, tmp_path, capsys, monkeypatch, changes, words
):
    recipe = teid(materials)
    for path, value in changes.items():
        set_value(recipe, path, value)
    monkeypatch.setattr("potstill.still.refuse_larger_tutors", lambda recipe: None)
    assert main(["run", str(write_recipe(tmp_path, recipe)), "--output-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)


def test_a_student_that_teaches_nobody_may_be_larger(materials, tmp_path):
    recipe = takd(materials, hops=0)
    recipe["student"] = {"model_name_or_path": "stage:teacher", "size": WIDE}
    recipe["train"] |= {"max_steps": 1, "eval_steps": 1}
    assert potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run").value("quality.accuracy") >= 0


def test_a_label_for_every_row_needs_one_on_every_row(materials, tmp_path):
    with pytest.raises(DataError, match="48 of 96 training rows have none: set use: labelled"):
        potstill.run(write_recipe(tmp_path, teid(materials, "label")), output_dir=tmp_path / "run")


def test_a_choice_that_cannot_be_is_refused_at_its_line(materials, tmp_path):
    recipe = teid(materials, teacher__models=[{"model_name_or_path": "stage:teacher"}])
    with pytest.raises(RecipeError, match="choose is between two models of this process"):
        potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")


def test_a_run_saved_before_there_was_a_threshold_goes_on(monkeypatch):
    """`judged_by` has a default: the state of an older checkpoint is read."""
    assert resuming.Standing(step=3, best_value=0.5, without_better=1).judged_by is None
