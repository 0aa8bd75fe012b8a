"""The ledger as a graph: who was made from whom, each node named by the hash of all it says, its parents among it.

A node cannot be changed without its hash, nor its hash without those of everything made from it; the last hash stands
in the student's card. Hashes are SHA-256 of canonical JSON (sorted keys, no spaces, UTF-8), as RFC 8785 has it for the
strings, whole numbers, lists and objects that nodes are made of.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, get_args

Kind = Literal["source", "writer", "teacher", "tutor", "checkpoint", "export"]
KINDS: frozenset[str] = frozenset(get_args(Kind))
VERSION = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One thing in the making. name: what it is called in the run. source, revision: where a person finds it. licence:
    as stated. terms: ids of the table's rows that hold. maker: who produced it. generation: synthetic steps from human
    text. content: what it held: the hash of weights, or of each file by its path. role: what it was to its children
    ("base", "data", "teacher", "writer"; "" of a product). parents: hashes of what it was made from."""

    kind: Kind
    name: str
    source: str
    revision: str = "unknown"
    licence: str = "unknown"
    terms: tuple[str, ...] = ()
    maker: str = "unknown"
    generation: int = 0
    role: str = ""
    url: str = ""
    ours: bool = False
    content: Mapping[str, str] = field(default_factory=dict)
    parents: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """64 hexadecimal digits."""
        return digest(self.body)

    @property
    def body(self) -> dict[str, Any]:
        """What is hashed."""
        return asdict(self) | {"terms": list(self.terms), "parents": list(self.parents), "content": dict(self.content)}


def digest(body: Mapping[str, Any]) -> str:
    """SHA-256 of a node's canonical JSON, without its own hash."""
    plain = {key: value for key, value in body.items() if key != "hash"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def graph(nodes: Sequence[Node]) -> dict[str, Any]:
    """The graph as ledger.json holds it, each node once. head: the last node, which everything leads to."""
    unique = list({node.hash: node for node in nodes}.values())
    return {
        "version": VERSION,
        "nodes": [node.body | {"hash": node.hash} for node in unique],
        "head": unique[-1].hash if unique else "",
    }


def ancestors(found: Mapping[str, Any], start: str) -> list[Mapping[str, Any]]:
    """The node of a hash and everything it was made from, each once, parents first."""
    by_hash = {node["hash"]: node for node in found["nodes"]}
    seen: dict[str, None] = {}
    waiting = [(start, False)]
    while waiting:
        here, done = waiting.pop()
        if done:
            seen.setdefault(here)
        elif here in by_hash and here not in seen:
            waiting.append((here, True))
            waiting += [(parent, False) for parent in by_hash[here]["parents"] if parent not in seen]
    return [by_hash[name] for name in seen]


def verify(found: Any) -> list[str]:
    """Everything wrong with a graph, each fault in a sentence that names its node; nothing for a sound one."""
    nodes = found.get("nodes") if isinstance(found, Mapping) else None
    if not isinstance(nodes, list) or found.get("version") != VERSION:
        return [f"the ledger holds no graph of version {VERSION}: it was written by another Potstill, or changed"]
    faults = [fault for place, node in enumerate(nodes) for fault in _node_faults(node, place)]
    sound = [node for node in nodes if _is_node(node)]
    known = {node["hash"] for node in sound}
    faults += [
        f"{title(node)}: its parent {_short(parent)} is missing"
        for node in sound
        for parent in node["parents"]
        if parent not in known
    ]
    faults += _twins(sound)
    if loop := _loop(sound):
        faults.append(f"a loop: {' from '.join(loop)}")
    head = found.get("head")
    if head != (nodes[-1].get("hash") if nodes and isinstance(nodes[-1], Mapping) else ""):
        faults.append(f"the head {_short(str(head))} is not the last node: nodes were added, removed or moved")
    return faults


def title(node: Mapping[str, Any]) -> str:
    """What a message calls a node."""
    return f"{node.get('kind')} {node.get('name')} ({_short(str(node.get('hash')))})"


def _short(name: str) -> str:
    return name[:12]


def _is_node(node: Any) -> bool:
    """Whether a node can be followed at all."""
    return (
        isinstance(node, Mapping)
        and isinstance(node.get("hash"), str)
        and isinstance(node.get("parents"), list)
        and all(isinstance(parent, str) for parent in node["parents"])
    )


def _node_faults(node: Any, place: int) -> Iterable[str]:
    """What a node says against itself."""
    if not _is_node(node):
        yield f"node {place} is no node: hash and parents are not there"
        return
    if node.get("kind") not in KINDS:
        yield f"{title(node)}: {node.get('kind')!r} is no kind of node"
    try:
        true = digest(node)
    except (TypeError, ValueError):
        true = "nothing"
    if true != node["hash"]:
        yield f"{title(node)}: its content has hash {_short(true)}: it was changed after it was written"


def _twins(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    counted = Counter(node["hash"] for node in nodes)
    titles = {node["hash"]: title(node) for node in nodes}
    return [f"{titles[name]} stands there {number} times" for name, number in counted.items() if number > 1]


def _loop(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The titles along one loop, or nothing. True hashes cannot make one; written ones can."""
    titles = {node["hash"]: title(node) for node in nodes}
    try:
        TopologicalSorter({node["hash"]: node["parents"] for node in nodes}).prepare()
    except CycleError as error:
        return [titles.get(name, _short(name)) for name in error.args[1]]
    return []
