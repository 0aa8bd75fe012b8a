"""The ladder of responses, and what each takes from whoever is accused."""

import pytest

from potstill.core.errors import InputError
from potstill.guard.logformats import Query
from potstill.guard.response import DELAY_S, LADDER, TOP, coarsened, price, steps

QUERIES = [Query(n, "a", 1.7e9 + n, "x", logprobs=logprobs) for n, logprobs in enumerate((0, 1, 5, 20))]


def test_only_allowed_steps_and_harder_ones_further_above():
    assert steps(1.0, 2.0, tuple(LADDER)) == ()
    assert steps(2.5, 2.0, tuple(LADDER)) == ("observe", "slow", "coarsen")
    assert steps(3.5, 2.0, ("refuse", "watermark")) == ("watermark",)
    assert steps(99.0, 2.0, ("refuse",)) == ("refuse",)
    with pytest.raises(InputError, match="responses are: observe, slow"):
        steps(0.0, 0.0, ("block",))


def test_coarsening_caps_numbers_and_leaves_the_rest():
    body = {"logprobs": True, "top_logprobs": 20, "prompt_logprobs": None, "n": 4, "prompt": "x"}
    assert coarsened(body) == {**body, "top_logprobs": TOP}
    assert coarsened({"logprobs": 5}) == {"logprobs": TOP}
    assert coarsened({"logprobs": 0}) == {"logprobs": 0}


def test_prices():
    assert price("observe", QUERIES) == {}
    assert price("slow", QUERIES) == {"seconds": 4 * DELAY_S}
    assert price("coarsen", QUERIES) == {"logprobs": 4.0 + 19.0}
    assert price("watermark", QUERIES) == price("refuse", QUERIES) == {"answers": 4.0}
