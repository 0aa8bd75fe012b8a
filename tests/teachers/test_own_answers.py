"""A model of this process as a writer: batches with seeds of their own, its context, its stops, few-shot prompts."""

import asyncio
import json
from pathlib import Path

import pytest

from potstill.cli.main import main
from potstill.core.errors import RecipeError
from potstill.core.example import Message
from potstill.recipe_yaml import load_writing_job
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from potstill.teachers.answers import Question
from potstill.teachers.client import Refusal
from potstill.teachers.endpoint_settings import SamplingSettings
from potstill.teachers.own_answers import OwnAnswers, cut_at
from potstill.teachers.writer import asked_turns
from tests.students import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    tiny.tiny("llama", "causal-lm").save_pretrained(place)
    tiny.word_level().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def made(folder):
    return load_model(ModelSettings(model_name_or_path=str(folder)), task="causal-lm", labels=None)


def asked(made, texts, seeds, *, batch=4, context=32, **sampling):
    settings = SamplingSettings(route="completion", **{"max_tokens": 6, "top_p": 1.0, **sampling})

    async def all_of_them():
        own = OwnAnswers(made, "tiny", settings, context, batch)
        questions = [Question((Message("user", text),), seed) for text, seed in zip(texts, seeds, strict=True)]
        return await asyncio.gather(*map(own.answer, questions), return_exceptions=True)

    return asyncio.run(all_of_them())


def words(made, number):
    return made.tokenizer.decode(list(range(10, 10 + number)))


def test_a_row_has_its_own_seed_whoever_is_decoded_beside_it(made):
    text = words(made, 4)
    alone = [asked(made, [text], [seed])[0].text for seed in (1, 2, 3)]
    together = [one.text for one in asked(made, [text] * 3, [1, 2, 3])]
    smaller = [one.text for one in asked(made, [text] * 3, [1, 2, 3], batch=2)]
    assert alone == together == smaller
    assert len(set(alone)) > 1


def test_counts_and_the_greedy_answer(made):
    found = asked(made, [words(made, 3), words(made, 5)], [1, 2], temperature=0)
    assert [one.prompt_tokens for one in found] == [3, 5]
    assert all(1 <= one.completion_tokens <= 6 and one.finish in ("stop", "length") for one in found)
    assert found[0].text == asked(made, [words(made, 3)], [9], temperature=0)[0].text


def test_a_prompt_beyond_the_context_is_refused_and_the_others_are_answered(made):
    found = asked(made, [words(made, 3), words(made, 30), words(made, 4)], [1, 2, 3])
    assert isinstance(found[1], Refusal)
    assert "exceed the context of 32" in str(found[1])
    assert [type(one).__name__ for one in found] == ["Answer", "Refusal", "Answer"]


def test_the_text_ends_before_a_stop():
    assert cut_at("one\n\ntwo", ["\n\n", "two"]) == ("one", True)
    assert cut_at("one", ["two"]) == ("one", False)


def test_shots_are_earlier_turns_or_text_before():
    shots = [{"prompt": "1 + 1?", "completion": "It is 2."}]
    turns = (Message("user", "2 + 2?"),)
    chat = asked_turns(turns, SamplingSettings(shots=shots, template="Q: {prompt}", system="Think."))
    assert [(turn.role, turn.content) for turn in chat] == [
        ("system", "Think."), ("user", "Q: 1 + 1?"), ("assistant", "It is 2."), ("user", "Q: 2 + 2?"),
    ]  # fmt: skip
    plain = asked_turns(turns, SamplingSettings(shots=shots, template="Q: {prompt}\nA:", route="completion"))
    assert [turn.content for turn in plain] == ["Q: 1 + 1?\nA: It is 2.\n\nQ: 2 + 2?\nA:"]


def job_file(folder, **more):
    rows = [{"prompt": "w10 w11"}, {"prompt": "w12"}]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {
        "prompts": {"dataset_name": "prompts.jsonl", "rows": "text", "columns": {"text": "prompt"}},
        "model": {"model_name_or_path": str(folder)},
        "sampling": {"route": "completion", "samples": 3, "max_tokens": 5, "cut_answers": "keep"},
        "output": "out.jsonl",
        **more,
    }
    Path("job.yaml").write_text(json.dumps({name: value for name, value in job.items() if value is not None}))
    return "job.yaml"


def test_the_verb_writes_with_a_model_and_tells_what_it_cost(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    price = {"prompt": 1e6, "completion": 2e6}
    assert main(["write", job_file(folder, price=price), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert record["kept"] == len(rows) <= 6
    everything = rows + ([json.loads(line) for line in Path("out.rejects.jsonl").read_text().splitlines()]
                         if Path("out.rejects.jsonl").exists() else [])  # fmt: skip
    assert record["cost"] == sum(row["prompt_tokens"] + 2 * row["completion_tokens"] for row in everything)
    assert len({row["seed"] for row in everything}) == 6
    assert main(["write", "job.yaml"]) == 0
    assert "complete: nothing to ask" in capsys.readouterr().err


def test_who_writes_is_one_of_the_two(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for more in ({"model": None}, {"endpoint": {"url": "http://127.0.0.1:9/v1"}}):
        with pytest.raises(RecipeError, match="set one of them"):
            load_writing_job(job_file(folder, **more))
    with pytest.raises(RecipeError, match=r"endpoint\.concurrency"):
        load_writing_job(job_file(folder, model=None, endpoint={"url": "http://127.0.0.1:9/v1"}, batch=3))


def test_a_shot_that_is_also_asked_would_leak_its_answer(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sampling = {"route": "completion", "shots": [{"prompt": "w12", "completion": "w13"}]}
    assert main(["write", job_file(folder, sampling=sampling)]) == 2
    assert "prompts.jsonl:2" in capsys.readouterr().err
