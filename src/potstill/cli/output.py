"""The result goes to stdout, once, as text or JSON; all else goes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any


class OutputClosed(Exception):
    """Whoever read stdout has gone (`potstill ls | head -1`); there is nothing left to say."""


def emit(text: str, values: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the result. Raises OutputClosed when nobody reads it. Of several ranks only the first one prints."""
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        print(json.dumps(values, indent=2, default=str) if as_json else text.rstrip("\n"), flush=True)
    except BrokenPipeError as error:
        raise OutputClosed from error


@contextmanager
def working() -> Iterator[None]:
    """While work is done, whatever libraries print belongs to the progress, not to the result."""
    with redirect_stdout(sys.stderr):
        yield
