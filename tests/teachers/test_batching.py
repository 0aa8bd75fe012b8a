"""Rows of many askers in one pass: everyone gets the answers to their own rows, and nobody waits for ever."""

import threading
import time

import pytest
import torch

from potstill.teachers.batching import Batching, _bucket
from potstill.teachers.codec import unpack
from potstill.teachers.limits import Limits, Refused
from potstill.teachers.metrics import Metrics
from potstill.teachers.packing import Packing
from potstill.teachers.question import Facts, ask, read
from tests.teachers.served import ORIGIN, Counting, batch_of, expected


class Room:
    def __init__(self, teacher=None, **limits):
        self.teacher, self.limits = teacher or Counting(), Limits(**limits)
        self.metrics = Metrics()
        self.batching = Batching(self.teacher, self.limits, self.metrics)
        self.facts = Facts("counting", "causal-lm", self.teacher.identity, None, 512, ("logits", "top-k"), ORIGIN)
        self.packing = Packing("logits", self.teacher.identity)

    def ask(self, batch, packing=None):
        return self.batching.submit(read(ask(batch, packing or self.packing), self.facts, self.limits))

    def heard(self, future, batch, packing=None):
        return unpack(future.result(10), batch, packing or self.packing).logits


@pytest.fixture
def room():
    made = []

    def make(*args, **limits):
        made.append(Room(*args, **limits))
        return made[-1]

    yield make
    for one in made:
        one.batching.close(seconds=5)


def test_one_question_is_one_pass(room):
    one, batch = room(), batch_of([1, 2, 3], [4, 5])
    future = one.ask(batch)
    one.batching.start()
    assert torch.equal(one.heard(future, batch).logits_BTV, expected(batch))
    assert one.teacher.asked == [(2, 3)]


def test_rows_of_several_askers_share_a_pass_and_each_hears_of_its_own(room):
    one = room()
    batches = [batch_of(*[[n, *range(1, 2 + n)] for _ in range(3)], name=f"asker{n}") for n in range(1, 6)]
    futures = [one.ask(batch) for batch in batches]
    one.batching.start()
    for future, batch in zip(futures, batches, strict=True):
        assert torch.equal(one.heard(future, batch).logits_BTV, expected(batch))
    assert one.teacher.asked == [(15, 7)]
    one.batching.close(seconds=5)
    assert one.metrics.value("forwards_total") == 1


def test_rows_of_unlike_length_are_read_apart_and_come_back_in_order(room):
    one, batch = room(), batch_of([1] * 40, [2] * 3, [3] * 41, [4] * 20, [5] * 2)
    future = one.ask(batch)
    one.batching.start()
    assert torch.equal(one.heard(future, batch).logits_BTV, expected(batch))
    assert sorted(one.teacher.asked) == [(1, 20), (2, 3), (2, 41)]
    one.batching.close(seconds=5)
    read_in_all = one.metrics.value("tokens_total") + one.metrics.value("padding_total")
    assert read_in_all == sum(rows * length for rows, length in one.teacher.asked)


def test_a_pass_holds_no_more_than_the_limit(room):
    one, batch = room(max_batch_tokens=32), batch_of(*[[n] * 10 for n in range(1, 9)])
    future = one.ask(batch)
    one.batching.start()
    assert torch.equal(one.heard(future, batch).logits_BTV, expected(batch))
    assert one.teacher.asked == [(3, 10), (3, 10), (2, 10)]


def test_other_terms_are_another_pass(room):
    one, batch = room(), batch_of([1, 2, 3])
    top = Packing("top-k", one.teacher.identity, top_k=2, temperature=2.0)
    futures = [one.ask(batch), one.ask(batch, top)]
    one.batching.start()
    assert torch.equal(one.heard(futures[0], batch).logits_BTV, expected(batch))
    assert one.heard(futures[1], batch, top).indices_BTK[0, 0].tolist() == [10, 9]
    assert len(one.teacher.asked) == 2


def test_the_oldest_row_is_next_however_many_come_after_it(room):
    """A long row that is alone in its bucket is not starved by short ones."""
    one = room(max_batch_tokens=16, max_queued=1000)
    long = batch_of([9] * 200)
    futures = [one.ask(batch_of([1] * 10)) for _ in range(3)]
    last = one.ask(long)
    futures += [one.ask(batch_of([1] * 10)) for _ in range(30)]
    one.batching.start()
    last.result(10)
    assert one.teacher.asked.index((1, 200)) == 3


def test_a_full_queue_says_when_to_come_again(room):
    one = room(max_queued=2)
    for _ in range(2):
        one.ask(batch_of([1, 2]))
    with pytest.raises(Refused) as caught:
        one.ask(batch_of([1, 2]))
    assert caught.value.status == 429
    assert caught.value.retry_after >= 1
    tokens = room(max_queued_tokens=10)
    tokens.ask(batch_of([1] * 9))
    with pytest.raises(Refused) as caught:
        tokens.ask(batch_of([1] * 9))
    assert caught.value.status == 429


def test_what_is_taken_back_leaves_the_queue_at_once(room):
    one = room(max_queued=2)
    for _ in range(200):
        future = one.ask(batch_of([1, 2], [3] * 40))
        assert future.cancel()
    assert one.batching._buckets == {}
    assert one.batching._tokens == 0
    assert one.metrics.value("cancelled_total") == 200
    one.batching.start()
    batch = batch_of([4, 5])
    assert torch.equal(one.heard(one.ask(batch), batch).logits_BTV, expected(batch))
    assert one.teacher.asked == [(1, 2)]


def test_taken_back_while_it_is_read(room):
    one = room()
    one.teacher.hold = threading.Event()
    one.batching.start()
    future = one.ask(batch_of([1, 2]))
    while not one.teacher.asked:
        time.sleep(0.01)
    future.cancel()
    one.teacher.hold.set()
    batch = batch_of([4, 5])
    assert torch.equal(one.heard(one.ask(batch), batch).logits_BTV, expected(batch))


def test_after_the_deadline_nobody_is_answered(room):
    one = room(deadline_s=0.05)
    future = one.ask(batch_of([1, 2]))
    time.sleep(0.1)
    one.batching.start()
    with pytest.raises(Refused) as caught:
        future.result(10)
    assert caught.value.status == 504
    assert one.teacher.asked == []


def test_nan_in_one_row_is_not_the_fault_of_its_company(room):
    one = room()
    one.teacher.broken_token = 7
    good, bad = batch_of([1, 2, 3], name="good"), batch_of([1, 7, 3], name="bad")
    futures = [one.ask(good), one.ask(bad)]
    one.batching.start()
    assert torch.equal(one.heard(futures[0], good).logits_BTV, expected(good))
    with pytest.raises(Refused, match="not finite") as caught:
        futures[1].result(10)
    assert caught.value.status == 422


def test_a_model_that_fails_is_no_end_of_the_service(room):
    one, batch = room(), batch_of([1, 2])
    sound = one.teacher.signal
    one.teacher.signal = lambda batch, want: 1 / 0
    one.batching.start()
    with pytest.raises(Refused, match="the model failed") as caught:
        one.ask(batch).result(10)
    assert caught.value.status == 500
    one.teacher.signal = sound
    assert torch.equal(one.heard(one.ask(batch), batch).logits_BTV, expected(batch))


def test_closing_tells_those_who_wait(room):
    one = room()
    future = one.ask(batch_of([1, 2]))
    one.batching.close(seconds=0.1)
    with pytest.raises(Refused) as caught:
        future.result(1)
    assert caught.value.status == 503
    with pytest.raises(Refused):
        one.ask(batch_of([1, 2]))


@pytest.mark.parametrize(("length", "bucket"), [(1, 16), (16, 16), (17, 32), (32, 32), (33, 64), (1000, 1024)])
def test_buckets_double(length, bucket):
    assert _bucket(length) == bucket
