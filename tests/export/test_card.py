import re

from ruamel.yaml import YAML

from potstill.core.lineage import Lineage
from potstill.core.outcome import Finding
from potstill.export.card import CardFacts, model_card, plain
from potstill.students.locate import licence_of

FINDINGS = (
    Finding("quality.accuracy", 0.7012, "teacher", interval=(0.68, 0.72), evidence={"unit": "share"}),
    Finding("quality.accuracy", 0.6912, "student", interval=(0.67, 0.71), evidence={"unit": "share"}),
    Finding("cost.parameters", 4_390_000.0, "student", evidence={"unit": "parameters"}),
    Finding("class.law.f1", 0.5, "student"),
)
PARITY = (Finding("export.logit_difference", 2e-7, bound=1e-5),)


def facts(**changes):
    values = {
        "name": "tiny",
        "task": "classify",
        "licence": "Apache-2.0",
        "base_models": ("packaged:minilm-l6-v2",),
        "teachers": ("stage:teacher",),
        "datasets": ("packaged:mmlu-subjects",),
        "recipe": "classifier",
        "lineage": {"teacher": Lineage("minilm", revision="abc", licence="Apache-2.0")},
        "findings": FINDINGS,
        "limits": ("English only.",),
    }
    return CardFacts(**(values | changes))


def front_matter(card):
    return YAML(typ="safe", pure=True).load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL).group(1))


def test_front_matter_has_what_the_hub_reads():
    assert front_matter(model_card(facts(), PARITY)) == {
        "base_model": ["packaged:minilm-l6-v2"],
        "datasets": ["packaged:mmlu-subjects"],
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["knowledge-distillation", "potstill"],
        "metrics": ["accuracy"],
    }


def test_tables_hold_the_numbers():
    card = model_card(facts(), PARITY)
    assert "| | teacher | student |\n|---|---:|---:|\n" in card
    assert "| quality.accuracy (share) | 0.7012 [0.68, 0.72] | 0.6912 [0.67, 0.71] |\n" in card
    assert "| cost.parameters (parameters) |  | 4,390,000 |\n" in card
    assert "| export.logit\\_difference | 2e-07 | 1e-05 | pass |\n" in card
    assert "| teacher | minilm | abc | Apache-2.0 | human |\n" in card
    assert "- English only.\n" in card
    assert "class.law" not in card


def test_a_card_without_numbers_says_so():
    card = model_card(facts(findings=(), lineage=None, teachers=(), base_models=()))
    assert "Nothing was measured." in card
    assert "Not compared." in card
    assert "| Student of | no teacher |" in card
    assert "metrics" not in front_matter(card)


def test_hostile_names_stay_text():
    evil = 'x\n---\nlicense: mit\n# Owned | <script>alert(1)</script> [a](javascript:b) "quoted"'
    card = model_card(
        facts(
            name=evil,
            description=evil,
            datasets=(evil,),
            base_models=(evil,),
            licence="unknown",
            limits=(evil,),
            lineage={evil: Lineage(evil)},
            findings=(Finding("quality.accuracy", 0.5, evil, evidence={"unit": evil}),),
        ),
        PARITY,
    )
    matter = front_matter(card)
    assert matter["license"] == "unknown"
    assert matter["datasets"] == [evil]
    body = card.split("\n---\n", 1)[1]
    assert "<script" not in body
    assert "\n---\n" not in body
    assert "[a](" not in re.sub(r"\\\[a\\\]", "", body)
    assert [line for line in body.splitlines() if line.startswith("# ")] == [f"# {plain(evil)}"]


def test_plain_is_one_line_of_text():
    assert plain("a\r\nb\x00c") == "a b c"
    assert plain("<b>*x*|`y`") == r"&lt;b&gt;\*x\*\|\`y\`"


def test_our_loader_reads_the_licence_back(tmp_path):
    (tmp_path / "README.md").write_text(model_card(facts()))
    assert licence_of(tmp_path) == "apache-2.0"


def test_the_code_shown_is_that_of_the_library():
    assert 'pipeline("text-classification"' in model_card(facts())
    assert "SentenceTransformer(" in model_card(facts(library="sentence-transformers"))


GEMMA = Finding(
    "licence.gemma",
    1.0,
    verdict="warn",
    evidence={
        "terms": "Gemma Terms of Use",
        "why": "allowed, and whoever passes the student on owes: pass-on",
        "source": "https://ai.google.dev/gemma/terms",
        "read": "2026-11-25",
        "ancestors": [{"role": "teacher", "name": "gemma|x", "licence": "Gemma"}],
        "duties": [{"kind": "notice", "text": "Gemma is provided under <b>"}, {"kind": "pass-on", "text": "a copy"}],
        "accepted": {"by": "A. *Person*", "day": "2026-11-24", "reason": "read"},
    },
)


def test_licences_duties_answers_and_overrides_are_on_the_card():
    over = {"finding": "audit.refusal", "by": "<B>", "day": "2026-11-24", "reason": "not for chat"}
    made = facts(findings=(*FINDINGS, GEMMA), overrides=(over,), ledger="ab" * 32)
    card = model_card(made, PARITY)
    assert "## Licences and duties" in card
    assert "| Gemma Terms of Use | warn: allowed, and whoever passes the student on owes: pass-on |" in card
    assert "gemma\\|x" in card
    assert "- notice: Gemma is provided under &lt;b&gt;" in card
    assert "- Gemma Terms of Use: accepted by A. \\*Person\\* on 2026-11-24: read" in card
    assert "- audit.refusal stopped it; overridden by &lt;B&gt; on 2026-11-24: not for chat" in card
    assert f"`{'ab' * 32}`" in card
    assert made.notices == ["Gemma is provided under <b>"]
    plain_card = model_card(facts(), PARITY)
    assert "Licences and duties" not in plain_card
    assert "Released although" not in plain_card


def test_two_licences_are_one_name_that_our_loader_reads_back(tmp_path):
    card = model_card(facts(licence="Apache-2.0 AND Gemma"))
    matter = front_matter(card)
    assert (matter["license"], matter["license_name"]) == ("other", "apache-2.0 and gemma")
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == "apache-2.0 and gemma"
