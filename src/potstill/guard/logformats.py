"""One line of a log to one Query. Three formats, a parser each; the table FORMATS is what there is.

Whatever stands in a log was written by strangers. Nothing of it is evaluated, and numbers are taken only as numbers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from potstill.data.jsonl import parse_line
from potstill.data.quarantine import BadRow
from potstill.data.rows import Line, checked_text

LONGEST_PROMPT = 4000
"""Characters of a prompt that are looked at: what a template or a demand is shows before."""

# Beyond this a number counts milliseconds: as seconds it would lie after the year 5000.
_MILLISECONDS = 1e11
_ACCOUNT = ("account", "user", "account_id", "user_id", "organization")
_SECRET = ("api_key", "key")
NAMES = frozenset(_ACCOUNT + _SECRET)
"""Fields that say who asks."""
_TIME = ("time", "timestamp", "created", "created_at", "ts")
_TEXT = ("prompt", "input", "query", "text", "q")


@dataclass(frozen=True, slots=True)
class Query:
    """One request. time: seconds since 1970. None: the log does not say. candidates: answers asked for at once.

    logprobs: log-probabilities per token that were asked for. output: tokens (or characters / 4) answered.
    """

    line: int
    account: str
    time: float
    prompt: str
    network: str = ""
    temperature: float | None = None
    candidates: int = 1
    logprobs: int = 0
    limit: int | None = None
    output: float | None = None


def parse_jsonl(line: Line) -> Query:
    """A flat object: an account, a time and a prompt, and the options of a request where they are known.

    Raises:
        BadRow: no JSON object, or a field is missing or of the wrong kind.
    """
    values = parse_line(line)
    return _query(line.number, values, values, _first(values, _TEXT, "prompt"))


def parse_openai(line: Line) -> Query:
    """An object that holds a chat or completion request under `request` or `body`, or is one; `response` may hold its
    usage. The prompt is the system text and the last turn of the user.

    Raises:
        BadRow: no JSON object, or a field is missing or of the wrong kind.
    """
    values = parse_line(line)
    request = next((values[name] for name in ("request", "body") if isinstance(values.get(name), dict)), values)
    messages = request.get("messages")
    if request is values and messages is None:
        raise BadRow("no request", "no messages, and nothing under request or body")
    prompt = _chat(messages) if isinstance(messages, list) else _first(request, _TEXT, "messages")
    return _query(line.number, {**request, **values}, request, prompt)


_NGINX = re.compile(
    r'(?P<address>\S+) \S+ (?P<user>\S+) \[(?P<time>[^\]]{1,40})\] "(?P<request>[^"\\]*(?:\\.[^"\\]*)*)" '
    r"(?P<status>\d{3}) (?P<bytes>\d+|-)"
)


def parse_nginx(line: Line) -> Query:
    """The `common` and `combined` formats. The account is the user, or the address where there is none; the prompt is
    the query string's `q`, `prompt`, …, or the path. Bodies are not in such logs, so judgements rest on rates.

    Raises:
        BadRow: another format, or a time that cannot be read.
    """
    found = _NGINX.match(checked_text(line))
    if not found:
        raise BadRow("not an access-log line")
    address, user = found["address"], found["user"]
    target = [*found["request"].split(" "), ""][1]
    size = found["bytes"]
    return Query(
        line.number,
        address if user == "-" else user,
        _nginx_time(found["time"]),
        _asked(target)[:LONGEST_PROMPT],
        network_of(address),
        output=None if size == "-" else int(size[:15]) / 4,
    )


FORMATS: Mapping[str, Callable[[Line], Query]] = {
    "openai": parse_openai,
    "jsonl": parse_jsonl,
    "nginx": parse_nginx,
}


def network_of(address: str) -> str:
    """The block an address lies in: /24 of IPv4, /48 of IPv6; nothing of anything else."""
    if address.count(".") == 3:
        return address.rpartition(".")[0] + ".0/24"
    return ":".join(address.split(":")[:3]) + "::/48" if address.count(":") > 1 else ""


def _query(number: int, values: Mapping[str, Any], request: Mapping[str, Any], prompt: object) -> Query:
    if not isinstance(prompt, str):
        raise BadRow("prompt is no text", f"it is a {type(prompt).__name__}")
    top = _number(request, "top_logprobs", 0)
    asked = request.get("logprobs")
    return Query(
        number,
        _account(values),
        _time(_first(values, _TIME, "time")),
        prompt[:LONGEST_PROMPT],
        network_of(str(values.get("address") or values.get("ip") or "")),
        temperature=_number(request, "temperature"),
        candidates=int(_number(request, "n", 1) or 1),
        logprobs=int(max(top or 0, 1 if asked is True else _number(request, "logprobs", 0) or 0)),
        limit=int(limit) if (limit := _number(request, "max_tokens")) is not None else None,
        output=_output(values),
    )


def _first(values: Mapping[str, Any], names: tuple[str, ...], wanted: str) -> Any:
    for name in names:
        if values.get(name) is not None:
            return values[name]
    raise BadRow(f"no {wanted}", f"none of {', '.join(names)}")


def _account(values: Mapping[str, Any]) -> str:
    """Its name; a key is named by a fingerprint, because findings travel further than logs."""
    for name in _ACCOUNT:
        if isinstance(values.get(name), (str, int)) and str(values[name]):
            return str(values[name])[:200]
    for name in _SECRET:
        if isinstance(values.get(name), str) and values[name]:
            return "key-" + hashlib.sha256(values[name].encode()).hexdigest()[:12]
    raise BadRow("no account", f"none of {', '.join(_ACCOUNT + _SECRET)}")


def _time(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value / 1000 if abs(value) > _MILLISECONDS else float(value)
    else:
        try:
            seconds = datetime.fromisoformat(str(value)[:40]).timestamp()
        except (ValueError, OverflowError) as error:
            raise BadRow("time cannot be read", "seconds since 1970 or ISO 8601 are") from error
    if not 0 <= seconds < _MILLISECONDS:
        raise BadRow("time cannot be read", "it lies before 1970 or after 5138")
    return seconds


def _number(values: Mapping[str, Any], name: str, otherwise: float | None = None) -> float | None:
    value = values.get(name)
    if value is None or isinstance(value, bool):
        return otherwise
    if not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > 1e9:
        raise BadRow(f"{name} is no number")
    return value


def _output(values: Mapping[str, Any]) -> float | None:
    response = values.get("response")
    usage = response.get("usage") if isinstance(response, dict) else values.get("usage")
    if isinstance(usage, dict):
        return _number(usage, "completion_tokens")
    return _number(values, "output_tokens")


def _chat(messages: list[Any]) -> str:
    """System text and last user turn of a conversation."""
    turns = [turn for turn in messages if isinstance(turn, dict)]
    system = [_content(turn.get("content")) for turn in turns if turn.get("role") in ("system", "developer")]
    user = [turn.get("content") for turn in turns if turn.get("role") == "user"]
    if not user:
        raise BadRow("no turn of a user", "among the messages")
    return "\n".join([*system[:1], _content(user[-1])])


def _content(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


@lru_cache(maxsize=4)
def _nginx_time(text: str) -> float:
    try:
        return datetime.strptime(text, "%d/%b/%Y:%H:%M:%S %z").timestamp()
    except (ValueError, OverflowError) as error:
        raise BadRow("time cannot be read", "an access log writes 31/Dec/2026:23:59:59 +0000") from error


def _asked(target: str) -> str:
    try:
        parts = urlsplit(target)
        values = dict(parse_qsl(parts.query, max_num_fields=100))
    except ValueError:
        return target
    return next((values[name] for name in _TEXT if name in values), parts.path)
