"""Services in the test process: a teacher of known answers, a port, and faults where a test wants them."""

import contextlib
import threading
import time
from pathlib import Path

import torch

from potstill.core.batch import Batch, next_token_targets
from potstill.core.signal import DenseLogits, Signal
from potstill.serving import Listening, _Server, _streams
from potstill.teachers.batching import Batching
from potstill.teachers.channel import Address
from potstill.teachers.identity import Identity
from potstill.teachers.keys import KeyRing
from potstill.teachers.limits import Limits
from potstill.teachers.metrics import Metrics
from potstill.teachers.question import Facts
from potstill.teachers.remote import RemoteTeacher, Terms
from potstill.teachers.service import Service
from potstill.teachers.streams import Streams

KEY = "the key of these tests 0123456789"
VOCABULARY = 11
ORIGIN = {"source": "tests", "revision": "1", "licence": "MIT"}


def identity(weights="w" * 64, size=VOCABULARY):
    return Identity(weights, "t" * 64, size)


class Counting:
    """Says of each token how often its entries come after it: logits[b, t, v] = token * 10 + v, whatever its company.
    asked: the shape of each pass. hold: an event that a pass waits for."""

    def __init__(self, known=None):
        self.identity = known or identity()
        self.asked, self.hold, self.broken_token = [], None, None

    @property
    def voice(self):
        return self.identity.voice

    def signal(self, batch, want):
        self.asked.append(tuple(batch.tokens_BL.shape))
        if self.hold is not None:
            assert self.hold.wait(20)
        steps = torch.arange(self.identity.vocabulary_size).float()
        logits = batch.tokens_BL.float()[..., None] * 10 + steps
        if self.broken_token is not None:
            logits[batch.tokens_BL == self.broken_token] = torch.nan
        return Signal(self.voice, DenseLogits(logits))


def service_of(teacher, *, limits=None, task="causal-lm", positions=64):
    limits, metrics = limits or Limits(), Metrics()
    forms = ("logits", "logits-bf16", "top-k")
    facts = Facts("counting", task, teacher.identity, None, positions, forms, ORIGIN)
    return Service(facts, Batching(teacher, limits, metrics), limits, metrics)


class Served:
    """A service that listens. wrap: puts faults around its application."""

    def __init__(self, service, *, port=0, folder=None, wrap=None):
        self.service = service
        self.ring = KeyRing([KEY])
        listening = Listening(port=port, socket=None if folder is None else Path(folder) / "s.sock", stream_port=0)
        self.streams = Streams(service.answer, self.ring, service.limits, service.metrics)
        self.urls = []
        self.server = _Server(
            service, self.ring, listening, lambda: _streams(self.streams, listening, None), self.urls.append
        )
        if wrap is not None:
            self.server.config.app = wrap(self.server.config.app)
        service.batching.start()
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        until = time.monotonic() + 20
        while len(self.urls) < (2 if folder is None else 3):
            assert time.monotonic() < until, "the service did not start"
            time.sleep(0.01)

    @property
    def http(self):
        return self.urls[0]

    @property
    def port(self):
        return int(self.http.rsplit(":", 1)[1])

    def url(self, kind):
        return next(url for url in self.urls if url.startswith(kind))

    def stop(self):
        self.server.should_exit = True
        self.server.force_exit = True
        self.streams.close()
        self.service.batching.close(seconds=5)
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def serving(teacher=None, *, folder=None, wrap=None, port=0, **changes):
    found = Served(service_of(teacher or Counting(), **changes), folder=folder, wrap=wrap, port=port)
    try:
        yield found
    finally:
        found.stop()


def remote(urls, heads, *, task="causal-lm", poll=lambda: None, key=KEY, weights=None, **terms):
    urls = [urls] if isinstance(urls, str) else urls
    values = {"timeout_s": 5.0, **terms}
    addresses = [Address(url, key, shared_bytes=2**20) for url in urls]
    return RemoteTeacher(addresses, Terms(**values), task=task, heads=heads, weights=weights, poll=poll)


def batch_of(*rows, name="row"):
    """Rows of tokens, asked about wherever a next token is known."""
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    attention = torch.arange(longest)[None] < torch.tensor([len(row) for row in rows])[:, None]
    targets, weights = next_token_targets(tokens, attention)
    ids = tuple(f"{name}-{index}" for index in range(len(rows)))
    return Batch(ids, tokens, attention, targets, {"hard": weights, "soft": weights})


def expected(batch, size=VOCABULARY):
    """What `Counting` says of a batch, where it is asked."""
    logits = batch.tokens_BL.float()[..., None] * 10 + torch.arange(size).float()
    return logits * (batch.weights["soft"] != 0)[..., None]
