import math

import numpy as np
import pytest

from potstill.core.errors import InputError
from potstill.guard.watermark import canary_p, detect_watermark, green_test, is_green

KEY = b"a secret"


def test_known_answer():
    found = green_test(90, 200, 0.25)
    assert found.z == pytest.approx(6.531973, abs=5e-7)
    exact = sum(math.comb(200, k) * 0.25**k * 0.75 ** (200 - k) for k in range(90, 201))
    assert found.p == pytest.approx(exact, rel=1e-9)
    assert found.p == pytest.approx(6.54e-10, rel=1e-2)


def test_unmarked_text_has_uniform_p_and_marked_text_is_found():
    rng = np.random.default_rng(0)
    p = [detect_watermark([rng.integers(0, 5000, 120).tolist()], KEY).p for _ in range(150)]
    assert 0.02 < np.mean(np.array(p) < 0.1) < 0.2
    marked = [1, 2]
    while len(marked) < 150:
        draws = rng.integers(0, 5000, 4).tolist()
        marked.append(next((t for t in draws if is_green(marked[-2:], t, KEY, 0.25)), draws[0]))
    assert detect_watermark([marked], KEY).p < 1e-10
    assert detect_watermark([marked], b"another key").p > 1e-3


def test_repeated_phrases_count_once_and_prompts_not_at_all():
    phrase = np.random.default_rng(1).integers(0, 5000, 30).tolist()
    once, often = detect_watermark([phrase], KEY), detect_watermark([phrase] * 50, KEY)
    assert once == often
    assert detect_watermark([[*phrase, 7, 8]], KEY, prompts=[phrase]).total == 2


def test_canaries():
    assert canary_p(3.0, [1.0, 2.0, 2.5]) == 0.25
    assert canary_p(1.0, [1.0] * 9) == 1.0


@pytest.mark.parametrize("wrong", [(0, 0, 0.25), (3, 2, 0.25), (1, 2, 1.0)])
def test_refusals(wrong):
    with pytest.raises(InputError, match="green-list test"):
        green_test(*wrong)
    with pytest.raises(InputError, match="1 to 64 bytes"):
        detect_watermark([[1, 2, 3]], b"")
    with pytest.raises(InputError, match="controls"):
        canary_p(1.0, [])
