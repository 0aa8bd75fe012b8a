"""The front against its definition, and the file it is drawn into."""

import random
import re
from itertools import pairwise
from xml.etree import ElementTree

from potstill.report.pareto import chart, front
from potstill.report.svg import HEIGHT, LINE, Dot


def dots(seed, number=40):
    draw = random.Random(seed)
    return [Dot(f"d{i}", "student", draw.randint(1, 12), draw.randint(1, 12)) for i in range(number)]


def test_the_front_is_what_nobody_beats():
    for seed in range(20):
        everyone = dots(seed)
        kept = front(everyone)
        assert [one.x for one in kept] == sorted(one.x for one in kept)
        for one in everyone:
            beaten = any((o.x <= one.x and o.y > one.y) or (o.x < one.x and o.y >= one.y) for o in everyone)
            assert (one in kept) != beaten


def test_the_chart_is_a_file_of_its_own():
    given = [Dot("a < b", "teacher", 10, 0.73), Dot("small", "student", 1, 0.71), Dot("bad", "tfidf", 2, 0.6)]
    text = chart(given, x_label="ms", y_label="accuracy")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "a &lt; b" in text
    assert "href" not in text
    assert "url(" not in text
    (line,) = [one for one in root.iter() if one.tag.endswith("polyline")]
    assert len(line.get("points").split()) == 2  # `bad` is dearer and worse than `small`


def test_names_do_not_lie_on_each_other():
    near = [Dot(f"n{i}", "student", 1 + i, 0.7) for i in range(8)]
    text = chart([*near, Dot("low", "tfidf", 1, 0.6)], x_label="ms", y_label="accuracy")
    heights = sorted(float(y) for y in re.findall(r'class="name" x="[^"]*" y="([^"]*)"', text))
    assert all(b - a >= LINE - 0.2 for a, b in pairwise(heights))
    assert heights[0] > 0
    assert heights[-1] < HEIGHT
