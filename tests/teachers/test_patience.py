import random
from email.utils import formatdate

import pytest

from potstill.teachers import patience
from potstill.teachers.patience import retry_after, wait_before


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None), ("nan", None), ("inf", None), ("", None)],
)
def test_retry_after_in_seconds(header, seconds):
    assert retry_after(header) == seconds


def test_retry_after_as_a_date():
    assert retry_after(formatdate(1000, usegmt=True), now=990) == 10
    assert retry_after(formatdate(1000, usegmt=True), now=1010) == 0


def test_back_off_doubles_to_its_cap_with_full_jitter():
    draw = random.Random(0)
    for attempt, most in [(1, 0.5), (2, 1.0), (5, 8.0), (7, 30.0), (40, 30.0)]:
        waits = [wait_before(attempt, None, draw) for _ in range(400)]
        assert 0 <= min(waits) < 0.1 * most
        assert 0.9 * most < max(waits) <= most


def test_a_named_wait_is_never_cut_short():
    draw = random.Random(0)
    waits = [wait_before(1, 4.0, draw) for _ in range(100)]
    assert min(waits) >= 4.0
    assert max(waits) <= 4.0 + patience.NAMED_JITTER
