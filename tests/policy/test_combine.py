"""Known answers of the survey's table, and the law of the house: one more ancestor never relaxes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.policy.combine import Ancestor, Question, combine, family_of, join, licence_of
from potstill.policy.terms import ORDER
from potstill.policy.terms_table import HOSTS, TERMS

BASE_QWEN = Ancestor("base", "qwen-0.5b", "apache-2.0")
BASE_LLAMA = Ancestor("base", "llama-1b", "llama3")
OPENAI = "https://api.openai.com/v1"


def asked(*ancestors, purpose="unstated", name="foo"):
    return combine(ancestors, Question(purpose, family_of(ancestors), name))


@pytest.mark.parametrize(
    ("ancestors", "purpose", "permission"),
    [
        ((BASE_QWEN, Ancestor("teacher", "llama-3-8b", "llama3")), "unstated", "no"),
        ((BASE_QWEN, Ancestor("data", "answers of llama-2", "llama2")), "unstated", "no"),
        ((BASE_LLAMA, Ancestor("teacher", "llama-3-8b", "llama3")), "unstated", "accept"),
        ((BASE_QWEN, Ancestor("teacher", "r1", "mit")), "commercial", "yes"),
        ((BASE_QWEN, Ancestor("writer", "gpt", url=OPENAI)), "unstated", "no"),
        ((BASE_QWEN, Ancestor("writer", "gpt", "mit", url=OPENAI)), "unstated", "no"),
        ((BASE_QWEN, Ancestor("data", "set", "cc-by-nc-4.0")), "commercial", "no"),
        ((BASE_QWEN, Ancestor("data", "set", "cc-by-nc-4.0")), "research", "yes"),
        ((BASE_QWEN, Ancestor("data", "set", "cc-by-sa-3.0")), "commercial", "yes"),
        ((BASE_QWEN, Ancestor("teacher", "gemma", "gemma")), "unstated", "accept"),
        ((BASE_QWEN, Ancestor("data", "set", "banana")), "unstated", "ask"),
        ((BASE_QWEN, Ancestor("teacher", "qwen-72b", "qwen")), "unstated", "ask"),
        ((Ancestor("base", "set", "cc-by-nd-4.0"),), "unstated", "no"),
    ],
)
def test_known_answers(ancestors, purpose, permission):
    assert asked(*ancestors, purpose=purpose).permission == permission


@pytest.mark.parametrize(
    ("name", "wrong"), [("foo", {"Llama"}), ("Llama-foo", set()), ("DeepSeek-R1-Distill-Llama-8B", {"Llama"})]
)
def test_the_name_of_a_student_of_llama_begins_with_it(name, wrong):
    found = asked(BASE_QWEN, Ancestor("teacher", "llama", "llama3.1"), name=name)
    assert found.misnamed == wrong
    assert "Built with Llama" in {duty.text for duty in found.duties}


def test_duties_of_every_ancestor_are_kept():
    found = asked(
        BASE_QWEN, Ancestor("base", "r1-distill-llama", "MIT AND llama3.1"), Ancestor("data", "s", "cc-by-sa")
    )
    assert {"notice", "naming", "pass-on", "share-alike", "attribution"} <= {duty.kind for duty in found.duties}


def test_silence_is_ours_or_unknown():
    assert [terms.id for terms in Ancestor("data", "rows.jsonl", ours=True).terms] == ["undeclared"]
    assert [terms.id for terms in Ancestor("data", "somebody/set").terms] == ["unknown"]
    assert [terms.id for terms in Ancestor("teacher", "t", url="http://127.0.0.1:1/v1").terms] == ["undeclared"]
    assert [terms.id for terms in Ancestor("teacher", "t", url="https://t.example/v1").terms] == ["unknown"]


ancestor = st.builds(
    Ancestor,
    role=st.sampled_from(["base", "data", "teacher", "writer"]),
    name=st.sampled_from("abc"),
    licence=st.one_of(st.sampled_from([*TERMS, "banana", "MIT AND Gemma", "MIT OR GPL-3.0"]), st.text(max_size=8)),
    url=st.sampled_from(["", "http://127.0.0.1/v1", *(f"https://{name.replace('*', 'x')}" for name in HOSTS)]),
    ours=st.booleans(),
)
question = st.builds(
    Question,
    purpose=st.sampled_from(["unstated", "research", "commercial"]),
    family=st.sampled_from(["", "llama"]),
    name=st.sampled_from(["Llama-x", "Llama 3 x", "x"]),
)


@given(st.lists(ancestor, max_size=5), ancestor, question)
def test_one_more_ancestor_never_relaxes(some, more, asked):
    before, after = combine(some, asked), combine([*some, more], asked)
    assert ORDER.index(after.permission) >= ORDER.index(before.permission)
    assert after.duties >= before.duties
    assert after.misnamed >= before.misnamed


@given(st.lists(ancestor, max_size=4), st.lists(ancestor, max_size=4), question)
def test_joining_is_a_union(left, right, asked):
    one, other = combine(left, asked), combine(right, asked)
    assert join(one, other) == join(other, one) == combine([*right, *left], asked)
    assert join(one, one) == one


@given(st.lists(ancestor, max_size=4), question)
def test_money_never_relaxes(some, asked):
    earning = Question("commercial", asked.family, asked.name)
    assert ORDER.index(combine(some, earning).permission) >= ORDER.index(combine(some, asked).permission)


def test_the_licence_of_a_student_names_whose_terms_bind_it():
    gemma = Ancestor("teacher", "g", "gemma")
    assert licence_of([BASE_QWEN]) == "apache-2.0"
    assert (
        licence_of([BASE_QWEN, Ancestor("teacher", "t", "MIT"), Ancestor("data", "d", "CC-BY-SA-3.0")]) == "apache-2.0"
    )
    assert licence_of([BASE_QWEN, gemma]) == "apache-2.0 AND gemma"
    assert licence_of([BASE_QWEN, Ancestor("data", "d", "cc-by-nc-4.0")]) == "apache-2.0 AND cc-by-nc-4.0"
    assert licence_of([Ancestor("base", "mine", ours=True), gemma]) == "unknown"
