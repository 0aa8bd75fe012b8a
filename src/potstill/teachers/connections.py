"""Connections that an honest client does not make: idle, slower than its headers, or too many.

uvicorn bounds requests, not connections: one that never finishes its headers, or never reads its answer, stays.
Whoever comes when all places are taken gets the place of the one that has been idle longest, so a flood of silent
connections does not lock out who asks.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from potstill.teachers.limits import Limits
from potstill.teachers.metrics import Metrics

SWEEP_S = 1.0


def guarded(limits: Limits, metrics: Metrics) -> type[H11Protocol]:
    """uvicorn's protocol under these limits."""

    class Guarded(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            self.since = time.monotonic()
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                idle = [one for one in self.connections if not _at_work(one)]
                _drop(min(idle or [self], key=lambda one: one.since), metrics)

        def handle_events(self) -> None:
            before = self.cycle
            super().handle_events()
            if self.cycle is not before:
                self.since = time.monotonic()

        def send_400_response(self, msg: str) -> None:
            metrics.add("malformed_total")
            super().send_400_response(msg)

        def on_response_complete(self) -> None:
            self.since = time.monotonic()
            super().on_response_complete()

    return Guarded


async def sweep(connections: set[Any], limits: Limits, metrics: Metrics) -> None:
    """Until cancelled: close what has been idle, or at work, for too long."""
    while True:
        await asyncio.sleep(SWEEP_S)
        now = time.monotonic()
        for one in list(connections):
            # An answer that nobody reads is cut off a little after the deadline of its request.
            allowed = limits.deadline_s + 2 * SWEEP_S if _at_work(one) else limits.idle_s
            if now - one.since > allowed:
                _drop(one, metrics)


def _at_work(one: Any) -> bool:
    return one.cycle is not None and not one.cycle.response_complete


def _drop(one: Any, metrics: Metrics) -> None:
    metrics.add("connections_dropped_total")
    one.connections.discard(one)  # at once: the transport says later that it is gone, and it must not be chosen twice
    one.transport.abort()
