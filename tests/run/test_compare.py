"""Recipes against each other, in whole runs."""

import json
from html.parser import HTMLParser

import pytest

from potstill import comparison
from potstill.core.errors import InputError
from tests.run.tiny_recipe import language_model, write_recipe


class Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.said = []

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture(scope="module")
def compared(materials, tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    file = write_recipe(root, language_model(materials))
    arms = [f"{file} train.learning_rate=0.02", f"{file} train.learning_rate=1e-9", f"{file} train.learning_rate=2e-9"]
    heard = []
    found = comparison.compare(arms, seeds=[0, 1, 2], output_dir=root / "all", say=heard.append)
    return root, arms, found, heard


def test_seed_by_seed_each_in_a_folder_of_its_own(compared):
    root, _, _, heard = compared
    assert len(heard) == 9
    assert heard[0].startswith("seed 0, arm 1 of 3")
    assert heard[3].startswith("seed 1, arm 1 of 3")
    assert (root / "all" / "arm-2" / "seed-1" / "report.html").exists()


def test_whoever_learns_is_first_and_those_who_do_not_are_alike(compared):
    root, _, found, _ = compared
    ranks = {one.name.rsplit("=", 1)[1]: one.rank for one in found.ranking.standings}
    assert ranks == {"0.02": 1, "1e-9": 2, "2e-9": 2}
    told = json.loads((root / "all" / "comparison.json").read_text())
    assert [one["rank"] for one in told["ranking"]] == [1, 2, 2]
    page = Text()
    page.feed((root / "all" / "report.html").read_text())
    assert any("is distinguishable from every other" in text for text in page.said)
    assert any("not distinguishable from" in text for text in page.said)


def test_what_is_finished_is_not_run_again(compared):
    root, arms, found, _ = compared
    before = (root / "all" / "arm-0" / "seed-0" / "log.txt").read_bytes()
    again = comparison.compare(arms, seeds=[0, 1, 2], output_dir=root / "all")
    assert again.ranking == found.ranking
    assert (root / "all" / "arm-0" / "seed-0" / "log.txt").read_bytes() == before


WRITES = "prompt_tokens: 4, max_new_tokens: 4"


@pytest.mark.parametrize(
    ("words", "seeds", "says"),
    [
        (["", " train.max_steps=9"], [0, 1], "budgets differ"),
        (["", ""], [0, 1], "given twice"),
        ([""], [0, 1], "cannot be compared"),
        (["", " train.learning_rate=1"], [0], "two different seeds"),
        (["", " train.learning_rate=1"], [1, 1], "two different seeds"),
        (["", " train.max_steps=null train.num_train_epochs=1"], [0, 1], "unknown before its data is read"),
        (["", f" rollout='{{adaptive: {{}}, {WRITES}}}'"], [0, 1], "depends on a scheduler"),
        (["", f" rollout='{{lmbda: 0.5, {WRITES}}}'"], [0, 1], "budgets differ"),
        (["", " seed=3"], [0, 1], "would have no effect"),
        (["", " data.test=null"], [0, 1], "has no quality.perplexity"),
    ],
)
def test_what_cannot_be_compared_is_refused(materials, tmp_path, words, seeds, says):
    file = write_recipe(tmp_path, language_model(materials))
    with pytest.raises(InputError, match=says):
        comparison.compare([f"{file}{word}" for word in words], seeds=seeds, output_dir=tmp_path / "all")


def test_budgets_may_differ_when_asked(materials, tmp_path):
    file = write_recipe(tmp_path, language_model(materials))
    arms = [f"{file} train.max_steps=2", f"{file} train.max_steps=4"]
    found = comparison.compare(arms, seeds=[0, 1], output_dir=tmp_path / "all", any_budget=True)
    assert not found.equal_budget
    assert "allowed to differ" in (tmp_path / "all" / "report.html").read_text()
