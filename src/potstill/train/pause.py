"""A pause between two steps: what it needs is saved, and what the broken step had begun is undone."""

from __future__ import annotations

import time
from collections.abc import Callable

from potstill.core.errors import TeacherAway
from potstill.train.resume import Running, return_to, save


def save_between_steps(running: Running) -> None:
    """Save the moment before the step that was begun, and return to it."""
    running.optimiser.zero_grad(set_to_none=True)
    return_to(running.plan, running.before)
    save(running)


def pause(running: Running, away: TeacherAway, *, poll: Callable[[], None]) -> None:
    """Save, and wait until a teacher is back; the step is then begun anew, with the same batches and random numbers.

    poll: may raise to stop, which ends the run with the state saved. Raises what `away.wait` raises.
    """
    save_between_steps(running)
    started = time.monotonic()
    running.notify("pause", {"reason": str(away)})
    running.plan.ranks.everywhere(lambda: away.wait(poll))
    running.notify("resume", {"seconds": time.monotonic() - started})
