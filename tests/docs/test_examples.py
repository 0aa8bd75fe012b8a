"""examples/own-data.yaml is a good recipe, stands in the tutorial as it is, and reads the files it describes."""

import json

from potstill.data.prepare import prepare
from potstill.recipe_yaml import load_curation, load_recipe, load_writing_job
from tests.docs.generators import DOCS, generator
from tests.students.tiny import wordpiece

EXAMPLE = DOCS.parent / "examples" / "own-data.yaml"


def test_the_recipe_has_no_fault():
    recipe = load_recipe(EXAMPLE)
    assert recipe.name == "tickets"
    assert recipe.controls == ("labels", "untrained", "tfidf")


def test_a_curation_goes_on_where_the_writing_ends():
    writing, curation = (DOCS.parent / "examples" / name for name in ("write.yaml", "curate.yaml"))
    assert load_curation(curation).sources[0].dataset_name == load_writing_job(writing).output


def test_the_tutorial_shows_it_as_it_is():
    written = (DOCS / "tutorial-classifier.md").read_text(encoding="utf-8")
    assert written == generator("make_examples").page(written), "run `python docs/make_examples.py`"
    assert "    # A support ticket goes to one of four queues" in written


def test_the_files_it_describes_are_read(tmp_path, monkeypatch):
    recipe = load_recipe(EXAMPLE, ["data.max_length=16"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for number, name in enumerate(("tickets", "tickets-validation", "tickets-test")):
        rows = [f"the cat {'sat ' * (number + 1)}{queue[0]},{queue}\n" for queue in recipe.data.labels]
        (tmp_path / "data" / f"{name}.csv").write_text("message,queue\n" + "".join(rows))
    lines = [json.dumps({"message": f"the dog {word}"}) + "\n" for word in ("walk", "run")]
    (tmp_path / "data" / "unlabelled.jsonl").write_text("".join([*lines, "not JSON\n"]))
    prepared = prepare(recipe.data, wordpiece(), recipe.task, recipe.seed)
    assert prepared.labels == ("billing", "bug", "how-to", "other")
    assert [row.label for row in prepared.train.encoded] == [0, 1, 2, 3, None, None]
    assert len(prepared.validation.encoded) == len(prepared.test.encoded) == 4
    assert dict(prepared.quarantine.counts) == {"not JSON": 1}
