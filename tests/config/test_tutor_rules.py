"""What a choice between teacher and tutor, and a hop, must agree on: each contradiction named where it stands."""

import pytest

from potstill.recipe_yaml import parse_recipe
from tests.config.recipes import CAUSAL, CLASSIFY
from tests.config.test_order_rules import faults

STAGE = """\
  - name: second
    student: {model_name_or_path: stage:tutor}
    teacher: {models: [{model_name_or_path: stage:tutor}]}
    train: {max_steps: 10, metric_for_best_model: accuracy}
"""
CHAIN = CLASSIFY.replace(
    "      max_steps: 10\n", f"      max_steps: 10\n      metric_for_best_model: accuracy\n{STAGE}"
)
CHOICE = CHAIN.replace(
    "    - model_name_or_path: stage:tutor\n  cache: true\n",
    "    - model_name_or_path: stage:tutor\n    - model_name_or_path: stage:second\n  choose: closer\n",
)
TEXT = CAUSAL.replace("  weights: [0.25, 0.75]\n", "  choose: closer\n")
HOP = "hop: {over: second}\n"


def test_recipes_with_a_choice_and_a_hop_are_read():
    recipe = parse_recipe(CHOICE + HOP)
    assert (recipe.teacher.choose, recipe.hop.over, recipe.hop.least_gain) == ("closer", "second", 0.001)
    assert recipe.final.hop == recipe.hop
    assert parse_recipe(TEXT).teacher.choose == "closer"


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (CLASSIFY.replace("  cache: true\n", "  choose: closer\n"), "teacher.choose", "two models of this process"),
        (CHOICE.replace("closer\n", "closer\n  weights: [1, 2]\n"), "teacher.choose", "remove weights"),
        (CHOICE.replace("closer\n", "closer\n  combine: geometric\n"), "teacher.choose", "remove combine"),
        (CHOICE.replace("closer\n", "closer\n  drop_above: 2\n"), "teacher.choose", "remove drop_above"),
        (CHOICE.replace("closer\n", "nearest\n"), "teacher.choose", "closer"),
        (TEXT + "objective: {top_k: 5}\n", "objective.top_k", "remove top_k"),
        (TEXT + "objective: {fused: true}\n", "objective.fused", "remove fused"),
        (CHOICE.replace("alpha: 0.1\n", "alpha: 0.1\n  layers: {hidden: 1}\n"), "objective.layers", "remove layers"),
        (
            TEXT.replace("closer", "label").replace("  pack: true\n", "")
            + "rollout: {lmbda: 0.5, prompt_tokens: 4}\n",
            "teacher.choose",
            "has none: take closer",
        ),
        (TEXT.replace("closer", "label").replace("causal-lm", "masked-lm"), "teacher.choose", "masked-lm"),
    ],
)  # fmt: skip
def test_what_a_choice_needs(text, path, words):
    found = faults(text)
    near = " ".join(reason for where, reason in found.items() if where.startswith(path.rsplit(".", 1)[0]))
    assert words in near, found


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (CHAIN + "hop: {over: secnd}\n", "hop.over", "no earlier stage; earlier stages: tutor, second"),
        (CHAIN.replace("    student: {model_name_or_path: stage:tutor}\n",
                       "    student: {model_name_or_path: stage:tutor}\n    hop: {over: second}\n"),
         "stages.1.hop.over", "earlier stages: tutor"),
        (CLASSIFY.replace("  validation:\n    dataset_name: held.jsonl\n", "").replace("  eval_steps: 5\n", "")
         .replace("  metric_for_best_model: accuracy\n", "") + "hop: {over: tutor}\n", "hop", "data.validation"),
        (CLASSIFY + "hop: {over: tutor}\n", "hop", "compares `accuracy` with the `loss` of stage tutor"),
        (CHAIN + "hop: {over: second, least_gain: -1}\n", "hop.least_gain", "at least 0"),
    ],
)  # fmt: skip
def test_what_a_hop_needs(text, path, words):
    assert words in faults(text)[path]


def test_layers_alone_are_no_hop():
    layers = "    objective: {soft_weight: 0, layers: {hidden: 1}}\n    train: {max_steps: 10}\n"
    text = CHAIN.replace("    train: {max_steps: 10, metric_for_best_model: accuracy}\n", layers)
    text = text.replace("  metric_for_best_model: accuracy\ncontrols", "controls")
    assert "second learns layers alone" in faults(text + HOP)["hop"]
