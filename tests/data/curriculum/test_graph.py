import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.data.curriculum.graph import circle, sequence

CHAIN = {"b": ["a"], "c": ["b"], "d": ["c"], "e": ["d"]}


def test_a_chain_of_five_has_one_order():
    assert sequence("ecabd", CHAIN) == ("a", "b", "c", "d", "e")
    assert circle(CHAIN) == []


@pytest.mark.parametrize(
    ("graph", "path"),
    [
        ({"a": ["a"]}, ["a", "a"]),
        ({"a": ["b"], "b": ["a"]}, ["a", "b", "a"]),
        ({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}, ["a", "b", "c", "a"]),
    ],
)
def test_a_circle_is_found_with_its_path(graph, path):
    assert circle(graph) == path


def test_a_diamond_is_no_circle():
    assert circle({"d": ["b", "c"], "b": ["a"], "c": ["a"]}) == []


def test_a_long_chain_is_no_problem():
    names = [str(n) for n in range(5000)]
    graph = {after: [before] for before, after in itertools.pairwise(names)}
    assert circle(graph) == []
    graph["0"] = ["4999"]
    assert len(circle(graph)) == 5001


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_without_a_circle_everything_comes_after_what_it_builds_on(edges):
    graph = {}
    for one, other in edges:
        graph.setdefault(str(one), []).append(str(other))
    path = circle(graph)
    if path:
        assert path[0] == path[-1]
        assert all(after in graph[before] for before, after in itertools.pairwise(path))
    else:
        order = sequence((), graph)
        assert all(order.index(before) < order.index(skill) for skill in graph for before in graph[skill])
