"""A model as a teacher service: loaded, described, and listening until it is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.types import ASGIApp
from transformers import PreTrainedTokenizerBase

from potstill.assemble import local
from potstill.core.batch import Batch
from potstill.core.errors import InputError
from potstill.core.finding import Finding
from potstill.core.protocols import Teacher
from potstill.core.signal import HeadedStates, Want
from potstill.core.task import Task
from potstill.guard.middleware import GuardMiddleware
from potstill.students.load import load_model
from potstill.students.pooled import config_of, positions_of
from potstill.students.sample import ends_of
from potstill.students.settings import ModelSettings
from potstill.students.taps import output_head
from potstill.teachers.batching import Batching
from potstill.teachers.completions import Completions
from potstill.teachers.connections import guarded, sweep
from potstill.teachers.forms import FORMS, Form
from potstill.teachers.handshakes import secured
from potstill.teachers.head import pack_head, unpack_head
from potstill.teachers.identity import Identity
from potstill.teachers.int8 import channel_scales
from potstill.teachers.keys import KeyRing
from potstill.teachers.limits import Limits
from potstill.teachers.metrics import Metrics
from potstill.teachers.question import Facts
from potstill.teachers.server import application
from potstill.teachers.service import Service
from potstill.teachers.streams import Streams
from potstill.teachers.true_head import identity_of, refuse_false_head
from potstill.train.stop import StopFlag

CALIBRATION_ROW = 256
PROBE_ROW = 8
GRACE_S = 10
# Connections that asyncio takes in one turn before it looks at any of them: few, or a crowd would hold more file
# handles than there are places, and whoever came in that turn would lose their place in it. The kernel keeps the rest.
TURN, QUEUE = 64, 2048


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a service listens. socket: a file for this host. stream_port: for frames over TCP; 0 takes any free port,
    None opens none. certificate, private_key: files, for HTTPS and for streams under TLS."""

    host: str = "127.0.0.1"
    port: int = 8791
    socket: Path | None = None
    stream_port: int | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    def context(self) -> ssl.SSLContext | None:
        """Raises InputError for half a pair of files, or files that are none."""
        if (self.certificate is None) != (self.private_key is None):
            raise InputError("a certificate needs its private key and the reverse: give --tls-cert and --tls-key")
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"{self.certificate}: certificate or key cannot be used ({error})") from error
        return context


@dataclass(frozen=True, slots=True)
class Serving:
    """Which model is served, as what, and within which limits. calibration: a text from which the scales of
    int8 states are taken; without one that form is not offered. bf16: run the model under autocast. guard: a file for
    findings about keys that seem to harvest the model; None looks at nobody."""

    model: ModelSettings
    task: Task = "causal-lm"
    name: str | None = None
    calibration: Path | None = None
    bf16: bool = False
    trust_remote_code: bool = False
    limits: Limits = field(default_factory=Limits)
    guard: Path | None = None


def serve(serving: Serving, listening: Listening, keys: tuple[str, ...], *, say: Callable[[str], None]) -> None:
    """Serve until a signal. say: told each address once the service answers there.

    Raises Stopped after SIGTERM or SIGINT, when what was under way has ended; InputError and ModelError before.
    """
    refuse_exposed(listening, keys)
    context = listening.context()
    with StopFlag() as stop:
        around = None if serving.guard is None else watching(serving.guard)
        service = assembled(serving)
        stop.check()
        ring = KeyRing(keys)
        streams = Streams(service.answer, ring, service.limits, service.metrics)
        service.metrics.gauges["streams"] = lambda: streams.count
        service.batching.start()
        try:
            server = _Server(service, ring, listening, lambda: _streams(streams, listening, context), say, around)
            server.run()
        finally:
            streams.close()
            service.batching.close(seconds=GRACE_S)
        stop.check()
        if not server.started:
            raise InputError(f"{listening.host}:{listening.port}: cannot listen there; name another --port")


def watching(file: Path) -> Callable[[ASGIApp], ASGIApp]:
    """The guard as an observer: each finding becomes a line of JSON in the file. It changes no answer.

    Raises InputError when the file cannot be written.
    """
    try:
        findings = file.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: the guard's findings cannot be written there ({error.strerror})") from error

    def write(finding: Finding) -> None:
        findings.write(json.dumps(finding.as_json()) + "\n")
        findings.flush()

    return lambda app: GuardMiddleware(app, write)  # type: ignore[arg-type, return-value]


def refuse_exposed(listening: Listening, keys: tuple[str, ...]) -> None:
    """Raises InputError when there is no key; whoever can reach the address could take the model."""
    if not keys:
        raise InputError(f"{listening.host} would be served without a key: give --key-file or --key-env")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def assembled(serving: Serving) -> Service:
    """Load the model and make everything that answers. Raises ModelError and what loading raises."""
    loaded = load_model(serving.model, task=serving.task, labels=None, trust_remote_code=serving.trust_remote_code)
    size = int(config_of(loaded.module).num_labels) if serving.task == "classify" else loaded.record.vocabulary_size
    teacher = local(loaded, size, bf16=serving.bf16)
    identity = Identity(loaded.record.weights_sha256, loaded.record.tokenizer_sha256, size)
    frame, kept, channels = None, None, None
    if serving.task == "causal-lm":
        identity = identity_of(loaded)
        refuse_false_head(teacher, probe_batch(size), bf16=serving.bf16)
        channels = None if serving.calibration is None else calibrated(teacher, loaded.tokenizer, serving.calibration)
        frame = pack_head(output_head(loaded.module).detached(), identity, channels)
        kept = unpack_head(frame)
    elif serving.calibration is not None:
        raise InputError("--calibrate is for the last states of causal language models: leave it out")
    forms: tuple[Form, ...] = tuple(
        form
        for form, row in FORMS.items()
        if row.says != "hidden" or (kept is not None and (form != "hidden-int8" or channels is not None))
    )
    positions = positions_of(config_of(loaded.module))
    record, name = loaded.record, serving.name or loaded.record.display_name
    origin = {"source": record.source, "revision": record.revision, "licence": record.licence}
    facts = Facts(name, serving.task, identity, kept, positions, forms, origin)
    metrics = Metrics()
    completions = None
    if serving.task == "causal-lm":
        longest = min(positions or serving.limits.max_positions, serving.limits.max_positions)
        ends = ends_of(loaded.module, loaded.tokenizer)
        completions = Completions(loaded.module, loaded.tokenizer, name, longest, serving.limits, ends)
    batching = Batching(teacher, serving.limits, metrics)
    return Service(facts, batching, serving.limits, metrics, frame, completions)


def probe_batch(size: int) -> Batch:
    """One row of tokens from all over the vocabulary, asked about everywhere."""
    tokens = torch.linspace(0, size - 1, PROBE_ROW).long()[None]
    ones = torch.ones(tokens.shape)
    return Batch(("",), tokens, ones.bool(), torch.zeros_like(tokens), {"soft": ones, "hard": ones})


def calibrated(teacher: Teacher, tokenizer: PreTrainedTokenizerBase, text: Path) -> torch.Tensor:
    """The width of each channel over a text. Raises InputError when it cannot be read or is too short to tell."""
    try:
        tokens = tokenizer(text.read_text(encoding="utf-8"))["input_ids"]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{text}: the text for --calibrate cannot be read ({error})") from error
    if len(tokens) < CALIBRATION_ROW:
        raise InputError(f"{text} has {len(tokens)} tokens, and --calibrate needs at least {CALIBRATION_ROW}")
    rows, ones = torch.tensor(tokens[: 32 * CALIBRATION_ROW]).split(CALIBRATION_ROW), torch.ones(1, CALIBRATION_ROW)
    states = []
    for row in rows[: len(tokens) // CALIBRATION_ROW]:
        batch = Batch(("",), row[None], ones.bool(), row[None], {"soft": ones, "hard": ones})
        said = teacher.signal(batch, Want(logits=False, headed=True)).logits
        assert isinstance(said, HeadedStates), "last states were asked for"
        states.append(said.states_BTD[0])
    return channel_scales(torch.cat(states))


def _streams(streams: Streams, listening: Listening, context: ssl.SSLContext | None) -> list[str]:
    found = []
    if listening.socket is not None:
        streams.listen_unix(listening.socket)
        found.append(f"unix://{listening.socket.resolve()}")
    if listening.stream_port is not None:
        port = streams.listen_tcp(listening.host, listening.stream_port, context)
        found.append(f"{'tls' if context else 'tcp'}://{_written(listening.host)}:{port}")
    return found


def _written(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Server(uvicorn.Server):
    """uvicorn with our connections, told apart only by what it says and sweeps once it has started."""

    def __init__(
        self,
        service: Service,
        ring: KeyRing,
        listening: Listening,
        open_streams: Callable[[], list[str]],
        say: Callable[[str], None],
        around: Callable[[ASGIApp], ASGIApp] | None = None,
    ):
        protocol: Any = guarded(service.limits, service.metrics)
        if (context := listening.context()) is not None:
            protocol = secured(protocol, context, service.limits, service.metrics)
        config = uvicorn.Config(
            application(service, ring, around),
            host=listening.host,
            port=listening.port,
            http=protocol,
            ws="none",
            backlog=min(TURN, max(service.limits.max_connections // 2, 1)),
            lifespan="off",
            access_log=False,
            # Warnings are of what strangers send: a line for each fills a disk, or blocks where nobody reads it.
            log_level="error",
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=2**14,
        )
        super().__init__(config)
        self._service, self._listening, self._open_streams, self._say = service, listening, open_streams, say
        service.metrics.gauges["connections"] = lambda: len(self.server_state.connections)

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        if not self.started or self.should_exit:
            return
        for listens in self.servers[0].sockets:
            with socket.socket(fileno=os.dup(listens.fileno())) as same:
                same.listen(QUEUE)
        state, service = self.server_state, self._service
        self._sweeper = asyncio.create_task(sweep(state.connections, service.limits, service.metrics))
        port = self.servers[0].sockets[0].getsockname()[1]
        scheme = "https" if self._listening.certificate else "http"
        for address in (f"{scheme}://{_written(self._listening.host)}:{port}", *self._open_streams()):
            self._say(address)


def limits_from(values: Mapping[str, str]) -> Limits:
    """Limits changed by NAME=VALUE. Raises InputError for a name or value that is none."""
    try:
        return Limits.model_validate(dict(values))
    except ValueError as error:
        first = error.errors()[0] if hasattr(error, "errors") else {"loc": ("?",), "msg": str(error)}
        known = ", ".join(Limits.model_fields)
        raise InputError(f"--limit {'.'.join(map(str, first['loc']))}: {first['msg']}; limits are: {known}") from error
