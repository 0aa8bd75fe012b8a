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


def test_since_leaves_earlier_rows_out_and_refuses_what_is_no_date(tmp_path, capsys):
    log = tmp_path / "q.jsonl"
    rows = [{"account": "a", "time": f"2026-11-2{day}T12:00:00+00:00", "prompt": "hello"} for day in (3, 4)]
    log.write_text("\n".join(map(json.dumps, rows)))
    assert main(["guard", str(log), "--since", "2026-11-24", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log"]["rows"] == 2
    assert main(["guard", str(log), "--since", "yesterday"]) == 2
    assert "is no date or time" in capsys.readouterr().err
