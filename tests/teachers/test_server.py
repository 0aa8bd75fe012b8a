"""Nothing is answered without a key, and nothing that anybody sends makes the service grow, hang or fall: fault 26."""

import asyncio
import contextlib
import hmac
import json
import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from starlette.responses import Response
from starlette.routing import Route

from potstill.core.signal import Want
from potstill.teachers.channel import Address, Unanswered
from potstill.teachers.codec import unpack
from potstill.teachers.keys import KeyRing
from potstill.teachers.limits import Limits
from potstill.teachers.packing import Packing
from potstill.teachers.question import ask
from potstill.teachers.server import _ROUTES, application
from potstill.teachers.streams import AT_THE_DOOR
from potstill.teachers.wire import Frame, decode, encode
from tests.teachers.served import KEY, Counting, batch_of, expected, identity, remote, service_of, serving

FUZZ = int(os.environ.get("POTSTILL_FUZZ", "1500"))
ROUTES = [
    *(("GET", path) for path in ("/", "/health", "/metrics", "/v1/models", "/v1/teacher", "/v1/head/" + "0" * 64)),
    *(("POST", path) for path in ("/v1/signals", "/v1/completions", "/live", "/nowhere")),
    *(
        ("OPTIONS", "/v1/signals"),
        ("GET", "/docs"),
        ("GET", "/live/../metrics"),
        ("GET", "//metrics"),
        ("HEAD", "/health"),
    ),
]
KEYS = (None, "", "Bearer", "Bearer wrong", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY)
PACKING = Packing("logits", identity())


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    limits = Limits(idle_s=1.5, deadline_s=5, max_connections=100, max_concurrent=8, max_body_bytes=2**20)
    with serving(Counting(), limits=limits, folder=tmp_path_factory.mktemp("s")) as found:
        yield found


@pytest.fixture
def client(service):
    with httpx.Client(base_url=service.http, headers={"Authorization": f"Bearer {KEY}"}, timeout=20) as found:
        yield found


def question(batch=None, **meta):
    frame = ask(batch or batch_of([1, 2, 3]), PACKING)
    return b"".join(encode(Frame(frame.kind, {**frame.meta, **meta}, frame.tensors)))


def head(length, key=KEY):
    lines = ("POST /v1/signals HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", f"Content-Length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


def works(service):
    """A good request is served."""
    batch = batch_of([3, 1, 2], [5, 6])
    reply = httpx.post(
        f"{service.http}/v1/signals", content=question(batch), headers={"Authorization": f"Bearer {KEY}"}, timeout=20
    )
    assert reply.status_code == 200
    assert torch.equal(unpack(decode(bytearray(reply.content)), batch, PACKING).logits.logits_BTV, expected(batch))


def said_by(app, method, path, headers, kind="http"):
    """Status and body, without a network in between."""
    said = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        said.append(message)

    scope = {"type": kind, "method": method, "path": path, "headers": headers, "query_string": b"", "root_path": ""}
    asyncio.run(app({**scope, "http_version": "1.1", "scheme": "http", "raw_path": path.encode()}, receive, send))
    body = b"".join(message.get("body", b"") for message in said)
    return next((message["status"] for message in said if "status" in message), None), body


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class TestKeys:
    @pytest.mark.parametrize(("method", "path"), ROUTES)
    @pytest.mark.parametrize("key", KEYS)
    def test_every_route_is_closed(self, service, method, path, key):
        if path == "/live" and method == "GET":
            return
        headers = {} if key is None else {"Authorization": key}
        reply = httpx.request(method, service.http + path, headers=headers, timeout=20)
        if path == "/live":
            assert reply.text == "alive\n"
            return
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert KEY not in reply.text

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"])
    def test_whatever_route_the_application_has_or_will_have(self, method):
        """Deny by default: the routes are asked of the application itself, one is added that nobody thought of, and
        none of them is reached without the key."""
        reached = []

        async def forgotten(request):
            reached.append(request.method)
            return Response("secret")

        gate = application(service_of(Counting()), KeyRing([KEY]))
        inner = gate._app
        inner.router.routes.append(Route("/forgotten", forgotten, methods=[method]))
        paths = [route.path.replace("{sha256}", "0" * 64) for route in inner.router.routes]
        assert {path.replace("0" * 64, "") for path in paths} == {*_ROUTES, "/v1/head/", "/forgotten"} - {"/live"}
        for path in paths:
            for key in KEYS:
                headers = [] if key is None else [(b"authorization", key.encode())]
                assert said_by(gate, method, path, headers)[0] == 401, (path, key)
        assert reached == []
        good = [(b"authorization", f"Bearer {KEY}".encode())]
        assert said_by(gate, method, "/forgotten", good) == (200, b"secret")

    @pytest.mark.parametrize("kind", ["lifespan", "websocket", "other"])
    def test_what_is_no_request_is_no_way_in(self, kind):
        messages = said_by(application(service_of(Counting()), KeyRing([KEY])), "GET", "/health", [], kind=kind)
        assert messages == (None, b"")

    def test_keys_are_compared_in_constant_time_and_all_of_them(self, monkeypatch):
        """Each key is compared by its digest, whichever fits: of equal length, by hmac's comparison and no other."""
        compared = []
        real = hmac.compare_digest
        monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
        ring = KeyRing([KEY, KEY[::-1], "a third key of these tests"])
        for offered, fits in ((KEY, True), (KEY[::-1], True), ("", False), (KEY[:-1], False), ("x" * 10**6, False)):
            compared.clear()
            assert ring.knows(offered.encode()) is fits
            assert len(compared) == 3
            assert all(len(one) == len(other) == 32 for one, other in compared)

    def test_liveness_says_nothing_else(self, service):
        reply = httpx.get(f"{service.http}/live")
        assert (reply.status_code, reply.text) == (200, "alive\n")

    def test_the_key_opens(self, client):
        assert client.get("/v1/models").json()["data"][0]["id"] == "counting"
        assert client.get("/health").json()["status"] == "serving"
        assert client.get("/v1/teacher").json()["teacher"] == identity().voice.teacher

    def test_websockets_are_refused(self, service):
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "x" * 16,
            "Sec-WebSocket-Version": "13",
        }
        assert httpx.get(f"{service.http}/v1/signals", headers=headers).status_code in (400, 401, 403, 426)
        works(service)


class TestAnswers:
    def test_a_signal_over_http_is_the_teachers(self, service):
        works(service)

    def test_metrics_are_in_the_format_of_prometheus(self, service, client):
        works(service)
        lines = client.get("/metrics").text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert float(values['potstill_requests_total{route="/v1/signals",status="200"}']) >= 1
        assert float(values["potstill_tokens_total"]) >= 5
        assert all(line.startswith(("# HELP potstill_", "# TYPE potstill_", "potstill_")) for line in lines)

    def test_head_of_another_hash_is_not_there(self, client):
        for name in ("0" * 64, "..%2f..%2fetc%2fpasswd", "x"):
            assert client.get(f"/v1/head/{name}").status_code == 404

    def test_no_text_from_a_teacher_that_writes_none(self, client):
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 404


class TestCaps:
    def test_a_body_of_a_gigabyte(self, service):
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as large:
            large.sendall(head(2**30) + b"x" * 1000)
            assert large.recv(100).startswith(b"HTTP/1.1 413")
        works(service)

    def test_a_body_without_an_end(self, service, client):
        def pieces():
            for _ in range(200):
                yield b"\0" * 2**16

        with contextlib.suppress(httpx.TransportError):  # the service may hang up while we are still sending: as good
            assert client.post("/v1/signals", content=pieces()).status_code == 413
        works(service)

    def test_a_million_tokens(self, client):
        batch = ask(batch_of([1, 2, 3]), PACKING)
        tensors = {
            "tokens": torch.ones(200_000, dtype=torch.int32),
            "lengths": torch.tensor([200_000], dtype=torch.int32),
            "asked": torch.ones(200_000, dtype=torch.bool),
        }
        body = b"".join(encode(Frame("question", {**batch.meta, "ids": ["a"]}, tensors)))
        assert client.post("/v1/signals", content=body).status_code == 413
        assert client.post("/v1/signals", content=body + b"\0" * 2**20).status_code == 413

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"top_k": 10**6}, 422),
            ({"top_k": -1}, 422),
            ({"top_k": True}, 422),
            ({"temperature": 0}, 422),
            ({"temperature": "1"}, 422),
            ({"form": "hidden-fp32"}, 422),
            ({"form": None}, 422),
            ({"hidden": [1] * 100}, 422),
            ({"hidden": "all"}, 422),
            ({"ids": ["a", "b"]}, 422),
            ({"ids": ["a" * 10_000]}, 422),
            ({"teacher": "0" * 16}, 409),
        ],
    )
    def test_terms_are_checked(self, client, change, status):
        reply = client.post("/v1/signals", content=question(**change))
        assert reply.status_code == status, reply.text
        assert reply.json()["error"]["message"]

    @pytest.mark.parametrize(
        "tensors",
        [
            {"tokens": torch.tensor([1, 2, 99], dtype=torch.int32)},
            {"tokens": torch.tensor([1, 2, -1], dtype=torch.int32)},
            {"tokens": torch.tensor([1, 2, 3])},
            {"tokens": torch.tensor([[1, 2, 3]], dtype=torch.int32)},
            {"lengths": torch.tensor([4], dtype=torch.int32)},
            {"lengths": torch.tensor([3, 0], dtype=torch.int32)},
            {"lengths": torch.tensor([2**31 - 1, 2**31 - 1], dtype=torch.int32)},
            {"lengths": torch.tensor([], dtype=torch.int32)},
            {"asked": torch.tensor([True])},
            {"types": torch.tensor([0, 1, 2], dtype=torch.int8)},
            {"other": torch.tensor([0.0])},
        ],
    )
    def test_tensors_are_checked(self, service, client, tensors):
        frame = ask(batch_of([1, 2, 3]), PACKING)
        body = b"".join(encode(Frame(frame.kind, frame.meta, {**frame.tensors, **tensors})))
        assert client.post("/v1/signals", content=body).status_code == 422
        works(service)

    def test_an_answer_that_would_be_too_large_is_not_computed(self):
        teacher = Counting()
        with serving(teacher, limits=Limits(max_reply_bytes=80)) as service:
            headers = {"Authorization": f"Bearer {KEY}"}
            reply = httpx.post(f"{service.http}/v1/signals", content=question(), headers=headers)
        assert reply.status_code == 413
        assert "top-k" in reply.json()["error"]["message"]
        assert teacher.asked == []

    def test_too_many_at_once_are_told_when_to_come_again(self):
        teacher = Counting()
        teacher.hold = threading.Event()
        with serving(teacher, limits=Limits(max_concurrent=2, deadline_s=20)) as service:
            headers = {"Authorization": f"Bearer {KEY}"}
            url, more = f"{service.http}/v1/signals", {"content": question(), "headers": headers, "timeout": 20}
            with ThreadPoolExecutor(8) as crowd:
                futures = [crowd.submit(httpx.post, url, **more) for _ in range(6)]
                while sum(future.done() for future in futures) < 4:
                    time.sleep(0.01)
                teacher.hold.set()
                replies = [future.result() for future in futures]
        refused = [reply for reply in replies if reply.status_code == 429]
        assert (len(refused), len(replies)) == (4, 6)
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert all(reply.status_code == 200 for reply in replies if reply not in refused)


class TestTime:
    def test_the_deadline_holds(self):
        teacher = Counting()
        teacher.hold = threading.Event()
        with serving(teacher, limits=Limits(deadline_s=0.5)) as service:
            started = time.monotonic()
            reply = httpx.post(
                f"{service.http}/v1/signals", content=question(), headers={"Authorization": f"Bearer {KEY}"}, timeout=20
            )
            assert time.monotonic() - started < 4
            teacher.hold.set()
        assert reply.status_code == 504
        assert int(reply.headers["retry-after"]) >= 1

    def test_a_body_that_trickles_is_cut_off(self, service):
        with socket.create_connection(("127.0.0.1", service.port)) as slow:
            slow.sendall(head(1000))
            slow.settimeout(20)
            assert slow.recv(100).startswith(b"HTTP/1.1 504")

    def test_what_is_no_http_is_counted_and_not_written_down(self, service, caplog):
        before = service.service.metrics.value("malformed_total")
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", service.port)) as one:
                one.sendall(b"\x00\x01 no request\r\n\r\n")
                one.settimeout(20)
                assert one.recv(12) == b"HTTP/1.1 400"
        works(service)
        assert service.service.metrics.value("malformed_total") == before + 3
        assert not caplog.records

    def test_slow_headers_are_cut_off(self, service):
        before = service.service.metrics.value("connections_dropped_total")
        slow = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(20)]
        for one in slow:
            one.sendall(b"GET / HTTP/1.1\r\nHost: ")
        works(service)
        for one in slow:
            one.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(10) == b""
        assert service.service.metrics.value("connections_dropped_total") >= before + 20

    def test_an_asker_that_goes_away_leaves_nothing(self):
        teacher = Counting()
        teacher.hold = threading.Event()
        with serving(teacher, limits=Limits(deadline_s=20)) as service:
            body = question()
            for _ in range(5):
                gone = socket.create_connection(("127.0.0.1", service.port))
                gone.sendall(head(len(body)) + body)
                time.sleep(0.05)
                gone.close()
            until = time.monotonic() + 5
            while service.service.batching._under_way and time.monotonic() < until:
                time.sleep(0.01)
            assert not service.service.batching._under_way
            assert service.service.metrics.value("cancelled_total") >= 5
            teacher.hold.set()
            works(service)

    def test_streams_that_go_away_leave_nothing(self, tmp_path):
        teacher = Counting()
        teacher.hold = threading.Event()
        with serving(teacher, folder=tmp_path) as service:
            asker = remote(service.url("unix"), tmp_path, timeout_s=0.3)
            asker.expect(batch_of([1, 2, 3]), Want())
            until = time.monotonic() + 5
            while not teacher.asked and time.monotonic() < until:
                time.sleep(0.01)
            asker.close()
            while service.service.batching._under_way and time.monotonic() < until:
                time.sleep(0.01)
            assert not service.service.batching._under_way
            teacher.hold.set()


class TestFloods:
    def test_a_flood_of_silent_connections_locks_nobody_out(self, service):
        """Three times as many as there are places; a thousand more over the time of the test."""
        flood = []
        for _ in range(300):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", service.port))
            flood.append(one)
        time.sleep(0.3)
        works(service)
        assert len(service.server.server_state.connections) <= 101
        for one in flood:
            one.close()

    def test_streams_have_a_number_too(self, tmp_path):
        with serving(limits=Limits(max_streams=2, idle_s=1)) as service:
            address = ("127.0.0.1", int(service.url("tcp").rsplit(":", 1)[1]))
            silent = [socket.create_connection(address) for _ in range(10)]
            time.sleep(0.2)
            assert service.streams.count <= 2
            time.sleep(1.5)
            batch = batch_of([1, 2, 3])
            assert torch.equal(
                remote(service.url("tcp"), tmp_path).signal(batch, Want()).logits.logits_BTV, expected(batch)
            )
            for one in silent:
                one.close()

    def test_nobody_stays_at_the_door_by_speaking_slowly(self, tmp_path):
        """A byte now and then is no way to hold a place without a key."""
        with serving(limits=Limits(idle_s=1)) as service:
            address = ("127.0.0.1", int(service.url("tcp").rsplit(":", 1)[1]))
            started = time.monotonic()
            with socket.create_connection(address) as slow, contextlib.suppress(ConnectionError):
                slow.settimeout(0.2)
                while time.monotonic() - started < 15:
                    slow.sendall(b"x")
                    with contextlib.suppress(TimeoutError):
                        while (part := slow.recv(100)) != b"":
                            assert len(part) <= 100
                        break
            assert time.monotonic() - started < 5
            while service.streams._door and time.monotonic() - started < 10:
                time.sleep(0.01)
            assert not service.streams._door

    def test_a_crowd_at_the_door_takes_no_place(self, tmp_path):
        with serving(limits=Limits(max_streams=1, idle_s=20)) as service:
            address = ("127.0.0.1", int(service.url("tcp").rsplit(":", 1)[1]))
            with contextlib.ExitStack() as silent:
                for _ in range(AT_THE_DOOR + 40):
                    silent.enter_context(socket.create_connection(address))
                batch = batch_of([1, 2, 3])
                said = remote(service.url("tcp"), tmp_path).signal(batch, Want())
                assert torch.equal(said.logits.logits_BTV, expected(batch))
                assert len(service.streams._door) <= AT_THE_DOOR

    def test_too_many_streams_with_a_key_are_told_when_to_come_again(self, tmp_path):
        with serving(limits=Limits(max_streams=1)) as service:
            first = Address(service.url("tcp"), KEY).open()
            assert first.call(Frame("describe"), seconds=5).kind == "description"
            second = Address(service.url("tcp"), KEY).open()
            with pytest.raises(Unanswered, match="429") as caught:
                second.call(Frame("describe"), seconds=5)
            assert caught.value.retry_after == 1
            second.close()
            first.close()
            until = time.monotonic() + 5
            while service.streams.count and time.monotonic() < until:
                time.sleep(0.01)
            third = Address(service.url("tcp"), KEY).open()
            assert third.call(Frame("describe"), seconds=5).kind == "description"
            third.close()

    def test_noise_of_every_kind(self, service):
        """Garbage, valid frames with flipped bits, half requests, vanishing clients; then all is as it was."""
        draw = random.Random(5)
        for _ in range(100):
            _noise(service, draw)
        works(service)
        before, started = resident(), time.monotonic()
        for _ in range(FUZZ):
            _noise(service, draw)
        assert resident() - before < 50
        assert time.monotonic() - started < max(120, FUZZ / 5)
        works(service)
        until = time.monotonic() + 10
        while service.service.batching._under_way and time.monotonic() < until:
            time.sleep(0.05)
        assert not service.service.batching._under_way
        assert service.thread.is_alive()


def _noise(service, draw):
    kind = draw.randrange(6)
    if kind == 5:
        target = ("127.0.0.1", int(service.url("tcp").rsplit(":", 1)[1]))
        payload = draw.randbytes(draw.randrange(300))
    else:
        target = ("127.0.0.1", service.port)
        body = bytearray(question(batch_of([1, 2, draw.randrange(11)])))
        if kind == 0:
            body = bytearray(draw.randbytes(draw.randrange(2000)))
        elif kind == 1:
            for _ in range(3):
                body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
        elif kind == 2:
            body = body[: draw.randrange(len(body))]
        payload = head(len(body)) + body
        if kind == 3:
            payload = payload[: draw.randrange(len(payload))]
        elif kind == 4:
            payload = draw.randbytes(draw.randrange(2000))
    with socket.socket() as one:
        one.settimeout(10)
        one.connect(target)
        try:
            one.sendall(payload)
            if kind in (0, 1, 2):
                status = one.recv(64)
                assert status[9:12] in (b"200", b"413", b"422", b"409", b"429", b"503"), status
        except (ConnectionError, TimeoutError):
            pass


def test_json_of_every_kind_for_completions(tmp_path):
    """Refused with a reason; the reason never repeats what was sent."""
    from potstill.serving import Serving, assembled
    from potstill.students.settings import ModelSettings
    from tests.run.tiny_recipe import make_materials
    from tests.teachers.served import Served

    folder = make_materials(tmp_path).decoder
    service = assembled(Serving(ModelSettings(model_name_or_path=str(folder)), limits=Limits(max_body_bytes=2**16)))
    served = Served(service)
    with httpx.Client(base_url=served.http, headers={"Authorization": f"Bearer {KEY}"}, timeout=20) as client:
        word = "canary-in-the-prompt"
        bad = [
            *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 50_000),
            *({}, {"prompt": None}, {"prompt": []}, {"prompt": [[]]}, {"prompt": [1, "a"]}, {"prompt": [10**9]}),
            *(
                {"prompt": word, "n": 0},
                {"prompt": word, "max_tokens": 10**9},
                {"prompt": word, "max_tokens": -1},
            ),
            *({"prompt": word, "stream": True}, {"prompt": word, word: 1}, {"prompt": word, "top_p": 0}),
            *(
                {"prompt": word, "temperature": "hot"},
                {"prompt": word, "logprobs": 10**7},
                {"prompt": word, "stop": 3},
            ),
            *(
                {"prompt": word, "prompt_logprobs": True},
                {"prompt": word, "model": word},
                {"prompt": word, "echo": 1},
            ),
            *(
                {"prompt": "w4 " * 100},
                {"prompt": [word] * 100},
                {"prompt": "x" * 10**5},
                {"prompt": word, "best_of": 2},
            ),
        ]
        for body in bad:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            reply = client.post("/v1/completions", content=content)
            assert reply.status_code in (404, 413, 422), (body, reply.text)
            assert word not in reply.text
        reply = client.post("/v1/completions", json={"prompt": "w4 w5", "max_tokens": 2})
        assert reply.status_code == 200
    served.stop()
