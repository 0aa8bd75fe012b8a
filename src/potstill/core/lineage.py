"""Where a thing came from: carried by every example, model and checkpoint, so that a release can be traced."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lineage:
    """Origin of one thing.

    source: a name a person can look up (data set, model id, file). revision: commit, version or content hash.
    licence: SPDX identifier, or "unknown". maker: who or what produced it ("human", a model fingerprint).
    generation: how many synthetic steps lie between it and human text (0 is human). parents: ids of its makings.
    """

    source: str
    revision: str = "unknown"
    licence: str = "unknown"
    maker: str = "human"
    generation: int = 0
    parents: tuple[str, ...] = ()


def with_declared(found: str, declared: str | None) -> str:
    """The licence that a thing states itself, and the one that the recipe declares for it: both hold where they differ,
    so that declaring never lifts what is there."""
    if not declared or declared.lower() == found.lower():
        return found
    return declared if found == "unknown" else f"{found} AND {declared}"
