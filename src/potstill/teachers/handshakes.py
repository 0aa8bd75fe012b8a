"""TLS on HTTP connections, begun by us: asyncio's own way neither counts nor bounds who is still shaking hands.

Left to itself a connection that never ends its handshake holds a quarter of a megabyte for a minute, and there may be
as many as the system has file handles: ten thousand that say nothing took 3 GB. Here there is a number, whoever comes
beyond it gets the place of the one that has been at it longest, and the buffers are small.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Any

from potstill.teachers.limits import Limits
from potstill.teachers.metrics import Metrics


class _Layer(SSLProtocol):
    # Bytes of each of its buffers, in place of 256 KiB; a TLS record has at most 16 KiB.
    max_size = 2**15


def secured(
    protocol: Callable[..., asyncio.Protocol], context: ssl.SSLContext, limits: Limits, metrics: Metrics
) -> type[asyncio.Protocol]:
    """A protocol under TLS, as uvicorn makes them."""
    waiting: dict[asyncio.BaseTransport, None] = {}  # in the order of their coming
    metrics.gauges["handshakes"] = lambda: len(waiting)

    class Secured(asyncio.Protocol):
        def __init__(self, **given: Any) -> None:
            self._inner = protocol(**given)

        def connection_made(self, transport: Any) -> None:
            """Begin the handshake; what follows it is no more our business."""
            if len(waiting) >= limits.max_connections:
                oldest: Any = next(iter(waiting))
                del waiting[oldest]
                metrics.add("connections_dropped_total")
                oldest.abort()
            waiting[transport] = None
            loop = asyncio.get_running_loop()
            ended: asyncio.Future[None] = loop.create_future()

            def left(future: asyncio.Future[None]) -> None:
                waiting.pop(transport, None)
                if not future.cancelled():
                    future.exception()  # a handshake that failed is nobody's error

            ended.add_done_callback(left)
            times = {"ssl_handshake_timeout": limits.idle_s, "ssl_shutdown_timeout": limits.idle_s}
            layer = _Layer(loop, self._inner, context, ended, server_side=True, **times)  # type: ignore[arg-type]
            transport.set_protocol(layer)
            layer.connection_made(transport)

    return Secured
