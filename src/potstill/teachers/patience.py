"""How long to wait before asking again: exponential back-off with full jitter, and what Retry-After says."""

from __future__ import annotations

import email.utils
import math
import random
import time
from collections.abc import Callable

# Waits double from the first to the longest; full jitter spreads those who were turned away together (Brooker 2015,
# "Exponential backoff and jitter": of the variants compared there, full jitter asks least often in all).
FIRST_WAIT, LONGEST_BACKOFF = 0.5, 30.0
# Added to a wait that the server named, for the same reason: it told everybody the same second.
NAMED_JITTER = 1.0


def full_jitter(failures: int, draw: Callable[[], float], *, first: float) -> float:
    """Seconds, uniform between 0 and a bound that doubles with each failure in a row. draw: uniform in [0, 1)."""
    return draw() * min(LONGEST_BACKOFF, first * 2.0 ** (failures - 1))


def wait_before(attempt: int, named: float | None, draw: random.Random) -> float:
    """Seconds to wait after `attempt` attempts (1 after the first). named: what Retry-After asked for."""
    if named is not None:
        return named + draw.uniform(0, NAMED_JITTER)
    return full_jitter(attempt, draw.random, first=FIRST_WAIT)


def retry_after(header: str | None, now: float | None = None) -> float | None:
    """Seconds that a Retry-After header names, as a number or as a date (RFC 9110, section 10.2.3); None if it names
    nothing that can be read."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(header)
            seconds = then.timestamp() - (time.time() if now is None else now)
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
