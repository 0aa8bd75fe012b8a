"""Keys of a teacher service: where they are read, and how one is recognised. Never an argument of a command, since
every user of a machine reads the arguments of every process. No torch."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from potstill.core.errors import InputError

KEY_VARIABLE = "POTSTILL_KEY"
SHORTEST, LONGEST_FILE = 16, 1 << 16
_MAKE = "make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`"


def read_keys(
    *, file: str | Path | None = None, variable: str | None = None, environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The keys in a file, one a line, or the one in an environment variable (POTSTILL_KEY unless another is named).

    Raises InputError when there is none, or one is too short to be a secret.
    """
    place, text = secret_text(
        file=file, variable=variable or KEY_VARIABLE, next_step=f"{_MAKE} and put it there", environment=environment
    )
    found = [line.strip() for line in (text.splitlines() if file is not None else [text]) if line.strip()]
    if not found:
        raise InputError(f"{place} holds no key, and nobody is served or asked without one: {_MAKE}")
    if short := [key for key in found if len(key) < SHORTEST or not key.isascii() or not key.isprintable()]:
        raise InputError(
            f"{place} holds {len(short)} keys of fewer than {SHORTEST} characters, or with others than ASCII: {_MAKE}"
        )
    return tuple(found)


def secret_text(
    *, file: str | Path | None, variable: str, next_step: str, environment: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Where a secret lies, in words, and what lies there: the file if one is named, else the environment variable.

    Raises InputError for a file that cannot be read, or is far longer than keys are.
    """
    if file is None:
        values = os.environ if environment is None else environment
        return f"the environment variable {variable}", values.get(variable, "")
    try:
        with Path(file).expanduser().open(encoding="utf-8") as opened:
            text = opened.read(LONGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"the key file {file} cannot be read ({reason}): {next_step}") from None
    if len(text) > LONGEST_FILE:
        raise InputError(f"the key file {file} is longer than {LONGEST_FILE} characters: name a file that holds keys")
    return f"the key file {file}", text


class KeyRing:
    """Recognises keys without saying, by the time it takes, how much of one was right."""

    def __init__(self, keys: Sequence[str]):
        self._keys = tuple(key.encode() for key in keys)
        self._digests = tuple(hashlib.sha256(key).digest() for key in self._keys)

    def knows(self, offered: bytes) -> bool:
        """Whether it is one of ours; every key is compared, whichever fits."""
        digest = hashlib.sha256(offered).digest()
        return any([hmac.compare_digest(digest, known) for known in self._digests])

    def answering(self, nonce: bytes, proof: bytes) -> bytes | None:
        """The key by which `proof` was made of `nonce`, or None."""
        fitting = [key for key in self._keys if hmac.compare_digest(prove(key, nonce), proof)]
        return fitting[0] if fitting else None


def prove(key: bytes, nonce: bytes) -> bytes:
    """HMAC-SHA256 of a nonce: shows that a key is known without sending it."""
    return hmac.new(key, b"potstill stream" + nonce, hashlib.sha256).digest()
