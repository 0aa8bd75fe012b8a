"""What is an address of a teacher elsewhere, and what is none. No torch."""

from __future__ import annotations

from urllib.parse import urlsplit

SCHEMES = ("http", "https", "tcp", "tls", "unix")


def refuse_bad_url(url: str, schemes: tuple[str, ...] = SCHEMES) -> str | None:
    """Why this is no address of a teacher, or None; without the address, which may hold a password."""
    kind, _, rest = url.partition("://")
    if kind not in schemes or not rest:
        return f"must begin with {', '.join(f'{scheme}://' for scheme in schemes)}"
    if kind == "unix":
        return None if rest.startswith("/") else "must hold an absolute path: unix:///run/teacher.sock"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no address: its port or its host is none"
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return "holds a user, a password, a query or a fragment: the key goes into a file or an environment variable"
    if not parts.hostname or (port is None and kind in ("tcp", "tls")):
        return "names no host, or no port"
    return None
