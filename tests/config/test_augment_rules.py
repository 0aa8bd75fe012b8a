"""Varied rows need somebody who proposes words and somebody who says what they have become."""

import pytest

from potstill.core.errors import RecipeError
from potstill.recipe_yaml import load_recipe

SPEAKER = (
    "{name: speaker, task: masked-lm, data: {train: [{dataset_name: a.jsonl, rows: text}]}, "
    "student: {model_name_or_path: m, head: fresh}, objective: {soft_weight: 0, hard_weight: 1}, train: {max_steps: 1}}"
)


@pytest.fixture
def recipe(tmp_path):
    from tests.config.recipes import CLASSIFY

    file = tmp_path / "recipe.yaml"
    file.write_text(CLASSIFY)
    return file


def test_a_stage_with_a_task_of_its_own(recipe):
    names = ["teacher.models.0.model_name_or_path=m", "student.model_name_or_path=m"]
    found = load_recipe(recipe, [f"stages.0={SPEAKER}", *names, "augment={model_name_or_path: stage:speaker}"])
    seen = found.seen_by(found.stages[0])
    assert (seen.task, seen.data.train[0].rows) == ("masked-lm", "text")
    assert found.seen_by(found.final) is found
    assert found.final.augment.copies == 2


@pytest.mark.parametrize(
    ("overrides", "path", "reason"),
    [
        (["augment={model_name_or_path: stage:tuter}"], "augment.model_name_or_path", "not the product of an earlier"),
        (["augment={model_name_or_path: stage:tutor}"], "augment.model_name_or_path", "stage tutor has task classify"),
        (["augment={model_name_or_path: m, labels: keep}"], "augment.labels", "no use while objective.hard_weight is"),
        (
            ["augment={model_name_or_path: m}", "teacher=null", "objective={soft_weight: 0, hard_weight: 1}",
             "controls=[]"],
            "augment.labels",
            "there is none",
        ),
        (["stages.0.task=masked-lm"], "stages.0.data.train.0.rows", "does not learn from rows: labelled"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(recipe, overrides, path, reason):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, overrides)
    assert any(fault.path == path and reason in fault.reason for fault in caught.value.faults), caught.value
