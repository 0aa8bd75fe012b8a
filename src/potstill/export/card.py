"""The model card: what the folder is, where it comes from, what was measured and what was not.

Names and texts come from data and from other people's models, so each is escaped: in the front matter as a JSON string
(which YAML 1.2 reads as it stands), in the text against Markdown and HTML.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from potstill.core.lineage import Lineage
from potstill.core.outcome import Finding
from potstill.core.task import Task

_SHOWN = ("quality.", "calibration.", "agreement.", "cost.")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$])")
_PIPELINES: Mapping[str, str] = {
    "classify": "text-classification",
    "masked-lm": "fill-mask",
    "causal-lm": "text-generation",
}
_METRICS: Mapping[str, str] = {
    "quality.accuracy": "accuracy",
    "quality.macro_f1": "f1",
    "quality.perplexity": "perplexity",
    "calibration.brier": "brier_score",
}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says.

    base_models: what the student was cut from. teachers: whom it learnt from. licence: SPDX identifier or "unknown".
    library: "transformers", "sentence-transformers", or the runtime of a graph. lineage: role -> origin. findings: of
    every measured subject, with what the gate found of licences. overrides: findings that stopped and who let them
    pass (finding, by, day, reason). ledger: hash of the student's node in the run's ledger. limits: sentences on what
    was not shown. recipe: its name. task: what the model does.
    """

    name: str
    task: Task
    licence: str
    base_models: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    library: str = "transformers"
    recipe: str = ""
    description: str = ""
    lineage: Mapping[str, Lineage] | None = None
    findings: Sequence[Finding] = ()
    limits: tuple[str, ...] = ()
    overrides: Sequence[Mapping[str, str]] = ()
    ledger: str = ""

    @property
    def terms(self) -> list[Finding]:
        """What the gate found of the terms that its ancestors are under."""
        return [one for one in self.findings if one.name.startswith("licence.")]

    @property
    def notices(self) -> list[str]:
        """The texts that terms want beside the model, each once."""
        duties = [duty for one in self.terms for duty in one.evidence.get("duties", ())]
        return list(dict.fromkeys(duty["text"] for duty in duties if duty["kind"] == "notice"))


_RUNTIMES: Mapping[str, str] = {
    "onnxruntime": (
        "import onnxruntime\nfrom transformers import AutoTokenizer\n\n"
        'tokens = AutoTokenizer.from_pretrained("path/to/this/folder")("a text", return_tensors="np")\n'
        'session = onnxruntime.InferenceSession("path/to/this/folder/model.onnx")\n'
        "logits = session.run(None, {one.name: tokens[one.name] for one in session.get_inputs()})[0]"
    ),
    "openvino": (
        "import openvino\nfrom transformers import AutoTokenizer\n\n"
        'tokens = AutoTokenizer.from_pretrained("path/to/this/folder")("a text", return_tensors="np")\n'
        'model = openvino.Core().compile_model("path/to/this/folder/model.xml", "CPU")\n'
        "logits = model({one.any_name: tokens[one.any_name] for one in model.inputs})[0]"
    ),
    "gguf": (
        'import llama_cpp  # or: llama-cli -m path/to/this/folder/model.gguf -p "a text"\n\n'
        'model = llama_cpp.Llama("path/to/this/folder/model.gguf", n_ctx=2048)\n'
        'print(model("a text", max_tokens=32)["choices"][0]["text"])\n'
        "# with the chat template of the file\n"
        'messages = [{"role": "user", "content": "a question"}]\n'
        'print(model.create_chat_completion(messages, max_tokens=32)["choices"][0]["message"]["content"])'
    ),
}
_TEMPLATE = """\
---
{{ front_matter }}
---

# {{ facts.name | plain }}

{{ facts.description | plain or "A student distilled with Potstill." }}

| | |
|---|---|
| Task | {{ facts.task | plain }} |
| Student of | {{ facts.teachers | join(", ") | plain or "no teacher" }} |
| Cut from | {{ facts.base_models | join(", ") | plain or "nothing: a fresh model" }} |
| Data | {{ facts.datasets | join(", ") | plain or "not stated" }} |
| Recipe | {{ facts.recipe | plain or "not stated" }} |
| Licence | {{ facts.licence | plain }} |

## Use

```python
{{ usage }}
```

## Measured
{% if rows %}
| |{% for subject in subjects %} {{ subject | plain }} |{% endfor %}

|---|{% for subject in subjects %}---:|{% endfor %}

{% for row in rows %}
| {{ row.title | plain }} |{% for cell in row.cells %} {{ cell }} |{% endfor %}

{% endfor %}

In brackets: 95 % intervals. Times are wall times of one machine, taken in turn; compare them within a row only.
{% else %}
Nothing was measured.
{% endif %}

## This folder against the trained model
{% if parity %}
The folder was loaded again and compared on fixed inputs.

| check | value | allowed | verdict |
|---|---:|---:|---|
{% for finding in parity %}
| {{ finding.name | plain }} | {{ number(finding.value) }} | {{ number(finding.bound) }} | {{ finding.verdict }} |
{% endfor %}
{% else %}
Not compared.
{% endif %}

## Lineage

| role | source | revision | licence | maker |
|---|---|---|---|---|
{% for role, origin in lineage %}
| {{ role | plain }} | {{ origin.source | plain }} | {{ origin.revision | plain }} | {{ origin.licence | plain }} | \
{{ origin.maker | plain }} |
{% endfor %}

{% if facts.ledger %}

Node of this student in the run's ledger: `{{ facts.ledger | plain }}`
{% endif %}
{% if facts.terms %}

## Licences and duties

What the terms of its ancestors allow, as Potstill's table reads them. This is no legal advice.

| terms | allowed | of | read |
|---|---|---|---|
{% for one in facts.terms if one.evidence.ancestors is defined %}
| {{ one.evidence.terms | plain }} | {{ one.verdict }}: {{ one.evidence.why | plain }} | \
{{ one.evidence.ancestors | map(attribute="name") | join(", ") | plain }} | \
{{ one.evidence.read | plain }} {{ one.evidence.source | plain }} |
{% endfor %}

{% for one in facts.terms %}
{% for duty in one.evidence.duties | default(()) %}
- {{ duty.kind }}: {{ duty.text | plain }}
{% endfor %}
{% endfor %}
{% for one in facts.terms if one.evidence.accepted %}
- {{ one.evidence.terms | plain }}: accepted by {{ one.evidence.accepted.by | plain }} on \
{{ one.evidence.accepted.day | plain }}: {{ one.evidence.accepted.reason | plain }}
{% endfor %}
{% endif %}
{% if facts.overrides %}

## Released although

{% for one in facts.overrides %}
- {{ one.finding | plain }} stopped it; overridden by {{ one.by | plain }} on {{ one.day | plain }}: \
{{ one.reason | plain }}
{% endfor %}
{% endif %}

## Limits
{% for limit in limits %}
- {{ limit | plain }}
{% endfor %}
"""

_STANDING_LIMITS = (
    "The numbers hold for the test set named above; elsewhere the student can be worse than its teacher by more.",
    "A student inherits its teacher's errors and biases, and what the teacher refuses it may not.",
)


def model_card(facts: CardFacts, parity: Sequence[Finding] = ()) -> str:
    """README.md of a model folder: front matter for the hub, then Markdown. parity: findings of the export check."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    subjects, rows = _table(facts.findings)
    return environment.from_string(_TEMPLATE).render(
        facts=facts,
        front_matter=Markup(_front_matter(facts)),
        usage=Markup(_usage(facts)),
        subjects=subjects,
        rows=rows,
        parity=parity,
        number=_number,
        lineage=sorted((facts.lineage or {}).items()),
        limits=(*facts.limits, *_STANDING_LIMITS),
    )


def plain(text: object) -> Markup:
    """Text that stays text in a Markdown cell: one line, no markup, no HTML."""
    line = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", str(text)).strip()
    return Markup(_MARKDOWN.sub(r"\\\1", html.escape(line, quote=False)))


def _front_matter(facts: CardFacts) -> str:
    """The keys the hub reads, each value as JSON."""
    names = {finding.name for finding in facts.findings if finding.subject == "student"}
    several = " AND " in facts.licence
    values = {
        "base_model": list(facts.base_models or facts.teachers),
        "datasets": list(facts.datasets),
        "license": "other" if several else facts.licence.lower(),
        "license_name": facts.licence.lower() if several else "",
        "library_name": facts.library,
        "pipeline_tag": _PIPELINES[facts.task],
        "tags": ["knowledge-distillation", "potstill"],
        "metrics": [metric for name, metric in _METRICS.items() if name in names],
    }
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items() if value)


def _usage(facts: CardFacts) -> str:
    """The shortest code that loads this folder; it names no text from outside."""
    if facts.library == "sentence-transformers":
        return (
            "from sentence_transformers import SentenceTransformer\n\n"
            'model = SentenceTransformer("path/to/this/folder")\n'
            'logits = model.encode(["a text"])  # one column per class; names in config.json, id2label'
        )
    if facts.library in _RUNTIMES:
        return _RUNTIMES[facts.library]
    return (
        "from transformers import pipeline\n\n"
        f'model = pipeline("{_PIPELINES[facts.task]}", model="path/to/this/folder")\n'
        'print(model("a text"))'
    )


def _table(findings: Sequence[Finding]) -> tuple[list[str], list[dict[str, object]]]:
    """Subjects as columns, measures as rows, in the order they were found. Classes and slices stay in the report."""
    shown = [finding for finding in findings if finding.name.startswith(_SHOWN)]
    subjects = list(dict.fromkeys(finding.subject for finding in shown))
    found = {(finding.name, finding.subject): finding for finding in shown}
    rows = []
    for name in dict.fromkeys(finding.name for finding in shown):
        unit = next(finding.evidence.get("unit", "") for finding in shown if finding.name == name)
        cells = [_cell(found.get((name, subject))) for subject in subjects]
        rows.append({"title": f"{name} ({unit})" if unit else name, "cells": cells})
    return subjects, rows


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return ""
    if finding.interval is None:
        return _number(finding.value)
    return f"{_number(finding.value)} [{_number(finding.interval[0])}, {_number(finding.interval[1])}]"


def _number(value: float | None) -> str:
    """Four digits; large counts whole."""
    if value is None:
        return ""
    if math.isfinite(value) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
