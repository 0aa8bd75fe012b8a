"""What a rollout must agree on with the rest of its recipe: each contradiction is said where it stands."""

import pytest

from potstill.recipe_yaml import parse_recipe
from tests.config.recipes import CAUSAL, CLASSIFY
from tests.config.test_recipe_rules import faults

ROLLOUT = "rollout={lmbda: 0.5, prompt_tokens: 8}"
ADAPTIVE = "rollout={adaptive: {}, prompt_tokens: 8}"
JUDGED = ("data.validation={dataset_name: held.jsonl, rows: text}", "train.eval_steps=5")
COMPLETION = ("data.train.0.rows=completion", "data.pack=false")


def test_the_valid_ones_are_valid():
    assert faults(CAUSAL, ROLLOUT) == {}
    assert faults(CAUSAL, ADAPTIVE, *JUDGED) == {}
    assert faults(CAUSAL, "rollout={lmbda: 1}", *COMPLETION) == {}
    assert faults(CAUSAL, ROLLOUT, "order={difficulty: {}}", "train.num_train_epochs=null") == {}
    assert parse_recipe(CAUSAL, [ROLLOUT]).final.rollout.lmbda == 0.5


FAULTS = [
    (["rollout={lmbda: 0.5}"], "rollout.prompt_tokens", "rows of text have no prompt"),
    ([ROLLOUT, *COMPLETION], "rollout.prompt_tokens", "have prompts of their own"),
    (["rollout={lmbda: 0.5, prompt_tokens: 5000}"], "rollout.prompt_tokens", "a row has at most"),
    ([ADAPTIVE], "rollout.adaptive", "set data.validation and train.eval_steps"),
    ([ADAPTIVE, JUDGED[0]], "rollout.adaptive", "set train.eval_steps"),
    (
        ["rollout={adaptive: {capacity: 31}, prompt_tokens: 8}", *JUDGED],
        "rollout.adaptive.capacity",
        "a batch of 32 rows",
    ),
    (
        ["rollout={lmbda: 1, prompt_tokens: 8}", "objective.hard_weight=0.5"],
        "rollout.lmbda",
        "no batch has labels, and objective.hard_weight is 0.5",
    ),
    ([ROLLOUT, "teacher.store={}"], "teacher.store", "with rollout the rows are new each time"),
    ([ROLLOUT, "teacher.cache=true"], "teacher.cache", "with rollout the rows are new each time"),
    ([ROLLOUT, "teacher.vocabulary=aligned"], "teacher.vocabulary", "a student may write others"),
    (
        [ROLLOUT, "teacher={urls: ['https://teacher.example']}"],
        "teacher.prefetch",
        "before the step whose student writes them; set it to 0",
    ),
    (
        [ROLLOUT, "teacher=null", "objective={soft_weight: 0, hard_weight: 1}", "controls=[]"],
        "rollout",
        "needs a teacher",
    ),
]


@pytest.mark.parametrize(("overrides", "path", "words"), FAULTS)
def test_contradictions(overrides, path, words):
    found = faults(CAUSAL, *overrides)
    assert path in found, found
    assert words in found[path].reason


def test_a_black_box_is_not_sent_new_text():
    endpoint = "teacher={endpoint: {url: 'https://teacher.example/v1', model: big, licence: mit}}"
    found = faults(CAUSAL, ROLLOUT, endpoint, "objective.top_k=20")
    assert "new text at every step" in found["teacher.endpoint"].reason


def test_only_language_models_write():
    found = faults(CLASSIFY, "rollout={lmbda: 0.5}")
    assert "only for task causal-lm" in found["rollout"].reason
    found = faults(CLASSIFY, "stages.0.rollout={lmbda: 0.5}")
    assert "needs a teacher" in found["stages.0.rollout"].reason, "the tutor learns from labels"


def test_a_misspelt_setting_is_named():
    found = faults(CAUSAL, "rollout={lmbda: 0.5, prompt_token: 8}")
    assert found["rollout.prompt_token"].suggestion == "prompt_tokens"
