"""The table of terms: whole, dated, and found under the names that hubs, cards and wheels use."""

from datetime import date

import pytest

from potstill.policy.identify import BY_KEY, at_address, identify, is_near, key
from potstill.policy.terms import ORDER, strictest
from potstill.policy.terms_table import HOSTS, TERMS, UNDECLARED, UNKNOWN


@pytest.mark.parametrize("terms", TERMS.values(), ids=lambda one: one.id)
def test_every_row_is_dated_sourced_and_answers(terms):
    assert date.fromisoformat(terms.read) >= date(2026, 1, 1)
    assert {terms.derive, terms.outputs, terms.compete, terms.commercial} <= set(ORDER)
    if terms not in (UNKNOWN, UNDECLARED):
        assert terms.source.startswith("https://")
        assert identify(terms.id) == identify(terms.title) == (terms,)
        assert all(identify(alias) == (terms,) for alias in terms.aliases)


def test_no_name_means_two_rows():
    names = [
        key(name)
        for terms in TERMS.values()
        if terms not in (UNKNOWN, UNDECLARED)
        for name in {key(name): name for name in (terms.id, terms.title, *terms.aliases)}.values()
    ]
    assert len(names) == len(set(names)) == len(BY_KEY)
    assert set(HOSTS.values()) <= set(TERMS)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Apache License, Version 2.0", ["Apache-2.0"]),
        ("apache-2.0", ["Apache-2.0"]),
        ("The MIT License", ["MIT"]),
        ("llama3.1", ["Llama-3.1"]),
        ("Llama 3.3 Community License Agreement", ["Llama-3.3"]),
        ("LicenseRef-Gemma", ["Gemma"]),
        ("cc-by-sa-3.0", ["CC-BY-SA"]),
        ("CC-BY-NC-4.0", ["CC-BY-NC"]),
        ("Apache-2.0 WITH LLVM-exception", ["Apache-2.0"]),
        ("MIT AND gemma", ["MIT", "Gemma"]),
        ("mit, banana", ["MIT", "unknown"]),
        ("banana", ["unknown"]),
        ("other", ["unknown"]),
        ("MIT OR GPL-3.0", ["MIT"]),
        ("banana OR MIT", ["MIT"]),
        ("(MIT OR GPL-3.0) AND CC-BY-4.0", ["MIT", "GPL", "CC-BY"]),
        ("", ["undeclared"]),
        ("NOASSERTION", ["undeclared"]),
        (None, ["undeclared"]),
        ("mitt", ["unknown"]),
    ],
)
def test_what_is_stated_becomes_rows(text, ids):
    assert [terms.id for terms in identify(text)] == ids


@pytest.mark.parametrize(
    ("url", "ids"),
    [
        ("https://api.openai.com/v1", ["OpenAI-API"]),
        ("https://mine.openai.azure.com/v1", ["OpenAI-API"]),
        ("https://API.Anthropic.com/v1", ["Anthropic-API"]),
        ("https://generativelanguage.googleapis.com/v1beta/openai", ["Google-API"]),
        ("https://europe-west1-aiplatform.googleapis.com/v1", ["Google-API"]),
        ("https://bedrock-runtime.eu-west-1.amazonaws.com/v1", ["AWS-Bedrock"]),
        ("https://ec2-1-2-3-4.compute.amazonaws.com/v1", []),
        ("https://notopenai.com/v1", []),
        ("https://openai.com.example/v1", []),
        ("http://127.0.0.1:8000/v1", []),
    ],
)
def test_a_company_is_known_by_its_address(url, ids):
    assert [terms.id for terms in at_address(url)] == ids


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://10.1.2.3/v1", True),
        ("http://gpu7:8000/v1", True),
        ("http://teacher.local/v1", True),
        ("unix:///tmp/teacher", True),
        ("https://teacher.example/v1", False),
        ("http://8.8.8.8/v1", False),
    ],
)
def test_whose_network_an_address_is_on(url, near):
    assert is_near(url) is near


def test_the_order_of_permissions():
    assert strictest() == "yes"
    assert strictest("yes", "ask", "accept") == "ask"
    assert strictest("ask", "no") == "no"
