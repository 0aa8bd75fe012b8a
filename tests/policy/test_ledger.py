"""A ledger that was touched anywhere says so and names the node."""

import copy
import json

import pytest

from potstill.policy.ledger import Node, ancestors, digest, graph, verify

DATA = Node("source", "rows", "rows.jsonl", revision="ab" * 32, licence="CC0-1.0", terms=("CC0-1.0",), role="data")
WRITER = Node("writer", "black-1", "https://t.example/v1", maker="black-1", generation=1, parents=(DATA.hash,))
BASE = Node("source", "small", "packaged:small", licence="MIT", role="base", content={"weights": "12ab"})
TEACHER = Node("teacher", "large", "packaged:large", licence="Apache-2.0", role="teacher")
FIRST = Node("checkpoint", "first", "stage:first", parents=(BASE.hash, TEACHER.hash, DATA.hash))
TUTOR = Node("tutor", "first", "stage:first", parents=(FIRST.hash,))
STUDENT = Node("checkpoint", "student", "stage:student", parents=(BASE.hash, TUTOR.hash, WRITER.hash))
EXPORT = Node("export", "huggingface", "model", content={"model.safetensors": "ff"}, parents=(STUDENT.hash,))
NODES = (DATA, WRITER, BASE, TEACHER, FIRST, TUTOR, STUDENT, EXPORT)


@pytest.fixture
def ledger():
    return json.loads(json.dumps(graph(NODES)))


def test_a_ledger_as_written_is_sound(ledger):
    assert verify(ledger) == []
    assert ledger["head"] == EXPORT.hash
    assert graph([*NODES, EXPORT]) == graph(NODES)


def test_the_hash_is_that_of_canonical_json():
    assert digest({"b": [1, "é"], "a": {}}) == digest({"a": {}, "b": [1, "é"], "hash": "whatever"})
    # printf '{"a":{},"b":[1,"é"]}' | sha256sum
    assert digest({"b": [1, "é"], "a": {}}) == "c119b1d455f814e52b8153f2f0fcb5b5e576e84691661560e8aab1665ebecaa7"


@pytest.mark.parametrize("place", range(len(NODES)), ids=lambda place: NODES[place].kind + NODES[place].name)
@pytest.mark.parametrize("key", [*NODES[0].body, "hash", "added"])
def test_any_change_of_any_field_of_any_node_is_found_and_named(ledger, place, key):
    node = ledger["nodes"][place]
    before = copy.deepcopy(node)
    value = node.get(key)
    node[key] = (
        f"{value}x" if isinstance(value, str)
        else not value if isinstance(value, bool)
        else value + 1 if isinstance(value, int)
        else [*value, "x"] if isinstance(value, list)
        else {**(value or {}), "x": "y"}
    )  # fmt: skip
    faults = verify(ledger)
    assert faults
    names = (before["name"], str(node["name"]), before["hash"][:12])
    assert any(any(name in fault for name in names) for fault in faults)


@pytest.mark.parametrize("place", range(len(NODES)))
def test_a_changed_node_with_its_hash_made_anew_is_missed_by_its_children(ledger, place):
    node = ledger["nodes"][place]
    node["licence"] = "MIT AND nothing else"
    node["hash"] = digest(node)
    faults = verify(ledger)
    lost = "is missing" if node["kind"] != "export" else "is not the last node"
    assert any(lost in fault for fault in faults)


def test_a_missing_parent_is_named_with_its_child(ledger):
    del ledger["nodes"][3]
    assert verify(ledger) == [f"checkpoint first ({FIRST.hash[:12]}): its parent {TEACHER.hash[:12]} is missing"]


def test_a_loop_is_found_even_where_every_hash_was_written_to_fit(ledger):
    first, student = ledger["nodes"][4], ledger["nodes"][6]
    first["parents"].append(student["hash"])
    assert any(fault.startswith("a loop: ") and "first" in fault and "student" in fault for fault in verify(ledger))
    alone = {"version": 1, "nodes": [{"kind": "source", "name": "n", "hash": "h", "parents": ["h"]}], "head": "h"}
    assert any(fault.startswith("a loop: source n (h) from source n (h)") for fault in verify(alone))


@pytest.mark.parametrize(
    "found", [None, [], {}, {"version": 2, "nodes": [], "head": ""}, {"version": 1, "nodes": {}, "head": ""}]
)
def test_what_is_no_ledger_is_said_to_be_none(found):
    assert "holds no graph" in verify(found)[0]


@pytest.mark.parametrize("node", [None, 3, {}, {"hash": 1, "parents": []}, {"hash": "h", "parents": "h"}])
def test_a_node_that_is_none(node):
    assert any("node 0 is no node" in fault for fault in verify({"version": 1, "nodes": [node], "head": "h"}))


def test_a_node_twice_and_a_node_more(ledger):
    ledger["nodes"].append(ledger["nodes"][0])
    faults = verify(ledger)
    assert any("source rows" in fault and "2 times" in fault for fault in faults)
    assert any("is not the last node" in fault for fault in faults)


def test_ancestors_are_those_it_was_made_from_and_no_other(ledger):
    names = [node["name"] for node in ancestors(ledger, FIRST.hash)]
    assert set(names) == {"rows", "small", "large", "first"}
    assert names[-1] == "first"
    assert len(ancestors(ledger, EXPORT.hash)) == len(NODES)
    assert ancestors(ledger, "nobody") == []
