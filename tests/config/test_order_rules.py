"""What the order of a stage must agree on with the rest of its recipe: each contradiction named where it stands."""

import pytest

from potstill.core.errors import RecipeError
from potstill.recipe_yaml import parse_recipe
from tests.config.recipes import CAUSAL, CLASSIFY

DIFFICULTY = "order: {difficulty: {passes: 4, truth: teacher}}\n"
MASTERY = "order: {mastery: {slice_by: skill, prerequisites: {b: [a]}}}\n"
ZONE = "order: {zone: {slice_by: skill}}\n"
LENGTH = "train:\n  max_steps: 20\n"


def faults(text):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    found: dict[str, str] = {}
    for fault in caught.value.faults:
        found[fault.path] = f"{found.get(fault.path, '')} {fault.reason}"
    return found


def sliced(text):
    """Every source with the column that the curricula go by."""
    lines = []
    for line in text.splitlines():
        lines.append(line)
        if "dataset_name:" in line:
            indent = " " * (len(line) - len(line.lstrip(" -")))
            lines.append(f"{indent}columns: {{slices: [skill]}}")
    return "\n".join(lines) + "\n"


def test_recipes_with_each_order_are_read():
    assert parse_recipe(CLASSIFY + DIFFICULTY).order.difficulty.passes == 4
    assert parse_recipe(sliced(CLASSIFY) + MASTERY).order.mastery.opens_at == 0.9
    assert parse_recipe(sliced(CLASSIFY) + ZONE).order.zone.width == 0.15


def test_difficulty_is_a_length_of_its_own():
    recipe = parse_recipe(CLASSIFY.replace("  max_steps: 20\n", "") + DIFFICULTY)
    assert (recipe.train.max_steps, recipe.train.num_train_epochs) == (None, None)
    found = faults(CLASSIFY.replace("  max_steps: 20\n", "  num_train_epochs: 3\n") + DIFFICULTY)
    assert "contradicts order.difficulty.passes" in found["train.num_train_epochs"]
    assert "no length" in faults(sliced(CLASSIFY).replace("  max_steps: 20\n", "") + ZONE)["train"]


@pytest.mark.parametrize(
    ("order", "path", "words"),
    [
        ("order: {}\n", "order", "has none of difficulty, mastery and zone"),
        ("order: {difficulty: {}, zone: {slice_by: skill}}\n", "order.difficulty", "difficulty and zone: keep one"),
    ],
)
def test_an_order_is_one_of_three(order, path, words):
    assert words in faults(CLASSIFY + order)[path]


def test_a_circle_is_refused_with_its_path():
    order = "order: {mastery: {slice_by: skill, prerequisites: {a: [c], c: [b], b: [a]}}}\n"
    assert "a -> c -> b -> a" in faults(sliced(CLASSIFY) + order)["order.mastery.prerequisites"]


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (
            CLASSIFY.replace("teacher:\n  models:\n    - model_name_or_path: stage:tutor\n  cache: true\n", "").replace(
                "  divergence: skew_kl\n  alpha: 0.1\n", "  soft_weight: 0\n  hard_weight: 1\n"
            ).replace("labels, untrained, tfidf", "untrained") + DIFFICULTY,
            "order.difficulty",
            "there is no teacher",
        ),
        (CLASSIFY + MASTERY, "data.train.0.columns.slices", "leaves out `skill`"),
        (CLASSIFY + ZONE, "data.validation.columns.slices", "leaves out `skill`"),
        (sliced(CLASSIFY).replace("  eval_steps: 5\n", "") + ZONE, "train.eval_steps", "moves on when it is measured"),
        (CAUSAL + DIFFICULTY.replace("truth: teacher", "tau: 0.1"), "train.num_train_epochs", "contradicts order"),
        (CAUSAL + DIFFICULTY, "order.difficulty.truth", "only for task classify"),
        (CAUSAL + ZONE, "order.zone", "data.pack joins them"),
    ],
)  # fmt: skip
def test_what_an_order_needs(text, path, words):
    assert words in faults(text)[path]


@pytest.mark.parametrize(
    ("teacher", "path", "words"),
    [
        ("teacher:\n  urls: [https://here:1]\n  key_env: KEY\n", "teacher.prefetch", "set prefetch to 0"),
        (
            "teacher:\n  models:\n    - model_name_or_path: big\n  store: {form: logits-fp32}\n",
            "order.difficulty",
            "store",
        ),
        ("teacher:\n  models:\n    - model_name_or_path: big\n  vocabulary: aligned\n", "order", "aligned"),
    ],
)
def test_teachers_that_cannot_be_asked_between_passes(teacher, path, words):
    head, _, rest = CAUSAL.partition("teacher:\n")
    text = f"{head}{teacher}student:{rest.partition('student:')[2]}".replace("  num_train_epochs: 1.5\n", "")
    assert words in faults(text + DIFFICULTY.replace(", truth: teacher", ""))[path]
