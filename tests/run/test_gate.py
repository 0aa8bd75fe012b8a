"""Runs and the gate: stopped before anything is loaded, answered, released, taken apart; each said in one message."""

import json
import re
import shutil
from pathlib import Path

import pytest

import potstill
from potstill.cli.main import main
from potstill.core.errors import FolderError, GateError, TermsError
from potstill.licensing import clear, of_recipe
from potstill.recipe_yaml import load_recipe
from tests.run.tiny_recipe import language_model, write_recipe

WHO = ("--by", "A. Person", "--date", "2026-11-24", "--reason", "we read <b>them</b>")


@pytest.fixture
def mine(finished, tmp_path):
    """A finished run that may be taken apart."""
    return shutil.copytree(finished[0], tmp_path / "run")


def gemma_folder(materials, place):
    """A decoder whose card says Gemma; the weights are of no interest here."""
    folder = shutil.copytree(materials.decoder, place / "gemma")
    (folder / "README.md").write_text("---\nlicense: gemma\n---\n")
    return folder


def test_terms_stop_a_run_before_it_loads_until_a_person_accepts_and_the_card_carries_the_notice(
    materials, tmp_path, capsys, monkeypatch
):
    recipe = language_model(materials)
    recipe["teacher"]["models"] = [{"model_name_or_path": str(gemma_folder(materials, tmp_path))}]
    file, run = write_recipe(tmp_path, recipe), tmp_path / "run"
    with pytest.raises(TermsError, match=r"licence\.gemma: teacher\.models\.0 .*must be accepted first") as caught:
        potstill.run(file, output_dir=run)
    assert f"potstill gate {run} --accept gemma" in str(caught.value)
    assert not list(run.glob("stages/*/*"))
    assert main(["gate", str(run), "--accept", "gemma", *WHO]) == 0
    record = potstill.resume(run)
    (gemma,) = [one for one in record.findings if one.name == "licence.gemma"]
    assert gemma.verdict == "warn"
    card = (run / "model" / "README.md").read_text()
    notice = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
    assert notice in card
    assert (run / "model" / "NOTICE").read_text() == f"{notice}\n"
    assert "accepted by A. Person on 2026-11-24: we read &lt;b&gt;them&lt;/b&gt;" in card
    assert "we read &lt;b&gt;them&lt;/b&gt;" in (run / "report.html").read_text()
    capsys.readouterr()
    assert main(["gate", str(run)]) == 1, "nobody stated a licence for the tiny student and its rows"
    assert "stop  licence.undeclared" in capsys.readouterr().out
    assert main(["gate", str(run), "--accept", "undeclared", *WHO]) == 0
    assert main(["gate", str(run)]) == 0
    assert main(["gate", str(run), "--verify"]) == 0


def test_rows_that_state_a_licence_nobody_knows_stop_before_they_are_learnt_from(materials, tmp_path, capsys):
    """It stands in the rows alone, so it is found when they are read; the answer is about their source."""
    recipe = language_model(materials)
    (source,) = recipe["data"]["train"]
    lines = [json.loads(line) for line in Path(source["dataset_name"]).read_text().splitlines()]
    stated = {"source": "somebody/rows", "revision": "1", "licence": "banana", "maker": "human", "generation": 0}
    place = tmp_path / "rows.jsonl"
    place.write_text("".join(json.dumps({**row, "lineage": stated}) + "\n" for row in lines))
    recipe["data"]["train"] = [{**source, "dataset_name": str(place)}]
    run = tmp_path / "run"
    with pytest.raises(TermsError, match=r"licence\.unknown: somebody/rows \(banana\)"):
        potstill.run(write_recipe(tmp_path, recipe), output_dir=run)
    assert not list(run.glob("stages/*/checkpoints/*"))
    assert main(["gate", str(run), "--accept", "unknown", *WHO]) == 0
    potstill.resume(run)
    capsys.readouterr()
    assert main(["gate", str(run)]) == 1
    assert "licence.unknown: accepted by A. Person" in capsys.readouterr().out


def test_a_student_of_gemma_is_under_gemma_in_the_next_run(materials, tmp_path):
    """What was accepted once is asked again of whoever learns from the student: the card says so."""
    folder = shutil.copytree(materials.decoder, tmp_path / "student")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: apache-2.0 and gemma\n---\n")
    recipe = language_model(materials)
    recipe["student"]["model_name_or_path"] = str(folder)
    with pytest.raises(TermsError, match=r"licence\.gemma: student "):
        clear(load_recipe(write_recipe(tmp_path, recipe)), tmp_path / "run")


def test_validate_and_plan_stop_at_a_packaged_gemma_without_its_package(tmp_path, capsys, materials):
    recipe = language_model(materials)
    recipe["teacher"]["models"] = [{"model_name_or_path": "packaged:gemma-3-270m"}]
    file = str(write_recipe(tmp_path, recipe))
    for verb in ("validate", "plan"):
        assert main([verb, file, f"output_dir={tmp_path.name}"]) == 2
        assert "licence.gemma: teacher.models.0 packaged:gemma-3-270m (Gemma)" in capsys.readouterr().err
    assert main(["validate", "half-decoder"]) == 0
    assert "licence.cc-by-sa: allowed, and whoever passes the student on owes: share-alike" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "terms"),
    [
        ("https://api.openai.com/v1", "openai-api"),
        ("https://api.anthropic.com/v1", "anthropic-api"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "google-api"),
        ("https://somewhere.example/v1", "unknown"),
    ],
)
def test_a_paid_endpoint_as_writer_stops_before_the_first_question(tmp_path, capsys, monkeypatch, url, terms):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"text": "say something"}\n')
    job = {
        "prompts": {"dataset_name": "prompts.jsonl", "rows": "text", "licence": "CC0-1.0"},
        "endpoint": {"url": url, "model": "m"},
        "output": "out.jsonl",
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    assert main(["write", "job.yaml"]) == 2
    message = capsys.readouterr().err
    assert f"licence.{terms}: endpoint m (unknown)" in message
    flag = re.search(r"(--accept|--override) (\S+) ", message)
    assert main(["gate", "out.jsonl", flag[1], flag[2], *WHO]) == 0
    from potstill.licensing import clear_job
    from potstill.recipe_yaml import load_writing_job

    clear_job(load_writing_job("job.yaml"), tmp_path / "out.jsonl")


def test_a_stop_finding_blocks_the_export_until_it_is_overridden(mine, capsys):
    shutil.rmtree(mine / "model")
    (mine / "export.json").unlink()
    found = json.loads((mine / "findings.json").read_text())
    found.append({**found[0], "name": "audit.refusal", "verdict": "stop", "interval": None})
    (mine / "findings.json").write_text(json.dumps(found))
    with pytest.raises(GateError, match=r"the gate is closed, and nothing is exported: audit\.refusal"):
        potstill.resume(mine)
    assert not (mine / "model").exists()
    assert "Stopped by: audit.refusal" in (mine / "report.html").read_text()
    assert main(["gate", str(mine), "--override", "audit.other", *WHO]) == 2
    assert "nothing of this name stops" in capsys.readouterr().err
    assert main(["gate", str(mine), "--override", "audit.refusal", *WHO]) == 0
    potstill.resume(mine)
    card = (mine / "model" / "README.md").read_text()
    assert "audit.refusal stopped it; overridden by A. Person on 2026-11-24" in card
    assert "Released although" in (mine / "report.html").read_text()
    capsys.readouterr()
    assert main(["gate", str(mine), "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert values["stops"] == ["licence.undeclared"]
    assert [one["finding"] for one in values["overrides"]] == ["audit.refusal"]


def faults(run, capsys):
    assert main(["gate", str(run), "--verify", "--json"]) == 1
    return json.loads(capsys.readouterr().out)["faults"]


def test_files_that_were_changed_are_named(mine, capsys):
    assert main(["gate", str(mine), "--verify"]) == 0
    capsys.readouterr()
    (mine / "model" / "config.json").open("a").write(" ")
    (mine / "model" / "extra.bin").write_text("x")
    (mine / "stages" / "teacher" / "model" / "tokenizer.json").unlink()
    found = "\n".join(faults(mine, capsys))
    assert "model/config.json was changed" in found
    assert "model/extra.bin was added" in found
    assert "checkpoint teacher" in found
    assert "stages/teacher/model/tokenizer.json is gone" in found


def test_a_ledger_that_was_changed_is_named_and_never_written_over(mine, capsys):
    place = mine / "ledger.json"
    ledger = json.loads(place.read_text())
    ledger["graph"]["nodes"][0]["licence"] = "CC0-1.0"
    place.write_text(json.dumps(ledger))
    before = place.read_bytes()
    assert "was changed after it was written" in faults(mine, capsys)[0]
    with pytest.raises(FolderError, match="find out who changed it"):
        potstill.resume(mine)
    assert place.read_bytes() == before
    place.unlink()
    potstill.resume(mine)
    assert main(["gate", str(mine), "--verify"]) == 0


def test_a_ledger_of_before_there_was_a_graph_gets_one(mine, capsys):
    place = mine / "ledger.json"
    whole = json.loads(place.read_text())
    place.write_text(json.dumps({key: value for key, value in whole.items() if key != "graph"}))
    assert main(["gate", str(mine)]) == 2
    assert "holds no graph" in capsys.readouterr().err
    potstill.resume(mine)
    assert json.loads(place.read_text()) == whole


def test_a_run_that_was_stopped(mine, capsys):
    for name in ("ledger.json", "findings.json", "export.json", "gate.json", "report.html"):
        (mine / name).unlink()
    assert main(["gate", str(mine)]) == 2
    assert "was stopped before it had a ledger: `potstill resume" in capsys.readouterr().err
    assert main(["gate", str(mine), "--verify"]) == 2
    assert main(["report", str(mine)]) == 0
    assert main(["gate", str(mine), "--accept", "undeclared", *WHO]) == 0
    kept = json.loads((mine / "answers.json").read_text())
    assert len(kept[0]["covers"]) == len({one.name for one in of_recipe(load_recipe(mine / "config.yaml"))})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--accept", "gemma"), "--by is missing"),
        (("--accept", "banana", *WHO), "no such terms"),
        (("--accept", "gemma", "--override", "x", *WHO), "give one at a time"),
        (("--by", "me"), "belong to an answer"),
        (("--bom", "pdf"), "no such form; there are cyclonedx, spdx"),
    ],
)
def test_answers_that_are_none(mine, capsys, words, message):
    assert main(["gate", str(mine), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (mine / "answers.json").exists()


def test_no_run(tmp_path, capsys):
    for words in ((), ("--accept", "gemma", *WHO)):
        assert main(["gate", str(tmp_path / "nothing"), *words]) == 2
        assert "no run lies here" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_answers_that_were_damaged(mine, capsys):
    (mine / "answers.json").write_text("{")
    assert main(["gate", str(mine)]) == 2
    assert "remove it and answer again" in capsys.readouterr().err
