"""A teacher elsewhere is learnt from exactly as one here, or not at all: faults 18, 19 and 20."""

import dataclasses
import threading
import time

import pytest
import torch

from potstill.core.errors import SignalError, Stopped, TeacherAway, TeacherError
from potstill.core.signal import DenseLogits, Want
from potstill.teachers.pool import BREAK_AFTER
from potstill.teachers.wire import Frame
from tests.teachers import faults
from tests.teachers.served import KEY, Counting, batch_of, expected, identity, remote, serving

BATCH = batch_of([3, 1, 4], [1, 5], [9])
TOP = Want(top_k=3, temperature=2.0)


class Faulty:
    """Does what `fault` says to signals as long as there is one; None: sound. seen: how often it did."""

    def __init__(self, fault=None, times=10**9):
        self.fault, self.times, self.seen = fault, times, 0

    def __call__(self, app):
        async def wrapped(scope, receive, send):
            if self.fault is not None and scope.get("path") == "/v1/signals" and self.seen < self.times:
                self.seen += 1
                await self.fault(app, scope, receive, send)
            else:
                await app(scope, receive, send)

        return wrapped


@pytest.mark.parametrize("kind", ["http", "tcp", "unix"])
def test_over_every_way_the_signal_is_the_teachers(kind, tmp_path):
    with serving(folder=tmp_path) as service:
        teacher = remote(service.url(kind), tmp_path)
        assert teacher.voice == identity().voice
        for _ in range(3):
            signal = teacher.signal(BATCH, Want())
            assert isinstance(signal.logits, DenseLogits)
            assert torch.equal(signal.logits.logits_BTV, expected(BATCH))
        sparse = teacher.signal(BATCH, TOP).logits
        assert sparse.indices_BTK[0, 0].tolist() == [10, 9, 8]
        assert sparse.temperature == 2.0
        teacher.close()


def test_what_was_expected_was_asked_for_ahead(tmp_path):
    counting = Counting()
    with serving(counting) as service:
        teacher = remote(service.http, tmp_path)
        batches = [batch_of([n, 2, 3], name=f"b{n}") for n in range(1, 4)]
        for batch in batches:
            teacher.expect(batch, Want())
        until = time.monotonic() + 5
        while sum(rows for rows, _ in counting.asked) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        passes = len(counting.asked)
        for batch in batches:
            assert torch.equal(teacher.signal(batch, Want()).logits.logits_BTV, expected(batch))
        assert len(counting.asked) == passes
        teacher.expect(batches[0], Want())
        teacher.forget()
        assert torch.equal(teacher.signal(batches[0], Want()).logits.logits_BTV, expected(batches[0]))


def test_another_want_is_asked_anew(tmp_path):
    with serving() as service:
        teacher = remote(service.http, tmp_path)
        teacher.expect(BATCH, Want())
        assert teacher.signal(BATCH, TOP).logits.logprobs_BTK.shape == (3, 3, 3)


UNANSWERED = {
    "refuses": faults.refuses,
    "resets half-way": faults.breaks_half_way,
    "500": faults.status(500),
    "502": faults.status(502),
    "503": faults.status(503, retry_after="0"),
    "429": faults.status(429, retry_after="0.2"),
    "408": faults.status(408),
    "hangs": faults.hangs,
    "trickles": faults.trickles,
}


@pytest.mark.parametrize("fault", UNANSWERED)
def test_no_answer_is_asked_for_again(fault, tmp_path):
    faulty = Faulty(UNANSWERED[fault], times=2)
    with serving(wrap=faulty) as service:
        teacher = remote(service.http, tmp_path, timeout_s=0.3)
        started = time.monotonic()
        assert torch.equal(teacher.signal(BATCH, Want()).logits.logits_BTV, expected(BATCH))
        assert teacher.counts == {"answered": 1, "unanswered": 2, "refused": 0}
        assert time.monotonic() - started < 5
        if fault == "429":
            assert time.monotonic() - started > 0.4


WRONG = {
    "one row less": faults.with_meta(rows=["0" * 32]),
    "other rows": faults.changed(lambda f: Frame(f.kind, {**f.meta, "rows": f.meta["rows"][::-1]}, f.tensors)),
    "other token ids": faults.with_meta(rows=["0" * 32] * 3),
    "other length": faults.with_tensors(logits=lambda tensor: tensor[:-1]),
    "another vocabulary": faults.with_tensors(logits=lambda tensor: tensor[:, :-1]),
    "NaN": faults.with_tensors(logits=faults.poisoned),
    "infinite": faults.with_tensors(logits=lambda tensor: tensor / 0),
    "other positions": faults.with_meta(asked=[1, 1, 1]),
    "another form": faults.with_meta(form="logits-bf16"),
    "another dtype": faults.with_tensors(logits=lambda tensor: tensor.long()),
    "no tensors": faults.changed(lambda f: Frame(f.kind, f.meta, {})),
    "another kind": faults.changed(lambda f: Frame("head", f.meta, f.tensors)),
    "HTML": faults.body(b"<!doctype html><html></html>" * 10, "text/html"),
    "truncated JSON": faults.body(b'{"choices": [{"te', "application/json"),
    "nothing": faults.body(b""),
    "truncated": faults.changed(lambda f: b"".join(faults.encode(f))[:-7]),
    "longer": faults.changed(lambda f: b"".join(faults.encode(f)) + b"\0" * 64),
    "422": faults.status(422),
}
WRONG_TOP = {
    "unsorted": faults.with_tensors(
        logprobs=lambda tensor: tensor.flip(1), indices=lambda tensor: tensor.int().flip(1).to(torch.uint16)
    ),
    "short": faults.with_tensors(logprobs=lambda t: t[:, :2], indices=lambda t: t[:, :2].clone()),
    "twice": faults.with_tensors(indices=lambda t: torch.full(t.shape, 3).to(torch.uint16)),
    "beyond the vocabulary": faults.with_tensors(indices=lambda t: (t.int() + 100).to(torch.uint16)),
    "NaN": faults.with_tensors(logprobs=faults.poisoned),
    "another temperature": faults.with_meta(temperature=1.0),
    "more than everything": faults.with_tensors(tail=lambda tensor: tensor * 0),
}


@pytest.mark.parametrize(
    ("fault", "want"),
    [*((fault, Want()) for fault in WRONG.values()), *((fault, TOP) for fault in WRONG_TOP.values())],
    ids=[*WRONG, *(f"top-k {name}" for name in WRONG_TOP)],
)
def test_a_wrong_answer_is_refused_counted_and_after_some_ends_the_run(fault, want, tmp_path):
    faulty = Faulty(fault, times=2)
    with serving(wrap=faulty) as service:
        teacher = remote(service.http, tmp_path, refuse_after=2)
        sound = remote(service.http, tmp_path)
        said = teacher.signal(BATCH, want)
        assert teacher.counts == {"answered": 1, "unanswered": 0, "refused": 2}
        again = sound.signal(BATCH, want)
        assert all(
            torch.equal(getattr(said.logits, field.name), getattr(again.logits, field.name))
            for field in dataclasses.fields(said.logits)
            if isinstance(getattr(said.logits, field.name), torch.Tensor)
        )
        faulty.times = 10**9
        with pytest.raises(TeacherError, match="refuse_after = 2") as caught:
            teacher.signal(BATCH, want)
        assert not isinstance(caught.value, TeacherAway)
        assert teacher.counts["refused"] == 3


def test_a_sound_one_answers_in_place_of_a_wrong_one(tmp_path):
    with serving(wrap=Faulty(faults.with_tensors(logits=faults.poisoned))) as wrong, serving() as right:
        teacher = remote([wrong.http, right.http], tmp_path)
        for n in range(1, 8):
            batch = batch_of([n, 2, 3])
            assert torch.equal(teacher.signal(batch, Want()).logits.logits_BTV, expected(batch))
        assert teacher.counts["answered"] == 7
        assert teacher.counts["refused"] >= 1


def test_other_weights_after_a_restart_end_the_run(tmp_path):
    with serving() as service:
        port = service.port
        teacher = remote(service.http, tmp_path)
        teacher.signal(BATCH, Want())
    with serving(Counting(identity(weights="v" * 64)), port=port):
        with pytest.raises(TeacherError, match="another teacher") as caught:
            teacher.signal(BATCH, Want())
        assert not isinstance(caught.value, TeacherAway)


def test_an_answer_with_another_voice_ends_the_run(tmp_path):
    other = identity(weights="v" * 64).as_meta()
    with serving(wrap=Faulty(faults.with_meta(teacher=other))) as service:
        teacher = remote(service.http, tmp_path)
        with pytest.raises(TeacherError, match="weights vvvvvvvvvvvv… and not wwwwwwwwwwww…"):
            teacher.signal(BATCH, Want())


def test_teachers_of_one_pool_are_one_teacher(tmp_path):
    another = Counting(identity(weights="v" * 64))
    refused = pytest.raises(TeacherError, match="by another teacher: weights")
    with serving() as one, serving(another) as other, refused:
        remote([one.http, other.http], tmp_path)


class TestGone:
    def test_when_all_are_gone_it_says_so_and_how_to_wait(self, tmp_path):
        with serving() as service:
            port = service.port
            teacher = remote(service.http, tmp_path, timeout_s=0.3)
        with pytest.raises(TeacherAway, match=f"no teacher answers .*:{port}") as caught:
            teacher.signal(BATCH, Want())
        assert teacher.counts["unanswered"] == BREAK_AFTER
        back = threading.Event()

        def wait():
            caught.value.wait(lambda: None)
            back.set()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert not back.wait(0.5)
        with serving(port=port):
            assert back.wait(20)
            assert torch.equal(teacher.signal(BATCH, Want()).logits.logits_BTV, expected(BATCH))

    def test_waiting_can_be_stopped_and_has_an_end(self, tmp_path):
        with serving() as service:
            teacher = remote(service.http, tmp_path, timeout_s=0.3, give_up_after_s=0.3)
        with pytest.raises(TeacherAway) as caught:
            teacher.signal(BATCH, Want())

        def stop():
            raise Stopped(15, "stopped")

        with pytest.raises(Stopped):
            caught.value.wait(stop)
        with pytest.raises(TeacherError, match="start a teacher"):
            caught.value.wait(lambda: None)

    def test_one_of_two_is_enough(self, tmp_path):
        with serving() as stays:
            with serving() as goes:
                teacher = remote([goes.http, stays.http], tmp_path, timeout_s=1.0)
                teacher.signal(BATCH, Want())
            for _ in range(10):
                teacher.signal(BATCH, Want())
            assert teacher.counts["answered"] == 11

    def test_nobody_there_at_the_beginning(self, tmp_path):
        with pytest.raises(TeacherError, match="potstill serve"):
            remote(["http://127.0.0.1:9", f"unix://{tmp_path}/none.sock"], tmp_path)


def test_a_wrong_key_is_final(tmp_path):
    with serving(folder=tmp_path) as service:
        with pytest.raises(TeacherError, match="401") as caught:
            remote(service.http, tmp_path, key="a wrong key that nobody knows")
        assert "a wrong key" not in str(caught.value)
        with pytest.raises(TeacherError, match="key"):
            remote(service.url("unix"), tmp_path, key="a wrong key that nobody knows")


def test_what_answers_there_is_no_teacher(tmp_path):
    import http.server

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        with pytest.raises(TeacherError, match="text/html"):
            remote(f"http://127.0.0.1:{page.server_address[1]}", tmp_path)
        page.shutdown()


def test_a_teacher_of_another_task_is_refused(tmp_path):
    with serving(task="classify") as service, pytest.raises(TeacherError, match="classify"):
        remote(service.http, tmp_path)


def test_a_form_that_is_not_offered_is_named(tmp_path):
    with serving() as service:
        with pytest.raises(TeacherError, match=r"hidden-bf16; it sends: logits, logits-bf16, top-k"):
            remote(service.http, tmp_path, form="hidden-bf16").signal(BATCH, Want())
        with pytest.raises(SignalError, match="top_k"):
            remote(service.http, tmp_path, form="top-k").signal(BATCH, Want())


def test_the_stop_flag_is_looked_at_while_an_answer_is_waited_for(tmp_path):
    counting = Counting()
    counting.hold = threading.Event()
    asked = []

    def poll():
        asked.append(time.monotonic())
        if counting.asked:
            raise Stopped(15, "stopped")

    with serving(counting) as service:
        teacher = remote(service.http, tmp_path, poll=poll)
        started = time.monotonic()
        with pytest.raises(Stopped):
            teacher.signal(BATCH, Want())
        assert time.monotonic() - started < 3
        counting.hold.set()


def test_the_key_is_in_no_message(tmp_path):
    with serving() as service:
        teacher = remote(service.http, tmp_path, timeout_s=0.2)
    with pytest.raises(TeacherAway) as caught:
        teacher.signal(BATCH, Want())
    assert KEY not in str(caught.value)
    assert KEY not in repr(teacher._asking.pool.sources)
