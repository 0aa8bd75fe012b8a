"""Tables over seeds, by numbers worked out by hand."""

from tests.benchmarks.scripts import script

paired = script("paired")
# Means 2 and 2.5 with s = 1; t(95 %, 2) = 4.303, so half of the interval is 4.303 / sqrt(3) = 2.484.
FOUND = {"one": [{"kl": 1.0}, {"kl": 2.0}, {"kl": 3.0}], "other": [{"kl": 1.5}, {"kl": 2.5}, {"kl": 3.5}]}


def test_a_cell_is_the_mean_and_half_of_its_interval():
    assert paired.table(FOUND, ["kl"])[2:] == ["| one | 2 ± 2.5 |", "| other | 2.5 ± 2.5 |"]
    assert paired.cell([3.0]) == "3"
    assert paired.cell([3.0, 3.0]) == "3"


def test_differences_are_paired_and_arms_that_did_not_run_are_left_out():
    lines = paired.differences(FOUND, [("one", "other"), ("one", "third")], ["kl"])
    assert lines == ["- kl: one minus other: -0.5 [-0.5, -0.5] (seeds: -0.5, -0.5, -0.5)"]


def test_one_seed_has_no_interval():
    assert paired.claim("kl", [0.25]) == "- kl: 0.25 (no interval) (seeds: 0.25)"
