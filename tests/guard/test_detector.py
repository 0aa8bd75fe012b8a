import numpy as np
import pytest

from potstill.guard.detector import FIRST_READING, Model, detect, fit, readings, shipped
from potstill.guard.features import FEATURES, Window
from potstill.guard.simulate import ATTACKS, BENIGN, account_day, round_robin

WORDS = [
    "still",
    "copper",
    "vapour",
    "grain",
    "malt",
    "barley",
    "cask",
    "spirit",
    "cut",
    "heart",
    "head",
    "tail",
    "wash",
    "low",
    "wine",
    "peat",
    "smoke",
    "oak",
    "river",
]


def texts():
    rng = np.random.default_rng(3)
    return {f"t{n}": [f"what is the {' '.join(rng.choice(WORDS, 12))} {n}?" for _ in range(60)] for n in range(30)}


TEXTS = texts()


def day(group, kind, seed=1, most=400):
    return account_day(group[kind], kind, TEXTS, seed, most=most)


def test_fit_separates_what_can_be_separated_and_the_ridge_bounds_the_weights():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2.0
    x = np.c_[rng.standard_normal(200) + 3 * y, rng.standard_normal(200)]
    means, scales, weights, intercept = fit(x, y)
    right = ((x - means) / scales @ weights + intercept > 0) == (y == 1)
    assert right.mean() > 0.9
    assert abs(weights[1]) < 0.2 * weights[0] < 2


def test_a_day_is_read_at_doublings_only():
    windows = readings(day(BENIGN, "bulk job", most=120), Window())
    assert [window.rows for window in windows] == [FIRST_READING, 2 * FIRST_READING, 4 * FIRST_READING]


def test_the_shipped_model_was_made_for_these_features_and_says_when():
    model = shipped()
    assert len(model.weights) == len(FEATURES)
    assert Model.of(model.as_json()).limit == model.limit
    assert model.made.startswith("20")
    assert model.honest_share(1e9) == 1 / (len(model.honest) + 1)
    with pytest.raises(ValueError, match="other features"):
        Model.of(model.as_json().replace('"coverage"', '"cover"'))


@pytest.mark.parametrize("kind", ["template farm", "trace coercion"])
def test_attacks_are_named_with_their_window_and_rows(kind):
    (finding,) = detect(day(ATTACKS, kind), shipped())
    assert finding.subject == kind
    assert finding.value > finding.bound
    assert finding.evidence["rows_so_far"] <= 400
    assert finding.evidence["lines"]
    assert finding.evidence["because"]


@pytest.mark.parametrize("kind", sorted(BENIGN))
def test_honest_accounts_are_left_alone(kind):
    assert list(detect(day(BENIGN, kind), shipped())) == []


def test_simulated_days_are_a_function_of_the_seed():
    assert list(day(ATTACKS, "sweep", 5, 20)) == list(day(ATTACKS, "sweep", 5, 20))
    assert len({query.account for query in round_robin(TEXTS, 0, 7, 70)}) == 7
