import json

from potstill.cli.main import main


def test_guard_reads_a_log_and_escapes_what_it_names(tmp_path, capsys):
    log = tmp_path / "q.jsonl"
    row = {"account": "\x1b[2Ja", "time": 1_000_000, "prompt": "hello"}
    log.write_text("\n".join([json.dumps(row)] * 30 + ["\x1b[31m{"]))
    assert main(["guard", str(log)]) == 0
    printed = capsys.readouterr().out
    assert "30 rows (jsonl), 1 broken" in printed
    assert "\x1b" not in printed
    assert main(["guard", str(log), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log"]["rows"] == 30


def test_guard_refuses_an_empty_log_and_an_unknown_format(tmp_path, capsys):
    log = tmp_path / "q.jsonl"
    log.write_text("")
    assert main(["guard", str(log)]) == 2
    assert "the log is empty" in capsys.readouterr().err
    assert main(["guard", str(log), "--format", "csv"]) == 2
    assert "is no log format" in capsys.readouterr().err
