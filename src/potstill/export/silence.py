"""Exporters at work without their notices, their bars on stdout, and their reports to their makers."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator

# OpenVINO and NNCF send what they were used for to a service of their makers, and leave a number in the home folder by
# which it knows the user, unless these say that nobody sits there.
_UNWATCHED = {"CI": "true", "NNCF_CI": "1"}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Import and call exporters in here. stdout belongs to the result of a command, and nothing leaves the machine."""
    before = {name: os.environ.get(name) for name in _UNWATCHED}
    muted = logging.root.manager.disable
    os.environ.update(_UNWATCHED)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(muted)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
