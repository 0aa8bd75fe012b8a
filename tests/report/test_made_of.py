"""The ledger drawn: one box a node, one arrow a making, and no text of it as markup."""

import re

from potstill.policy.ledger import Node, graph
from potstill.report.made_of import made_of

ROWS = Node("source", "rows", "rows.jsonl", role="data")
BASE = Node("source", "base", "base", role="base", licence="Apache-2.0")
FIRST = Node("checkpoint", "first", "stages/first/model", parents=(BASE.hash, ROWS.hash))
LAST = Node("checkpoint", "last", "stages/last/model", parents=(FIRST.hash, ROWS.hash))
NODES = graph((ROWS, BASE, FIRST, LAST))["nodes"]


def test_a_box_for_each_node_and_an_arrow_for_each_making():
    drawing = str(made_of(NODES))
    assert drawing.count("<rect") == 4
    assert drawing.count('class="edge"') == 4
    columns = {float(x) for x in re.findall(r'<rect x="([\d.]+)"', drawing)}
    assert len(columns) == 3
    assert "source · Apache-2.0" in drawing


def test_nothing_to_draw():
    assert made_of(()) == ""


def test_hostile_names_stay_text():
    evil = Node("source", '<script>alert("x")</script>', "s", licence="</svg><script>", revision='"><script>')
    (node,) = graph((evil,))["nodes"]
    drawing = str(made_of([{**node, "kind": "<script>"}]))
    assert "<script" not in drawing
    assert drawing.count("</svg>") == 1


def test_a_parent_that_is_not_there_has_no_arrow():
    assert str(made_of(NODES[2:])).count('class="edge"') == 1
