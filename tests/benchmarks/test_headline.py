"""What the headline's table says of artefacts whose numbers are known; the training takes minutes and is not run."""

import pytest

from potstill.recipe_yaml import load_recipe
from tests.benchmarks.scripts import script


@pytest.fixture(scope="module")
def headline():
    return script("headline")


def artefact(headline, label, role, accuracy, size, milliseconds):
    return headline.Artefact(label, role, size, accuracy, lambda: None, milliseconds)


def test_ratios_are_taken_inside_a_round(headline):
    teacher = artefact(headline, "t", "teacher", 0.73, 91_000_000, [10.0, 40.0, 12.0])
    student = artefact(headline, "s", "student", 0.71, 4_000_000, [1.0, 2.0, 1.0])
    assert headline.faster(student, teacher) == 12.0


@pytest.mark.parametrize(
    ("accuracy", "size", "milliseconds", "said"),
    [
        (0.71, 4_500_000, 1.0, "reaches the headline"),
        (0.71, 4_600_000, 1.0, "not small enough"),
        (0.70, 4_500_000, 1.0, "not good enough"),
        (0.70, 4_500_000, 2.0, "not fast nor good enough"),
    ],
)
def test_the_verdict(headline, accuracy, size, milliseconds, said):
    teacher = artefact(headline, headline.TEACHER, "teacher", 0.7285, 91_090_112, [15.0] * 3)
    group = [artefact(headline, "s", "student", accuracy, size, [milliseconds] * 3) for _ in range(3)]
    lines = headline.report([teacher, *group], [0, 1, 2])
    assert said in "\n".join(lines)
    assert lines[2].startswith("| teacher, fp32 | 72.85 | 100 | 91.09 | 1 | 15 | 1 |")


def test_only_arms_with_the_same_teacher_share_it(headline):
    assert headline.shares(load_recipe("headline", ["seed=2", "student.vocabulary_size=4000"]))
    assert headline.shares(load_recipe("classifier"))
    assert not headline.shares(load_recipe("tinybert"))
    assert not headline.shares(load_recipe("headline", ["stages.0.train.max_steps=10"]))
