"""Counts of a service in the text format of Prometheus (version 0.0.4). No torch."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping

BOUNDS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
_HELP = {
    "requests_total": "requests by route and status",
    "tokens_total": "tokens read by the model, without padding",
    "padding_total": "tokens of padding read by the model",
    "rows_total": "rows read by the model",
    "forwards_total": "forward passes",
    "forward_seconds_total": "seconds spent in forward passes",
    "reply_bytes_total": "bytes of signals sent",
    "cancelled_total": "questions whose asker went away, or whose deadline passed",
    "malformed_total": "what came over HTTP and was no request",
    "connections_dropped_total": "connections closed for being idle, slow or too many",
}


class Metrics:
    """Counters, one histogram of seconds per request, and gauges that are asked when somebody looks.

    Labels come from the program, never from a request, so there is a bounded number of lines.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._seconds: Counter[int] = Counter()
        self._sum = 0.0
        self.gauges: dict[str, Callable[[], float]] = {}

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count something. Raises KeyError for a name that has no explanation."""
        assert name in _HELP, name
        written = ",".join(f'{key}="{value}"' for key, value in labels.items())
        with self._lock:
            self._counts[name, written] += amount  # type: ignore[assignment]

    def took(self, seconds: float) -> None:
        """One request was answered in that time."""
        with self._lock:
            self._seconds[bisect_left(BOUNDS, seconds)] += 1
            self._sum += seconds

    def value(self, name: str, **labels: str) -> float:
        """What was counted under these labels, or under all where none are given."""
        written = ",".join(f'{key}="{value}"' for key, value in labels.items())
        with self._lock:
            return sum(n for (known, found), n in self._counts.items() if known == name and written in (found, ""))

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        with self._lock:
            counts, seconds, total = dict(self._counts), dict(self._seconds), self._sum
        lines = []
        for name, meaning in _HELP.items():
            lines += [f"# HELP potstill_{name} {meaning}", f"# TYPE potstill_{name} counter"]
            found = {labels: value for (known, labels), value in counts.items() if known == name}
            lines += [_line(name, labels, value) for labels, value in sorted((found or {"": 0}).items())]
        for name, gauge in self.gauges.items():
            lines += [f"# TYPE potstill_{name} gauge", _line(name, "", gauge())]
        return "\n".join([*lines, *_histogram(seconds, total), ""])


def _line(name: str, labels: str, value: float) -> str:
    return f"potstill_{name}{{{labels}}} {value:g}" if labels else f"potstill_{name} {value:g}"


def _histogram(seconds: Mapping[int, int], total: float) -> list[str]:
    lines, sofar = ["# TYPE potstill_request_seconds histogram"], 0
    for place, bound in enumerate((*BOUNDS, float("inf"))):
        sofar += seconds.get(place, 0)
        lines.append(_line("request_seconds_bucket", f'le="{"+Inf" if bound == float("inf") else bound}"', sofar))
    return [*lines, _line("request_seconds_sum", "", total), _line("request_seconds_count", "", sofar)]
