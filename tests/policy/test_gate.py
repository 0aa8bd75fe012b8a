"""Findings on terms, the answers of persons, and the verdict."""

from datetime import date, timedelta

import pytest

from potstill.core.errors import InputError
from potstill.core.finding import Finding
from potstill.policy.combine import Ancestor, Question
from potstill.policy.consent import consent, read_consents
from potstill.policy.gate import decide, licence_findings
from potstill.policy.terms_table import TERMS

GEMMA = Ancestor("teacher", "packaged:gemma-3-270m", "Gemma")
SMOL = Ancestor("base", "packaged:smollm2-135m-instruct", "Apache-2.0")
GPT = Ancestor("writer", "gpt", url="https://api.openai.com/v1")
MINE = Ancestor("data", "rows.jsonl", ours=True)
STRANGE = Ancestor("data", "somebody/rows", "banana")
READ = date.fromisoformat(TERMS["Gemma"].read)


def answered(kind, about, *covers):
    return consent(kind, about, by="A. Person", day="2026-01-02", reason="read them", covers=covers)


def verdicts(*ancestors, consents=(), question=None, **options):
    found = licence_findings(ancestors, question or Question(), consents, today=READ, **options)
    return {one.name: one.verdict for one in found}


def test_packaged_smollm2_passes_and_packaged_gemma_stops_until_it_is_accepted():
    assert verdicts(SMOL) == {"licence.apache-2.0": "pass"}
    assert verdicts(SMOL, GEMMA) == {"licence.apache-2.0": "pass", "licence.gemma": "stop"}
    yes = answered("accept", "gemma")
    assert verdicts(SMOL, GEMMA, consents=[yes]) == {"licence.apache-2.0": "pass", "licence.gemma": "warn"}
    (gemma,) = licence_findings([GEMMA], Question(), [yes], today=READ)
    assert gemma.evidence["accepted"]["by"] == "A. Person"
    owed = [duty["text"] for duty in gemma.evidence["duties"] if duty["kind"] == "notice"]
    assert owed == ["Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"]


def test_a_paid_endpoint_stops_and_is_not_accepted_but_overridden_by_name():
    assert verdicts(GPT) == {"licence.openai-api": "stop"}
    assert verdicts(GPT, consents=[answered("accept", "openai-api")]) == {"licence.openai-api": "stop"}
    found = licence_findings([GPT], Question(), today=READ)
    assert not decide(found, []).open
    gate = decide(found, [answered("override", "licence.openai-api", "gpt")])
    assert gate.open
    assert [(one.name, by.by) for one, by in gate.overrides] == [("licence.openai-api", "A. Person")]


def test_an_override_does_not_cover_who_came_later():
    more = licence_findings([GPT, Ancestor("teacher", "other", url=GPT.url)], Question(), today=READ)
    assert not decide(more, [answered("override", "licence.openai-api", "gpt")]).open


def test_what_nobody_stated_warns_in_a_run_and_stops_a_release():
    assert verdicts(MINE) == {"licence.undeclared": "warn"}
    assert verdicts(MINE, release=True) == {"licence.undeclared": "stop"}
    yes = answered("accept", "undeclared", "rows.jsonl")
    assert verdicts(MINE, release=True, consents=[yes]) == {"licence.undeclared": "pass"}
    other = Ancestor("data", "more.jsonl", ours=True)
    assert verdicts(MINE, other, release=True, consents=[yes]) == {"licence.undeclared": "stop"}


def test_a_licence_nobody_knows_asks_a_person_about_this_one_thing():
    assert verdicts(STRANGE) == {"licence.unknown": "stop"}
    yes = answered("accept", "unknown", "somebody/rows")
    assert verdicts(STRANGE, consents=[yes]) == {"licence.unknown": "pass"}
    assert verdicts(STRANGE, Ancestor("data", "x/y", "mystery"), consents=[yes]) == {"licence.unknown": "stop"}


@pytest.mark.parametrize(("purpose", "verdict"), [("unstated", "warn"), ("research", "pass"), ("commercial", "stop")])
def test_rows_that_are_not_for_commerce(purpose, verdict):
    rows = Ancestor("data", "set", "cc-by-nc-4.0")
    assert verdicts(rows, question=Question(purpose)) == {"licence.cc-by-nc": verdict}


def test_share_alike_warns_with_what_is_owed():
    (found,) = licence_findings([Ancestor("data", "boolq", "CC-BY-SA-3.0")], Question(), today=READ)
    assert (found.verdict, found.value) == ("warn", 1.0)
    assert "share-alike" in found.evidence["why"]


def test_a_student_of_llama_is_named_after_it():
    llama = Ancestor("teacher", "llama", "llama3.2")
    yes = [answered("accept", "llama-3.2")]
    assert verdicts(llama, consents=yes, question=Question(name="tiny"))["licence.name"] == "stop"
    assert verdicts(llama, consents=yes, question=Question(name="Llama-tiny"))["licence.name"] == "pass"


def test_terms_that_change_are_read_again_after_half_a_year():
    yes = [answered("accept", "gemma")]
    later = READ + timedelta(days=181)
    free = Ancestor("data", "set", "MIT")
    assert [one.verdict for one in licence_findings([free], Question(), today=later)] == ["pass"]
    (gemma,) = licence_findings([GEMMA], Question(), yes, today=later)
    assert gemma.verdict == "warn"


def test_an_acceptance_of_other_words_is_none():
    old = [one for one in read_consents([answered("accept", "gemma").as_json() | {"read": "2020-01-01"}], "here")]
    assert verdicts(GEMMA, consents=old) == {"licence.gemma": "stop"}


def test_any_stop_closes_the_gate_and_the_newest_answer_counts():
    bad = Finding("audit.refusal", 0.2, bound=0.1, verdict="stop")
    assert decide([bad], []).stops == (bad,)
    one, two = answered("override", "audit.refusal"), consent(
        "override", "audit.refusal", by="B", day="2026-01-03", reason="again"
    )  # fmt: skip
    gate = decide([bad, Finding("x", 1.0)], [one, two])
    assert (gate.open, gate.overrides[0][1].by) == (True, "B")
    assert not decide([bad], [answered("override", "audit.other")]).open


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"by": " "}, "--by is missing"),
        ({"reason": ""}, "--reason is missing"),
        ({"day": ""}, "--date is missing"),
        ({"day": "24.11.2026"}, "not a day; write it as YYYY-MM-DD"),
        ({"day": "2999-01-01"}, "is in the future"),
        ({"about": "banana"}, "no such terms; the table has Apache-2.0, MIT"),
    ],
)
def test_an_answer_that_is_none(changes, words):
    values = {"about": "gemma", "by": "A", "day": "2026-01-02", "reason": "read", **changes}
    with pytest.raises(InputError, match=words):
        consent("accept", values.pop("about"), **values)


@pytest.mark.parametrize("rows", [[{"kind": "accept"}], ["x"], [{"x": 1}]])
def test_answers_that_were_damaged(rows):
    with pytest.raises(InputError, match="here: not answers"):
        read_consents(rows, "here")
