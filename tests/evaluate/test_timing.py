import pytest
import torch

from potstill.core.errors import RunError
from potstill.evaluate.timing import (
    Conditions,
    greedy_decode,
    latency_findings,
    rate_findings,
    time_interleaved,
    torch_threads,
)

CONDITIONS = Conditions(batch_size=1, length=16, threads=1, resamples=200)


class FakeMachine:
    """A clock that stands still except while a model runs, and a log of who ran."""

    def __init__(self):
        self.now, self.log, self.threads = 0.0, [], []

    def model(self, name, costs):
        costs = iter(costs)

        def run():
            self.log.append(name)
            self.threads.append(torch.get_num_threads())
            self.now += next(costs)

        return run


def test_models_take_turns_and_warm_up_is_left_out():
    machine = FakeMachine()
    callables = {
        "teacher": machine.model("t", [9.0, 9.0, 4.0, 5.0, 6.0]),
        "student": machine.model("s", [7.0, 7.0, 1.0, 1.0, 2.0]),
    }
    found = time_interleaved(callables, rounds=3, threads=1, warm_up=2, clock=lambda: machine.now)
    assert found == {"teacher": [4.0, 5.0, 6.0], "student": [1.0, 1.0, 2.0]}
    assert machine.log == ["t", "s"] * 5


def test_a_turn_after_a_rest_begins_with_a_call_that_is_not_timed():
    machine, rests = FakeMachine(), []
    callables = {name: machine.model(name, [8.0, 1.0, 7.0, 2.0]) for name in ("a", "b")}
    found = time_interleaved(
        callables, rounds=1, threads=1, warm_up=1, rest=0.5, clock=lambda: machine.now, sleep=rests.append
    )
    assert found == {"a": [2.0], "b": [2.0]}
    assert machine.log == ["a", "a", "b", "b"] * 2
    assert rests == [0.5] * 4


def test_threads_are_set_while_timing_and_restored_after_an_error():
    before = torch.get_num_threads()
    other = before + 1
    machine = FakeMachine()
    time_interleaved({"a": machine.model("a", [1.0] * 4)}, rounds=1, threads=other, clock=lambda: machine.now)
    assert machine.threads == [other] * 4
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), torch_threads(other):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_nothing_is_recorded_for_gradients():
    weight = torch.ones(2, requires_grad=True)
    seen = []
    time_interleaved({"a": lambda: seen.append((weight * 2).requires_grad)}, rounds=1, threads=1, warm_up=0)
    assert seen == [False]


def test_latency_in_milliseconds_and_the_speed_up_of_neighbours():
    seconds = {"teacher": [0.4, 0.8, 0.4, 0.4, 4.0], "student": [0.1, 0.2, 0.1, 0.1, 1.0]}
    found = {(finding.subject, finding.name): finding for finding in latency_findings(seconds, CONDITIONS)}
    assert found["teacher", "cost.latency_p50_ms"].value == pytest.approx(400)
    assert found["student", "cost.latency_p50_ms"].value == pytest.approx(100)
    assert found["student", "cost.latency_p95_ms"].value == pytest.approx(840)
    speed_up = found["student", "cost.latency_speedup"]
    assert speed_up.value == pytest.approx(4.0)
    assert speed_up.interval == pytest.approx((4.0, 4.0))
    assert speed_up.evidence["reference"] == "teacher"
    assert ("teacher", "cost.latency_speedup") not in found
    evidence = found["student", "cost.latency_p50_ms"].evidence
    assert (evidence["threads"], evidence["batch_size"], evidence["length"], evidence["rounds"]) == (1, 1, 16, 5)


def test_rates_are_items_over_the_median_round():
    seconds = {"teacher": [2.0, 2.0, 2.0], "student": [0.5, 0.5, 100.0]}
    found = rate_findings("cost.throughput_rows_s", seconds, CONDITIONS, items=16, unit="rows/s")
    values = {(finding.subject, finding.name): finding.value for finding in found}
    assert values["teacher", "cost.throughput_rows_s"] == 8
    assert values["student", "cost.throughput_rows_s"] == 32
    assert values["student", "cost.throughput_rows_s_speedup"] == 4
    low, high = next(finding.interval for finding in found if finding.subject == "student")
    assert low <= 32 <= high


def test_decoding_asks_for_exactly_the_length_with_the_cache():
    asked = {}

    def generate(**options):
        asked.update(options)
        return torch.zeros(1, options["input_ids"].shape[1] + options["max_new_tokens"], dtype=torch.long)

    greedy_decode(generate, torch.tensor([[1, 2]]), 5)()
    assert (asked["min_new_tokens"], asked["max_new_tokens"]) == (5, 5)
    assert asked["use_cache"] is True
    assert asked["do_sample"] is False


def test_a_model_that_stops_early_is_not_fast():
    decode = greedy_decode(lambda **options: torch.zeros(1, 4, dtype=torch.long), torch.tensor([[1, 2]]), 5)
    with pytest.raises(RunError, match="made 2 tokens where 5"):
        decode()
