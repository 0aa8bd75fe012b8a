"""Whether the file is the student: its answers in each runtime that is here, its tokens, and its special tokens.

The reader in transformers is always here and shares no code with llama.cpp, which is an extra: what one of them reads
as the other does not is a fault of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from potstill.core.outcome import Finding
from potstill.export.gguf.reading import dequantised, has_llama, in_llama, llama_model
from potstill.export.gguf.write import FILE, Scheme, types_of
from potstill.export.parity import continued, near_trained, of_module
from potstill.export.rows import Rows
from potstill.export.settings import ExportSettings
from potstill.export.verify import FIXED_TEXTS, NEW_TOKENS, shares, template_finding
from potstill.students.load import LoadedModel
from potstill.students.quiet import quiet

# What tokenizers differ in: spaces before digits, runs of spaces, contractions, code, letters beyond a code unit.
TEXTS = (
    *FIXED_TEXTS,
    "  2018 and    12345, 3.14 and 1e-7",
    "I'll, you'RE, it's; don't",
    "def f(a_b, *c):\n\tif a_b != c:\n\n        return {'x': [1, 22]}  # ok\n",
    "emoji 🙂👩‍💻, café, ﬁn, Ελλάδα, हिन्दी",
)
_CONVERSATION = (
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": "What is 12  times 3?"},
)


def compare(
    scheme: Scheme, trained: LoadedModel, folder: Path, *, rows: Rows, settings: ExportSettings
) -> list[Finding]:
    """export.NAME.transformers.* and, where it is installed, export.NAME.llama.*: .top1_agreement, .generated_text, and
    with half precision .logit_difference; export.NAME.llama.tokens, or a warning export.NAME.llama.compared;
    export.NAME.special_tokens and .chat_template."""
    runtimes = {"transformers": dequantised(folder)}
    if has_llama():
        runtimes["llama"] = in_llama(folder, 1)
    tolerance = settings.fp16_tolerance if scheme.rounded else None
    texts, findings = continued(of_module(trained.module), trained), []
    for name, answer in runtimes.items():
        called, least = f"{scheme.name}.{name}", settings.least_agreement
        findings += near_trained(called, answer, trained, rows=rows, least_agreement=least, tolerance=tolerance)
        findings.append(_texts(f"export.{called}", texts, continued(answer, trained)))
    findings[0] = _told(findings[0], types_of(folder / FILE))
    if has_llama():
        findings.append(tokens_finding(f"export.{scheme.name}.llama.tokens", folder / FILE, trained.tokenizer))
    else:
        evidence = {"unit": "1 when compared", "reason": "llama.cpp is not installed: pip install 'potstill[llama]'"}
        unseen = f"export.{scheme.name}.llama.compared"
        findings.append(Finding(unseen, 0.0, bound=1.0, verdict="warn", evidence=evidence))
    with quiet():
        reloaded = AutoTokenizer.from_pretrained(str(folder), gguf_file=FILE, local_files_only=True)
    return [
        *findings,
        _special(f"export.{scheme.name}.special_tokens", trained.tokenizer, reloaded),
        template_finding(trained.tokenizer, reloaded, name=f"export.{scheme.name}"),
    ]


def tokens_finding(name: str, path: Path, tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Texts that llama.cpp cuts into the tokenizer's tokens: as a user types them, with special tokens within, and a
    conversation as the chat template renders it."""
    model = llama_model(path, 1, 512)
    given = [(text, True) for text in (*TEXTS, _around(tokenizer))]
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(list(_CONVERSATION), tokenize=False, add_generation_prompt=True)
        given.append((str(rendered), False))
    before = [str(tokenizer(text, add_special_tokens=added)["input_ids"]) for text, added in given]
    after = [str(model.tokenize(text.encode(), add_bos=added, special=True)) for text, added in given]
    model.close()
    return shares(name, before, after, {"runtime": "llama.cpp"})


def _around(tokenizer: PreTrainedTokenizerBase) -> str:
    """A text with every special token in it."""
    return "a ".join(["", *tokenizer.all_special_tokens, ""])


def _texts(name: str, before: list[str], after: list[str]) -> Finding:
    """Greedy texts, told and not judged: rounding may turn a choice between two equals, and from there all differs."""
    found = shares(f"{name}.generated_text", before, after, {"new_tokens": NEW_TOKENS})
    return Finding(found.name, found.value, evidence=found.evidence)


def _told(finding: Finding, types: dict[str, int]) -> Finding:
    evidence: dict[str, Any] = {**finding.evidence, "types": types}
    return Finding(**{**finding.as_json(), "evidence": evidence})


def _special(name: str, trained: PreTrainedTokenizerBase, reloaded: PreTrainedTokenizerBase) -> Finding:
    """The ids of begin, end, padding and unknown."""
    roles = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
    before, after = ([f"{role} {getattr(one, role)}" for role in roles] for one in (trained, reloaded))
    found = shares(name, before, after, {})
    return Finding(**{**found.as_json(), "evidence": {**found.evidence, "unit": "share of special tokens"}})
