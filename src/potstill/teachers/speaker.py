"""Which model an endpoint speaks for: the id it is asked by, and the id it reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.core.errors import EndpointError
from potstill.teachers.client import BadReply, Client

SHOWN = 10


async def model_to_ask(client: Client) -> str:
    """The settings' model, else the only one that `/models` lists.

    Raises EndpointError when it lists none or several: which of them teaches is not for us to guess.
    """
    if client.settings.model is not None:
        return client.settings.model
    names = await client.ask("/models", None, _names)
    if len(names) != 1:
        listed = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
        raise EndpointError(
            f"{client.settings.url} lists {len(names)} models ({listed or 'none'}): set model to the one that teaches"
        )
    return names[0]


def _names(reply: Mapping[str, Any]) -> list[str]:
    rows = reply.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
        raise BadReply("not a list of models", "`data` is not a list of objects with an `id`")
    return [row["id"] for row in rows]


class OneModel:
    """All replies come from one model: the first id that is reported must stay. reported: that id, "" until then.

    An endpoint may report a longer name than it was asked by (an alias and its date), never two different ones.
    """

    def __init__(self, reported: str = ""):
        self.reported = reported

    def check(self, reply: Mapping[str, Any]) -> str:
        """The id in the reply. Raises BadReply when it is missing or another one."""
        name = reply.get("model")
        if not isinstance(name, str) or not name:
            raise BadReply("no model id", "the reply does not say which model made it")
        self.reported = self.reported or name
        if name != self.reported:
            raise BadReply("another model", f"it reports {name[:100]!r}, and {self.reported[:100]!r} before")
        return name
