"""What a teacher's settings must agree on among themselves."""

import pytest
from pydantic import ValidationError

from potstill.teachers.settings import TeacherSettings

TWO = [{"model_name_or_path": "a"}, {"model_name_or_path": "b"}]
ROUTED = {"route_by": "kind", "routes": {"x": 0, "y": 1}}


def made(**values):
    return TeacherSettings(**{"models": TWO, **values})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"route_by": "kind"}, "belong together"),
        ({"routes": {"x": 0}}, "belong together"),
        ({**ROUTED, "weights": [1, 2]}, "weights belongs to an ensemble"),
        ({**ROUTED, "drop_above": 2}, "drop_above belongs to an ensemble"),
        ({**ROUTED, "combine": "geometric"}, "combine belongs to an ensemble"),
        ({**ROUTED, "routes": {"x": 0, "y": 2}}, "routes.y is 2, and the teachers have positions 0 to 1"),
        ({**ROUTED, "routes": {"x": 0, "y": 0}}, "models.1 has no route"),
        ({"vocabulary": "aligned", "drop_above": 2}, "mean little across tokenizers"),
        ({"vocabulary": "padded", "cache": True}, "cache is for classifiers"),
        ({"vocabulary": "similar"}, "'equal', 'padded' or 'aligned'"),
    ],
)
def test_contradictions(values, words):
    with pytest.raises(ValidationError, match=words):
        made(**values)


def test_what_is_allowed():
    assert made(**ROUTED).routes == {"x": 0, "y": 1}
    assert made(**{**ROUTED, "routes": {"x": 0, "y": 1, "z": 0}}).route_by == "kind"
    assert made(vocabulary="padded", drop_above=2).vocabulary == "padded"
