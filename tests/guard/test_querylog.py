import json
import tracemalloc

import pytest

from potstill.core.errors import DataError
from potstill.data.rows import Line
from potstill.guard.querylog import DAY, Clock, LogReading, read_lines, read_log

NGINX = '203.0.113.9 - - [10/Oct/2026:13:55:36 +0000] "GET /v1/ask?q=what%20is%20a%20still HTTP/1.1" 200 400 "-" "x"'


def lines(*texts):
    return [Line(number, text.encode(), True) for number, text in enumerate(texts, start=1)]


def row(**more):
    return json.dumps({"account": "a", "time": 1_000_000, "prompt": "hello", **more})


def test_jsonl_with_options():
    text = row(temperature=0.5, n=4, top_logprobs=5, max_tokens=9, output_tokens=7, ip="10.1.2.3")
    (query,) = read_lines(lines(text), "log")
    assert (query.account, query.time, query.prompt, query.network) == ("a", 1e6, "hello", "10.1.2.0/24")
    assert (query.temperature, query.candidates, query.logprobs, query.limit, query.output) == (0.5, 4, 5, 9, 7)


def test_openai_style_is_told_apart_and_the_key_is_only_a_fingerprint():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "old"},
        {"role": "user", "content": [{"type": "text", "text": "new"}]},
    ]
    text = json.dumps(
        {
            "created": "2026-01-02T00:00:00+00:00",
            "api_key": "sk-verysecret",
            "request": {"messages": messages, "logprobs": True},
            "response": {"usage": {"completion_tokens": 12}},
        }
    )
    reading = LogReading()
    (query,) = read_lines(lines(text), "log", reading=reading)
    assert reading.format == "openai"
    assert query.prompt == "Be brief.\nnew"
    assert (query.logprobs, query.output) == (1, 12)
    assert query.account.startswith("key-")
    assert "secret" not in query.account


def test_nginx():
    reading = LogReading()
    (query,) = read_lines(lines(NGINX), "log", reading=reading)
    assert reading.format == "nginx"
    assert (query.account, query.prompt, query.output) == ("203.0.113.9", "what is a still", 100)
    assert query.time == 1_791_640_536


def test_milliseconds_are_seconds():
    (query,) = read_lines(lines(row(time=1_700_000_000_000)), "log")
    assert query.time == 1_700_000_000


def test_broken_lines_are_counted_and_named_and_do_not_stop():
    bad = ["{", row(temperature="hot"), row(prompt=3), row(time="soon"), '{"time": 1, "prompt": "x"}', "[]"]
    reading = LogReading()
    assert len(list(read_lines(lines(row(), *bad, row()), "log", "jsonl", reading))) == 2
    assert reading.broken.total() == len(bad)
    assert [line for line, _ in reading.named] == [2, 3, 4, 5, 6, 7]
    assert reading.broken["no account"] == 1


@pytest.mark.parametrize("value", ["1e999", "-1", "99999999999999999"])
def test_times_outside_of_time_are_broken_lines(value):
    reading = LogReading()
    bad = '{"account": "a", "prompt": "x", "time": ' + value + "}"
    assert len(list(read_lines(lines(row(), bad), "log", "jsonl", reading))) == 1
    assert reading.broken["time cannot be read"] == 1


def test_hostile_text_is_escaped_where_it_is_named():
    reading = LogReading()
    hostile = 'x \x1b[31m "‮'
    list(read_lines(lines(row(), hostile, row(**{"\x1b]0;owned\x07": 1, "time": "\x1b[2J"})), "log", "jsonl", reading))
    assert len(reading.named) == 2
    assert all(cause.isprintable() for _, cause in reading.named)


def test_an_empty_log_and_another_format_are_refused(tmp_path):
    empty = tmp_path / "empty.log"
    empty.write_text("\n\n")
    with pytest.raises(DataError, match="the log is empty"):
        list(read_log(empty))
    with pytest.raises(DataError, match="no known log format"):
        list(read_lines(lines("Nov 24 kernel: hello", "more"), "log"))
    with pytest.raises(DataError, match=r"log:1: not JSON.*read as jsonl"):
        list(read_lines(lines(*["nothing"] * 1200), "log", "jsonl"))
    with pytest.raises(DataError, match="nowhere"):
        list(read_log(tmp_path / "nowhere"))


def test_one_wrong_stamp_moves_nobody_and_a_real_gap_moves_the_clock():
    clock = Clock()
    assert clock.place(1000.0) == (1000.0, False)
    assert clock.place(900.0) == (900.0, False)
    assert clock.place(9e9) == (1000.0, True)
    assert clock.place(1001.0) == (1001.0, False)
    gap = 1001.0 + 10 * DAY
    assert clock.place(gap) == (1001.0, True)
    assert clock.place(gap + 1) == (gap + 1, True)
    assert clock.place(gap + 2) == (gap + 2, False)
    assert clock.place(5.0)[0] == gap + 2


def test_jumps_are_counted_and_named():
    reading = LogReading()
    times = [r.time for r in read_lines(lines(row(), row(time=9e9), row()), "log", reading=reading)]
    assert times == [1e6, 1e6, 1e6]
    assert reading.jumps == 1
    assert reading.named[0][0] == 2


def test_memory_does_not_grow_with_rows():
    def peak(rows):
        tracemalloc.start()
        made = (Line(n, row(time=1_000_000 + n).encode(), True) for n in range(1, rows + 1))
        assert sum(1 for _ in read_lines(made, "log")) == rows
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(100)
    assert peak(1500) < 1.2 * peak(300)
