"""Perplexity as a stage: against four lines in fp64, with its bound, and as what a balance chooses by."""

import json
import math
from pathlib import Path

import pytest
import torch

from potstill.cli.main import main
from potstill.core.example import Example
from potstill.core.lineage import Lineage
from potstill.data.boundaries import token_ids
from potstill.data.curate.candidate import Candidate
from potstill.data.settings import SourceSettings
from potstill.perplexity import quality_stage
from potstill.recipe_curating import QualitySettings
from tests.students import tiny

SOURCE = (SourceSettings(dataset_name="a.jsonl", rows="completion"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    tiny.tiny("llama", "causal-lm").save_pretrained(place)
    tiny.word_level().save_pretrained(place)
    return place


def settings(folder, **more):
    return QualitySettings(model_name_or_path=str(folder), **{"max_length": 16, "batch": 2, **more})


def candidate(prompt, completion):
    return Candidate(Example(Lineage("a"), prompt=prompt, response=completion), "a.jsonl", "a.jsonl", 1)


TEXTS = [("w10 w11", " w12 w13"), ("w5", " w6 w7 w8 w9"), ("w20 w21 w22", " w23")]


def by_hand(prompt, completion):
    """The model on one row alone, in fp64: the tokens of the completion and the end token are what is learnt."""
    tokenizer, model = tiny.word_level(), tiny.tiny("llama", "causal-lm").double()
    given, learnt = token_ids(tokenizer, prompt), [*token_ids(tokenizer, completion), tokenizer.eos_token_id]
    with torch.no_grad():
        logprobs = model(torch.tensor([[*given, *learnt]])).logits[0].log_softmax(-1)
    losses = [-logprobs[len(given) + place - 1, token].item() for place, token in enumerate(learnt)]
    return math.exp(sum(losses) / len(losses))


def test_it_is_the_models_own_likelihood_of_what_is_learnt(folder):
    found = quality_stage(settings(folder), SOURCE)([candidate(*one) for one in TEXTS])
    assert [one.found["perplexity"] for one in found] == pytest.approx([by_hand(*one) for one in TEXTS], rel=1e-4)


def test_above_the_bound_it_is_dropped_with_its_value(folder):
    values = [by_hand(*one) for one in TEXTS]
    bound = sorted(values)[1] * 1.01
    found = quality_stage(settings(folder, max_perplexity=bound), SOURCE)([candidate(*one) for one in TEXTS])
    dropped = [one for one in found if isinstance(one, tuple)]
    assert [reason for _, reason in dropped] == ["unlikely to the model"]
    assert dropped[0][0].found["perplexity"] == pytest.approx(max(values), rel=1e-4)


def test_the_likeliest_answers_stay(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answers = [" w12 w13", " w40 w41", " w30 w31"]
    rows = [{"prompt": "w10 w11", "completion": answer} for answer in answers]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {
        "sources": [{"dataset_name": "a.jsonl", "rows": "completion"}],
        "duplicates": None,
        "quality": {"model_name_or_path": str(folder), "max_length": 16},
        "balance": {"per_prompt": 1, "by": "likelihood"},
        "output": "out.jsonl",
    }
    Path("job.yaml").write_text(json.dumps(job))
    assert main(["curate", "job.yaml"]) == 0
    kept = [json.loads(line)["completion"] for line in Path("out.jsonl").read_text().splitlines()]
    assert kept == [min(answers, key=lambda answer: by_hand("w10 w11", answer))]
