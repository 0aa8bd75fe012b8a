"""The key of an endpoint: from a file or the environment, never from an argument or a recipe, and never printed."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from potstill.core.errors import InputError
from potstill.teachers.endpoint_settings import EndpointSettings
from potstill.teachers.keys import secret_text

LONGEST = 4096


def read_key(settings: EndpointSettings, environment: Mapping[str, str] | None = None) -> SecretStr | None:
    """The key the settings point at, which prints itself as asterisks; None where they point at none.

    Raises InputError: the variable or file is missing or empty, or what is there cannot be a key.
    """
    if settings.key_env is None and settings.key_file is None:
        return None
    place, text = secret_text(
        file=settings.key_file, variable=settings.key_env or "", next_step="check key_file", environment=environment
    )
    key = text.strip()
    if not key:
        raise InputError(f"{place} is empty or not set, and the endpoint's key was to be there: put it there")
    if len(key) > LONGEST or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"{place} holds no key: a key is one line of printable ASCII without spaces")
    return SecretStr(key)


def scrubbed(text: str, key: SecretStr | None) -> str:
    """A server's words without the key, which some servers quote in their refusals."""
    return text if key is None else text.replace(key.get_secret_value(), "[redacted]")
