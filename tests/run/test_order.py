"""Rows in another order than plain passes, as whole runs: what is recorded, what is refused, and the same bits after
kill -9."""

import json
import random
import signal
import time

import pytest

import potstill
from potstill.core.errors import DataError, InputError, RecipeError
from tests.run.test_served_teacher import served
from tests.run.test_stop import Process, losses, product
from tests.run.tiny_recipe import classifier, labelled_rows, language_model, set_value, write_recipe, write_rows
from tests.teachers.served import KEY

SKILLS = ("add", "carry", "times")
SKILL_ROWS = {"labelled": (0, 48), "validation": (1, 24), "test": (2, 24)}


def difficult(materials, **changes):
    """The last 48 of 96 rows have no label: the teacher's first choice is the truth."""
    recipe = classifier(materials)
    recipe |= {"controls": [], "order": {"difficulty": {"passes": 4, "truth": "teacher"}}}
    del recipe["train"]["max_steps"]
    for path, value in changes.items():
        set_value(recipe, path.replace("__", "."), value)
    return recipe


@pytest.fixture(scope="session")
def skilled(tmp_path_factory):
    """The rows of the classifier with a column that names one of three skills, each with rows of every class."""
    root = tmp_path_factory.mktemp("skills")
    for name, (seed, number) in SKILL_ROWS.items():
        rows = [row | {"skill": SKILLS[n % 3]} for n, row in enumerate(labelled_rows(seed, number))]
        write_rows(root / f"{name}.jsonl", rows)
    return root


def by_skill(materials, skilled, order, **changes):
    recipe = classifier(materials)
    sources = {name: {"dataset_name": str(skilled / f"{name}.jsonl")} for name in SKILL_ROWS}
    for source in sources.values():
        source["columns"] = {"slices": ["skill"]}
    recipe["data"] |= {"train": [sources["labelled"]], "validation": sources["validation"], "test": sources["test"]}
    recipe |= {"controls": [], "order": order}
    recipe["train"] |= {"eval_steps": 2, "max_steps": 12, "learning_rate": 3e-3}
    for path, value in changes.items():
        set_value(recipe, path.replace("__", "."), value)
    return recipe


MASTERY = {"mastery": {"slice_by": "skill", "prerequisites": {"carry": ["add"], "times": ["carry"]}}}
ZONE = {"zone": {"slice_by": "skill", "width": 0.2}}


def order_of(run, name="student"):
    return json.loads((run / "stages" / name / "stage.json").read_text())["order"]


def test_passes_get_shorter_and_what_scoring_read_is_recorded(materials, tmp_path):
    """96 rows in 4 passes of 1, 0.85, 0.5 and 0.15 of them, at batch 8: 12 + 11 + 6 + 2 steps where plain passes take
    48."""
    potstill.run(write_recipe(tmp_path, difficult(materials)), output_dir=tmp_path / "run")
    done = json.loads((tmp_path / "run" / "stages" / "student" / "stage.json").read_text())
    assert done["steps"] == 12 + 11 + 6 + 2
    assert done["examples"] == 96 + 82 + 48 + 14
    assert done["order"]["shares"] == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert (done["order"]["student_rows"], done["order"]["teacher_rows"]) == (3 * 96, 96)
    assert done["order"]["student_tokens"] == 3 * done["order"]["teacher_tokens"] > 3 * 96
    assert done["order"]["seconds"] > 0
    assert order_of(tmp_path / "run", "teacher") is None


def killed(tmp_path, recipe, steps):
    """The run, killed at random instants after some saves of its last stage, and gone on with."""
    draw, died = random.Random(5), 0
    for step in steps:
        process = Process("run", write_recipe(tmp_path, recipe), "--output-dir", tmp_path / "killed")
        if process.until("stage student") and process.until(f"checkpoint {step}/"):
            time.sleep(draw.uniform(0.0, 0.05))
        process.child.send_signal(signal.SIGKILL)
        died += process.ends() == -signal.SIGKILL
    assert died >= 2
    assert Process("resume", tmp_path / "killed").ends() == 0
    return tmp_path / "killed"


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("mastery", "zone")]


@pytest.mark.parametrize("kind", ["difficulty", *SLOW])
def test_killed_at_random_instants_the_run_is_the_same_in_the_end(materials, skilled, tmp_path, kind):
    """With dropout, recorded answers, saves between evaluations and in the middle of passes."""
    if kind == "difficulty":
        recipe = difficult(materials, train__save_steps=1, train__dropout=0.2)
    else:
        order = MASTERY if kind == "mastery" else ZONE
        recipe = by_skill(materials, skilled, order, train__save_steps=1, train__dropout=0.2, train__max_steps=40)
    potstill.run(write_recipe(tmp_path, recipe, "whole.yaml"), output_dir=tmp_path / "whole")
    again = killed(tmp_path, recipe, (3, 10, 17, 24) if kind == "difficulty" else (2, 12, 22, 32))
    assert product(again) == product(tmp_path / "whole")
    assert losses(again) == losses(tmp_path / "whole")
    one, other = ({k: v for k, v in order_of(run).items() if k != "seconds"} for run in (again, tmp_path / "whole"))
    assert one == other


def test_a_skill_opens_when_what_it_builds_on_is_mastered(materials, skilled, tmp_path):
    """The record tells what was practised since when; the curve tells each skill's score."""
    recipe = by_skill(materials, skilled, MASTERY)
    potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    record = order_of(tmp_path / "run")
    assert record["history"][0]["step"] == 0
    opened = record["gate"]["opened"]
    assert "add" in opened
    assert set(record["teacher"]) == set(SKILLS)
    rows = [line for line in losses(tmp_path / "run") if line["arm"] == "student" and line["event"] == "evaluate"]
    assert {f"validation.skill.{name}" for name in SKILLS} <= set(rows[0])
    for before, after in zip(record["history"], record["history"][1:], strict=False):
        assert before["step"] <= after["step"]
        assert (before["fresh"], before["review"]) != (after["fresh"], after["review"])


def test_the_control_on_labels_reads_plain_passes(materials, tmp_path):
    recipe = difficult(materials) | {"controls": ["labels"]}
    potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    assert order_of(tmp_path / "run", "labels") is None
    done = [json.loads((tmp_path / "run/stages" / name / "stage.json").read_text()) for name in ("student", "labels")]
    assert [one["steps"] for one in done] == [31, 31]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"order__difficulty__truth": "label"}, "48 of 96 training rows have no label"),
        ({"train__max_steps": 32}, "have 31: lower it"),
        ({"train__gradient_accumulation_steps": 40}, "a step takes 40"),
    ],
)
def test_what_only_the_data_can_tell_is_refused_before_the_training(materials, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        potstill.run(write_recipe(tmp_path, difficult(materials, **changes)), output_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (
            {"mastery": MASTERY["mastery"] | {"prerequisites": {"times": ["ad"]}}},
            r"`ad`, which no .*\(nearest: `add`",
        ),
        ({"zone": ZONE["zone"] | {"slice_by": "area"}}, "leaves out `area`"),
        (
            {"mastery": MASTERY["mastery"] | {"prerequisites": {"add": ["carry"], "carry": ["add"]}}},
            "add -> carry -> add",
        ),
    ],
)
def test_skills_that_do_not_fit_are_refused(materials, skilled, tmp_path, order, words):
    with pytest.raises((DataError, RecipeError), match=words):
        potstill.run(write_recipe(tmp_path, by_skill(materials, skilled, order)), output_dir=tmp_path / "run")


def test_a_skill_that_validation_lacks_is_refused(materials, skilled, tmp_path):
    rows = [row | {"skill": "times"} for row in labelled_rows(1, 24)]
    held = write_rows(tmp_path / "held.jsonl", rows)
    recipe = by_skill(materials, skilled, ZONE, data__validation__dataset_name=str(held))
    with pytest.raises(DataError, match="skill `add`"):
        potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")


def test_a_language_model_learns_from_difficult_rows(materials, tmp_path):
    """Losses on the next tokens of the text, of a live teacher; packed rows too."""
    for pack in (False, True):
        recipe = language_model(materials) | {"order": {"difficulty": {"passes": 3, "schedule": "linear"}}}
        recipe["data"]["pack"] = pack
        del recipe["train"]["max_steps"]
        run = tmp_path / f"run-{pack}"
        potstill.run(write_recipe(tmp_path, recipe, f"{pack}.yaml"), output_dir=run)
        done = json.loads((run / "stages" / "student" / "stage.json").read_text())
        rows = done["data"]["splits"]["train"]["rows"]
        assert done["examples"] == rows + round(rows * 2 / 3) + round(rows / 3)
        assert (done["order"]["student_rows"], done["order"]["teacher_rows"]) == (2 * rows, rows)


class TestServedTeacher:
    """The teacher is asked by an order itself, beside its signals for each step: elsewhere as here."""

    @pytest.fixture(autouse=True)
    def keyed(self, monkeypatch):
        monkeypatch.setenv("POTSTILL_KEY", KEY)

    def both(self, tmp_path, recipe, folder, teacher, **serving):
        """The run with the teacher of this folder here, and with it served; of each the folder and the record."""
        with served(folder, **serving) as service:
            heard = {
                "here": {"models": [{"model_name_or_path": str(folder)}]},
                "far": {"urls": [service.http], "timeout_s": 60, "form": "hidden-fp32", **teacher},
            }
            if serving:
                del heard["far"]["form"]
                heard["here"]["cache"] = True
            for name, one in heard.items():
                file = write_recipe(tmp_path, recipe | {"teacher": one}, f"{name}.yaml")
                yield tmp_path / name, potstill.run(file, output_dir=tmp_path / name)

    def test_the_same_rows_are_difficult(self, materials, tmp_path):
        recipe = language_model(materials) | {"order": {"difficulty": {"passes": 3, "schedule": "linear"}}}
        recipe["data"]["test"] = None
        del recipe["train"]["max_steps"]
        (here, local), (far, remote) = self.both(tmp_path, recipe, materials.decoder, {"prefetch": 0})
        assert {**order_of(here), "seconds": 0} == {**order_of(far), "seconds": 0}
        assert order_of(far)["teacher_rows"] > 0
        curves = [[row["loss"] for row in one.metrics if row["event"] == "step"] for one in (local, remote)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-5)

    def test_the_same_skills_open(self, materials, skilled, tmp_path):
        """A trained classifier, so that there is a score to be held against; its answers are recorded here."""
        alone = by_skill(materials, skilled, MASTERY, train__max_steps=16)
        del alone["order"]
        alone |= {"stages": [], "teacher": None, "objective": {"soft_weight": 0, "hard_weight": 1}}
        alone["student"] = {"model_name_or_path": str(materials.encoder), "head": "fresh"}
        potstill.run(write_recipe(tmp_path, alone), output_dir=tmp_path / "teacher")
        folder = tmp_path / "teacher" / "model"
        recipe = by_skill(materials, skilled, MASTERY) | {"stages": []}
        recipe["student"] = {"model_name_or_path": str(folder), "layers": [0], "head": "fresh"}
        (here, local), (far, remote) = self.both(tmp_path, recipe, folder, {"cache": True}, task="classify")
        assert order_of(here) == order_of(far)
        assert min(order_of(far)["teacher"].values()) > 0
        curves = [[row["loss"] for row in one.metrics if row["event"] == "step"] for one in (local, remote)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-4)
