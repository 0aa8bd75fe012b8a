"""Runs with varied rows: a stage of another task proposes words, the teacher says what the rows have become."""

import json

import numpy as np
import pytest
import torch

import potstill
from potstill.core.errors import ModelError
from potstill.data.augment.pieces import pieced, whole_words
from potstill.data.augment.settings import AugmentSettings
from potstill.data.augment.words import words_of
from potstill.proposing import Proposer
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from tests.run.tiny_recipe import classifier, write_recipe
from tests.students import tiny

TEXT = "the cat sat on blue mat running xyzzy house"


def proposer(materials, **more):
    loaded = load_model(ModelSettings(model_name_or_path=str(materials.root / "masked")), task="masked-lm", labels=None)
    settings = AugmentSettings(model_name_or_path="m", bf16=False, **more)
    return Proposer(loaded, settings, 20, [TEXT, "walking dogly run tree red"])


def test_whole_words_are_those_without_a_mark():
    words = set(whole_words(tiny.wordpiece()).values())
    assert {"cat", "dog", "house"} <= words
    assert not any(word.startswith("#") or word in ("PAD", "MASK") for word in words)


def test_places_of_words():
    (one,) = pieced(tiny.wordpiece(), ["the cat, running!"], 20)
    spelt = tiny.wordpiece().convert_ids_to_tokens(one.tokens)
    assert [word.text for word in one.words] == ["cat", "running"]
    assert [spelt[at] for at in one.places[0]] == ["cat"]
    assert "".join(spelt[at].removeprefix("##") for at in one.places[1]) == "running"
    (cut,) = pieced(tiny.wordpiece(), ["the cat running"], 5)
    assert cut.places[1] == (), "a word that is cut is left alone"


@pytest.mark.parametrize("passes", [1, 2, None])
def test_the_likeliest_whole_words_where_a_word_is_hidden(materials, passes):
    """Against one plain forward pass for each turn, over all logits."""
    one = proposer(materials, candidates=3, passes=passes)
    tokenizer, module = one.loaded.tokenizer, one.loaded.module
    words, found = words_of(TEXT), one.propose([TEXT])[0]
    ids = tokenizer(TEXT)["input_ids"]
    whole = whole_words(tokenizer)
    alone = [at for at, word in enumerate(words) if len(tokenizer.tokenize(word.text)) == 1]
    step = passes or len(alone)
    for turn in range(min(step, len(alone))):
        hidden = list(ids)
        places = {at: ids.index(tokenizer.convert_tokens_to_ids(words[at].text)) for at in alone[turn::step]}
        for place in places.values():
            hidden[place] = tokenizer.mask_token_id
        with torch.inference_mode():
            logits_LV = module(input_ids=torch.tensor([hidden])).logits[0]
        for at, place in places.items():
            ranked = logits_LV[place].argsort(descending=True).tolist()
            expected = [whole[index] for index in ranked if index in whole and index != ids[place]][:3]
            assert list(found[at]) == expected


def test_words_of_several_pieces_have_the_nearest_vectors_of_the_data(materials):
    one = proposer(materials, candidates=2)
    found = one.propose([TEXT])[0]
    words = [word.text for word in words_of(TEXT)]
    table = one.loaded.module.get_input_embeddings().weight.detach().double().numpy()
    known = sorted({*words, "walking", "dogly", "run", "tree", "red"})

    def vector(word):
        return table[one.loaded.tokenizer(word, add_special_tokens=False)["input_ids"]].mean(0)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    ranked = sorted((w for w in known if w != "running"), key=lambda w: -cosine(vector("running"), vector(w)))
    assert list(found[words.index("running")]) == ranked[:2]


def recipe(materials):
    found = classifier(materials)
    text = {"dataset_name": str(materials.rows("labelled")), "rows": "text"}
    found["stages"].insert(
        0,
        {
            "name": "speaker",
            "task": "masked-lm",
            "data": {"train": [text], "max_length": 16},
            "student": {"model_name_or_path": str(materials.encoder), "head": "fresh"},
            "objective": {"soft_weight": 0, "hard_weight": 1},
            "train": {"max_steps": 2, "bf16": False},
        },
    )
    found["augment"] = {"model_name_or_path": "stage:speaker", "bf16": False}
    return found


def test_a_run_with_varied_rows(materials, tmp_path):
    run = tmp_path / "run"
    potstill.run(write_recipe(tmp_path, recipe(materials)), output_dir=run)
    done = json.loads((run / "stages" / "student" / "stage.json").read_text())
    told = done["augment"]
    assert told["rows"] > 0
    assert done["data"]["splits"]["train"]["rows"] + sum(done["data"]["refused"].values()) >= 96
    assert done["data"]["splits"]["train"]["labelled"] == 48, "varied rows have no label"
    assert abs(told["replaced"] - 0.4 * told["words"]) < 4 * (0.24 * told["words"]) ** 0.5
    assert json.loads((run / "stages" / "labels" / "stage.json").read_text()).get("augment") is None
    (place,) = (run / "augmented").iterdir()
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == told["rows"]
    assert any("1 synthetic" in entry["notes"] for entry in json.loads((run / "ledger.json").read_text())["entries"])
    again = tmp_path / "again"
    potstill.run(write_recipe(tmp_path, recipe(materials)), output_dir=again)
    (other,) = (again / "augmented").iterdir()
    assert (other.name, (other / "rows.jsonl").read_bytes()) == (place.name, (place / "rows.jsonl").read_bytes())


def test_what_was_drawn_is_read_back(materials, tmp_path, monkeypatch):
    """A run that is stopped after the varying goes on without a model that proposes."""
    run, one = tmp_path / "run", recipe(materials)
    file = write_recipe(tmp_path, one)
    potstill.run(file, output_dir=run)
    done = run / "stages" / "student" / "stage.json"
    before = json.loads(done.read_text())["augment"]
    done.unlink()
    monkeypatch.setattr("potstill.augmenting.load_model", lambda *_, **__: pytest.fail("asked again"))
    potstill.run(file, output_dir=run)
    assert json.loads(done.read_text())["augment"] == before


def test_a_model_without_a_head_is_refused_with_the_next_step(materials, tmp_path):
    one = recipe(materials)
    one["stages"] = one["stages"][1:]
    one["augment"] = {"model_name_or_path": str(materials.encoder)}
    with pytest.raises(ModelError, match="fit a head in a first stage"):
        potstill.run(write_recipe(tmp_path, one), output_dir=tmp_path / "run")
