"""What settings of different rooms must agree on: each contradiction is reported where it stands, all at once."""

import pytest
from pydantic import ValidationError

from potstill.config import Recipe, StageSettings
from potstill.core.errors import RecipeError
from potstill.recipe_rules import METRICS
from potstill.recipe_yaml import parse_recipe
from tests.config.recipes import CAUSAL, CLASSIFY


def faults(text, *overrides):
    try:
        parse_recipe(text, overrides)
    except RecipeError as error:
        return {fault.path: fault for fault in error.faults}
    return {}


def test_the_valid_recipes_are_valid():
    assert faults(CLASSIFY) == {}
    assert faults(CAUSAL) == {}


CLASSIFIER_FAULTS = [
    (["student.model_name_or_path=stage:tuter"], "student.model_name_or_path", "not the product of an earlier stage"),
    (["stages.0.student.model_name_or_path=stage:tutor"], "stages.0.student.model_name_or_path", "no earlier stage"),
    (["teacher.models.0.revision=abc"], "teacher.models.0.revision", "has no use for `stage:tutor`"),
    (["stages.0.student.revision=abc"], "stages.0.student.revision", "has no use for `packaged:minilm-l6-v2`"),
    (["stages.0.name=student"], "stages.0.name", "the last stage's name"),
    (["objective.soft_weight=0", "objective.hard_weight=1"], "teacher", "soft_weight is 0"),
    (["teacher=null", "controls=[]"], "objective.soft_weight", "there is no teacher"),
    (["stages.0.objective.soft_weight=1"], "stages.0.objective.soft_weight", "there is no teacher"),
    (["stages.0.objective.temperature=2"], "stages.0.objective.temperature", "no use while soft_weight is 0"),
    (["stages.0.objective.top_k=2"], "stages.0.objective.top_k", "no use while soft_weight is 0"),
    (["objective.missing_mass=renormalise"], "objective.missing_mass", "no use without top_k"),
    (["train.max_steps=null"], "train", "set max_steps or num_train_epochs"),
    (["stages.0.train.max_steps=null"], "stages.0.train", "set max_steps or num_train_epochs"),
    (["student.freeze=[embeddings, head, body]"], "student.freeze", "nothing would learn"),
    (["teacher.drop_above=2"], "teacher.drop_above", "two or more models"),
    (
        ["teacher.cache=false", "teacher.vocabulary=padded"],
        "teacher.vocabulary",
        "only for task causal-lm or masked-lm",
    ),
    (["data.pack=true"], "data.pack", "one label per row"),
    (["data.train.1.rows=text"], "data.train.1.rows", "task classify does not learn from rows: text"),
    (["data.validation.rows=messages"], "data.validation.rows", "does not learn from rows: messages"),
    (["train.metric_for_best_model=acuracy"], "train.metric_for_best_model", "not measured for task classify"),
    (["train.metric_for_best_model=perplexity"], "train.metric_for_best_model", "not measured for task classify"),
    (["stages.0.train.metric_for_best_model=agreement"], "stages.0.train.metric_for_best_model", "one of: loss"),
    (["data.validation=null"], "train.eval_steps", "needs data.validation"),
    (["data.validation=null"], "train.metric_for_best_model", "needs data.validation"),
    (["data.validation=null", "train.early_stop_patience=2"], "train.early_stop_patience", "needs data.validation"),
    (["data.train.0.use_labels=false"], "controls.0", "`labels` needs labels"),
    (["data.train.0.use_labels=false"], "controls.2", "`tfidf` needs labels"),
    (["data.train.0.use_labels=false"], "stages.0.use", "needs labels"),
    (["data.train.0.use_labels=false"], "stages.0.objective.hard_weight", "needs labels"),
    (["data.train.0.use_labels=false"], "stages.0.student.head", "`probe` needs labels"),
    (["data.train.0.columns.label=null"], "controls.0", "needs labels"),
    (["controls=[tfidf, tfidf]"], "controls.1", "twice"),
    (["export.name=../x"], "export.name", "is not a name"),
    (["objective.layers={attention: 1}"], "teacher.cache", "layers are read from a model here; remove cache"),
    (["stages.0.objective.layers={cosine: 1}"], "stages.0.objective.layers", "no teacher to compare with"),
    (["objective={soft_weight: 0, layers: {hidden: 1}}"], "train.eval_steps", "does not teach them; remove it"),
    (
        ["objective={soft_weight: 0, layers: {hidden: 1}}"],
        "train.metric_for_best_model",
        "judges the student's answers",
    ),
    (["data.mask_smoothing=0.7"], "data.mask_smoothing", "only for task masked-lm"),
    (["student.freeze=[embeddings, positions, head, body]"], "student.freeze", "nothing would learn"),
    (["export.name=.hidden"], "export.name", "is not a name"),
]


@pytest.mark.parametrize(("overrides", "path", "words"), CLASSIFIER_FAULTS)
def test_contradictions_of_a_classifier(overrides, path, words):
    found = faults(CLASSIFY, *overrides)
    assert path in found, found
    assert words in found[path].reason


@pytest.mark.parametrize(
    ("overrides", "path", "words"),
    [
        (["controls=[tfidf]"], "controls.0", "only for task classify"),
        (["objective.projection={}"], "objective.projection", "one teacher, and there are 2"),
        (
            ["objective.projection={}", "teacher={models: [{model_name_or_path: a}], vocabulary: aligned}"],
            "objective.projection",
            "needs one tokenizer",
        ),
        (["student.pooling=mean"], "student.pooling", "only for task classify"),
        (["student.head=fresh"], "student.head", "only for task classify"),
        (["objective.layers={cosine: 1}"], "objective.layers", "needs the layers of one teacher, and there are 2"),
        (["objective.layers={attention: 1}"], "objective.layers.attention", "encoders; this task is causal-lm"),
        (["student.head=probe"], "student.head", "only for task classify"),
        (["teacher.models.1.pooling=first"], "teacher.models.1.pooling", "only for task classify"),
        (["train.head_learning_rate=1e-3"], "train.head_learning_rate", "only for task classify"),
        (["data.labels=[a, b]"], "data.labels", "classes of task classify"),
        (["data.train.0.rows=labelled"], "data.train.0.rows", "one of: text, completion, messages"),
        (["teacher.drop_above=2"], "teacher.drop_above", "needs data.validation"),
        (
            ["teacher.weights=null", "teacher.route_by=kind", "teacher.routes={a: 0, b: 1}"],
            "teacher.route_by",
            "set data.pack to false",
        ),
        (
            ["task=masked-lm", "teacher.vocabulary=aligned"],
            "teacher.vocabulary",
            "only for task causal-lm; this task is masked-lm",
        ),
        (
            ["data.validation={dataset_name: v, rows: text}", "train.metric_for_best_model=f1"],
            "train.metric_for_best_model",
            "one of: loss, perplexity",
        ),
        (["task=masked-lm", "data.train.0.rows=messages"], "data.train.0.rows", "task masked-lm"),
        (["teacher=null", "objective={soft_weight: 0, hard_weight: 1}"], "controls.0", "without its teacher"),
    ],
)
def test_contradictions_of_a_language_model(overrides, path, words):
    found = faults(CAUSAL, *overrides)
    assert path in found, found
    assert words in found[path].reason


def test_a_stage_for_labelled_rows_is_for_classifiers():
    stage = "stages=[{name: a, use: labelled, student: {model_name_or_path: big}, train: {max_steps: 1}, "
    found = faults(CAUSAL, stage + "objective: {soft_weight: 0, hard_weight: 1}}]")
    assert "every row is its own label" in found["stages.0.use"].reason


def test_the_nearest_stage_and_metric_are_suggested():
    assert (
        faults(CLASSIFY, "student.model_name_or_path=stage:tuter")["student.model_name_or_path"].suggestion
        == "stage:tutor"
    )
    found = faults(CLASSIFY, "train.metric_for_best_model=acuracy")
    assert found["train.metric_for_best_model"].suggestion == "accuracy"


def test_stage_names_differ_and_only_earlier_ones_can_be_loaded():
    first = "{name: a, student: {model_name_or_path: stage:b}, train: {max_steps: 1}, "
    second = "{name: b, student: {model_name_or_path: stage:a}, train: {max_steps: 1}, "
    rest = "objective: {soft_weight: 0, hard_weight: 1}}"
    found = faults(CLASSIFY, f"stages=[{first}{rest}, {second}{rest}]")
    assert "stages.0.student.model_name_or_path" in found
    assert "stages.1.student.model_name_or_path" not in found
    twice = faults(CLASSIFY, f"stages=[{second.replace('stage:a', 'x')}{rest}, {second.replace('stage:a', 'x')}{rest}]")
    assert "already the name of stages.0" in twice["stages.1.name"].reason


def test_all_contradictions_come_at_once():
    found = faults(
        CLASSIFY, "data.validation=null", "data.pack=true", "controls=[tfidf, tfidf]", "train.max_steps=null"
    )
    assert {"data.pack", "controls.1", "train", "train.eval_steps", "train.metric_for_best_model"} <= set(found)


def test_what_is_allowed_stays_allowed():
    assert faults(CLASSIFY, "objective.top_k=10", "objective.missing_mass=renormalise") == {}
    assert faults(CLASSIFY, "objective.hard_weight=0.5") == {}
    assert faults(CAUSAL, "data.validation={dataset_name: v, rows: completion}", "teacher.drop_above=2") == {}
    for metric in METRICS["classify"]:
        assert faults(CLASSIFY, f"train.metric_for_best_model={metric}") == {}


def test_the_same_rules_hold_for_values_made_in_python():
    values = parse_recipe(CLASSIFY).model_dump()
    with pytest.raises(ValidationError, match=r"data\.pack: packing joins rows"):
        Recipe(**{**values, "data": {**values["data"], "pack": True}})
    stage = values["stages"][0]
    with pytest.raises(ValidationError, match="there is no teacher"):
        StageSettings(**{**stage, "objective": {"soft_weight": 1}})


ENDPOINT = ["teacher={endpoint: {url: 'http://127.0.0.1:8000/v1'}}", "objective.top_k=20"]
ENDPOINT_FAULTS = [
    (["objective.top_k=null"], "objective.top_k", "likeliest tokens only"),
    (["objective.temperature=2"], "objective.temperature", "log-probabilities at 1"),
    (["student.vocabulary_size=9000"], "student.vocabulary_size", "speaks of its own tokens"),
    (["teacher.models=[{model_name_or_path: x}]"], "teacher.models", "models and endpoint contradict"),
    (["teacher.cache=true"], "teacher.cache", "no use for an endpoint"),
    (["teacher.bf16=auto"], "teacher.bf16", "no use for an endpoint"),
    (["teacher.combine=geometric"], "teacher.combine", "no use for an endpoint"),
    (["teacher.endpoint.url=nowhere"], "teacher.endpoint.url", "must begin with http"),
    (["teacher.endpoint.key=secret"], "teacher.endpoint.key", "is not a setting"),
    (["teacher.endpoint.key_env=A", "teacher.endpoint.key_file=b"], "teacher.endpoint.key_env", "keep one of them"),
    (["teacher.endpoint=null"], "teacher.endpoint", "no teacher is named"),
]


@pytest.mark.parametrize(("overrides", "path", "words"), ENDPOINT_FAULTS, ids=lambda value: str(value)[:60])
def test_an_endpoint_as_teacher(overrides, path, words):
    assert faults(CAUSAL, *ENDPOINT) == {}
    found = faults(CAUSAL, *ENDPOINT, *overrides)
    assert words in found[path].reason


def test_an_endpoint_teaches_language_models_only():
    found = faults(CLASSIFY, "teacher={endpoint: {url: 'http://127.0.0.1:8000/v1'}}", "objective.top_k=20")
    assert "for task causal-lm" in found["teacher.endpoint"].reason
