"""The tables of docs/licences.md are the tables of terms."""

from potstill.policy.terms_table import HOSTS, TERMS
from tests.docs.generators import DOCS, generator

make = generator("make_licences")


def test_the_page_is_up_to_date():
    written = (DOCS / "licences.md").read_text(encoding="utf-8")
    assert written == make.page(written), "run `python docs/make_licences.py`"


def test_every_row_is_there_with_its_source():
    lines = make.table().splitlines()
    for one in TERMS.values():
        if one.source:
            (line,) = [line for line in lines if line.startswith(f"| `{one.id}` ")]
            assert f"[{one.read}]({one.source})" in line
            assert ("unconfirmed" in line) is not one.confirmed
    assert all(f"`{pattern}`" in lines[-1] for pattern in HOSTS)
