"""How a command ends: exit codes, one message, no traceback unless asked, JSON for machines, no secrets."""

import json
from types import SimpleNamespace
from unittest.mock import DEFAULT, create_autospec

import pytest

from potstill import still
from potstill.cli.main import main
from potstill.core.errors import NumbersError, Stopped
from potstill.core.record import RunRecord
from potstill.recipe_yaml import load_recipe


@pytest.fixture
def verbs(monkeypatch):
    """The functions that do the work, replaced by ones of the same signature that only remember their calls."""
    record = RunRecord(folder="runs/x", recipe=load_recipe("classifier").model_dump(mode="json"))
    replaced = {}
    for name in ("run", "resume", "evaluate_run", "export_run", "report_run"):
        replaced[name] = create_autospec(getattr(still, name), return_value=record)
        monkeypatch.setattr(still, name, replaced[name])
    return SimpleNamespace(**replaced)


def test_run_hands_over_a_checked_recipe_and_its_flags(verbs, capsys):
    verbs.run.side_effect = lambda *_, **__: print("a library talks") or DEFAULT
    arguments = ["run", "classifier", "train.max_steps=7", "--output-dir", "runs/y", "--trust-remote-code"]
    assert main(arguments) == 0
    recipe = load_recipe("classifier", ["train.max_steps=7"])
    verbs.run.assert_called_once_with(recipe, output_dir="runs/y", trust_remote_code=True, rank_timeout=600.0)
    out, err = capsys.readouterr()
    assert "a library talks" in err
    assert "a library talks" not in out
    assert "run folder: runs/x" in out


@pytest.mark.parametrize(
    ("verb", "function"),
    [("run", "run"), ("resume", "resume"), ("evaluate", "evaluate_run"), ("export", "export_run")],
)
def test_remote_code_is_on_exactly_when_the_flag_is_given(verbs, verb, function):
    assert main([verb, "classifier"]) == 0
    assert main([verb, "classifier", "--trust-remote-code"]) == 0
    trusted = [call.kwargs["trust_remote_code"] for call in getattr(verbs, function).call_args_list]
    assert trusted == [False, True]


def test_the_result_as_json_is_all_of_stdout(verbs, capsys):
    for verb in ("run", "resume", "evaluate"):
        assert main([verb, "classifier", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["folder"] == "runs/x"


def test_export_and_report_name_what_they_wrote(verbs, capsys):
    assert main(["export", "runs/x"]) == 0
    assert main(["report", "runs/x"]) == 0
    assert capsys.readouterr().out == "runs/x/model\nruns/x/report.html\n"
    verbs.export_run.assert_called_once_with("runs/x", formats=(), trust_remote_code=False)
    verbs.report_run.assert_called_once_with("runs/x")


@pytest.mark.parametrize("verb", ["resume", "evaluate", "export", "report"])
def test_a_folder_that_holds_no_run_is_refused(verb, tmp_path, capsys):
    assert main([verb, str(tmp_path)]) == 2
    assert "no run lies here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distil"], "distil"),
        (["runn"], "Did you mean 'run'?"),
        (["run"], "FILE"),
        (["run", "classifier", "--fast"], "--fast"),
        (["validate", "absent.yaml"], "no such file"),
        (["validate", "classifier", "foo=1"], "not a setting"),
        (["cp", "clasifier"], "Did you mean `classifier`?"),
        (["cp", "classifier", "absent/folder/x.yaml"], "cannot be written"),
    ],
)
def test_wrong_input_ends_with_2_and_one_message(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert words in json.loads(out)["error"]
    assert json.loads(out)["exit_code"] == 2
    assert err == ""


def test_no_verb_at_all_shows_the_help_and_ends_with_2(capsys):
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (NumbersError("3 steps were not finite"), 1, "3 steps were not finite"),
        (Stopped(15, "saved at step 3; resume with `potstill resume runs/x`"), 143, "saved at step 3"),
        (Stopped(2, "saved"), 130, "saved"),
        (KeyboardInterrupt(), 130, "Ctrl-C"),
        (ZeroDivisionError("a fault of ours"), 1, "ZeroDivisionError: a fault of ours"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (EOFError("a file ended early"), 1, "a file ended early"),
    ],
    ids=repr,
)
def test_a_failed_run_ends_with_its_code_and_no_traceback(verbs, capsys, error, code, words):
    verbs.run.side_effect = error
    assert main(["run", "classifier"]) == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


def test_a_traceback_is_shown_when_asked_for(verbs, capsys, monkeypatch):
    verbs.run.side_effect = ZeroDivisionError("ours")
    assert main(["--traceback", "run", "classifier"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("POTSTILL_TRACEBACK", "1")
    assert main(["run", "classifier"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_no_secret_is_in_an_error_a_traceback_or_json(verbs, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", 'canary"1234')
    monkeypatch.setenv("POTSTILL_TRACEBACK", "1")
    verbs.run.side_effect = RuntimeError('the hub refused canary"1234 at https://me:canary@hub')
    main(["run", "classifier"])
    main(["run", "classifier", "--json"])
    out, err = capsys.readouterr()
    assert "canary" not in out + err
    assert "[redacted]" in out
    assert "[redacted]" in err


def test_the_faults_of_a_recipe_come_as_json_with_their_places(capsys):
    assert main(["validate", "classifier", "sead=1", "train.max_steps=-1", "--json"]) == 2
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [(fault["where"], fault["line"], fault["path"], fault["suggestion"]) for fault in faults] == [
        ("override", 1, "sead", "seed"),
        ("override", 2, "train.max_steps", None),
    ]
