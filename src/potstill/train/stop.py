"""Stopping on a signal without losing work.

A handler only raises a flag; whoever works polls it. A loop that polls between training steps alone is deaf during
evaluation, a probe or data building, where most of a short job's time goes, so every long loop calls `check`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from potstill.core.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Inside the `with`, SIGTERM and the first SIGINT set the flag; a second SIGINT raises KeyboardInterrupt at once.

    Outside the main thread python allows no handlers: the flag then only knows what `request` told it. agree: from the
    signal that came here (or None) to the one that counts: where several processes train together, all stop at the
    same point or none does.
    """

    def __init__(self, agree: Callable[[int | None], int | None] = lambda number: number) -> None:
        self.signal_number: int | None = None
        self._agree = agree
        self._interrupts = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not set from python and cannot be put back; the default is the nearest.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def request(self, signal_number: int) -> None:
        """Set the flag. The first signal stays the reason."""
        if self.signal_number is None:
            self.signal_number = signal_number

    def check(self) -> None:
        """Raise Stopped if a signal came. The training loop saves and raises it again with where to resume."""
        number = self._agree(self.signal_number)
        if number is not None:
            self.request(number)
            name = signal.Signals(number).name
            raise Stopped(number, f"stopped by {name}; run the same command again to go on")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        self.request(number)
