"""The stages that look at rows one by one, each made from its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from potstill.core.errors import DataError
from potstill.data.columns import ColumnReader
from potstill.data.curate.candidate import Candidate
from potstill.data.curate.contamination import Examination
from potstill.data.curate.language import language_of
from potstill.data.curate.minhash import NearIndex
from potstill.data.curate.rules import broken_rule, control_token, leaked
from potstill.data.curate.settings import DecontaminateSettings, DuplicateSettings, LanguageSettings, RulesSettings
from potstill.data.curate.sieve import Decision, Stage, each
from potstill.data.curate.words import hash_64, words_of
from potstill.data.quarantine import BadRow, Quarantine
from potstill.data.sources import open_source
from potstill.data.verify.final import marked_answer
from potstill.data.verify.judge import Asked, Judge
from potstill.data.verify.settings import VerifySettings


def untrusted_stage() -> Stage:
    """Text is not trusted: a control token in it would move a mask, and an answer in its prompt teaches to copy."""

    def decide(candidate: Candidate) -> Decision:
        if control_token(candidate.texts) is not None:
            return candidate, "control token in content"
        reference = candidate.told.get("reference")
        if isinstance(reference, str):
            final = marked_answer(reference)
            if leaked(candidate.prompt, final.text if final else reference, reference):
                return candidate, "answer in the prompt"
        return candidate

    return each(decide)


def rules_stage(settings: RulesSettings) -> Stage:
    """Rules of thumb about what is learnt."""

    def decide(candidate: Candidate) -> Decision:
        reason = broken_rule(candidate.completion, settings)
        return candidate if reason is None else (candidate, reason)

    return each(decide)


def language_stage(settings: LanguageSettings) -> Stage:
    """What is learnt is in a language that is wanted."""
    told = language_of(settings)

    def decide(candidate: Candidate) -> Decision:
        name, reason = told(candidate.completion)
        known = candidate.with_found(language=name)
        return known if reason is None else (known, reason)

    return each(decide)


def verify_stage(settings: VerifySettings, judge: Judge, verdicts: dict[str, Counter[str]]) -> Stage:
    """Answers against references; spans of what is right. verdicts: filled with outcomes by prompt."""

    def decide(candidate: Candidate) -> Decision:
        reference, tests = (candidate.told.get(name) for name in (settings.reference, settings.tests))
        asked = Asked(
            candidate.prompt,
            candidate.completion,
            reference if isinstance(reference, str) else None,
            tests if isinstance(tests, str) else None,
            cut=candidate.told.get("finish_reason") == "length",
        )
        found = judge(asked)
        verdicts.setdefault(str(prompt_key(candidate)), Counter())[found.outcome] += 1
        spans = None
        if found.start is not None:
            spans = {"rationale": [0, found.start], "answer": [found.start, len(candidate.completion)]}
        known = candidate.with_found(verdict=found.outcome, answer=found.answer, spans=spans)
        return known if found.outcome == "right" or settings.keep == "all" else (known, found.outcome)

    return each(decide)


def duplicates_stage(settings: DuplicateSettings) -> Stage:
    """The first of rows that say the same."""
    seen: set[int] = set()
    near = settings.near
    index = None if near is None else NearIndex(near.jaccard, near.ngram, near.permutations)

    def decide(candidate: Candidate) -> Decision:
        parts = {"prompt": (candidate.prompt,), "completion": (candidate.completion,), "row": candidate.texts}
        words = [word for text in parts[settings.of] for word in words_of(text)]
        if settings.exact:
            if (key := hash_64(words)) in seen:
                return candidate, "exact duplicate"
            seen.add(key)
        if index is not None and index.seen(words) is not None:
            return candidate, "near-duplicate"
        return candidate

    return each(decide)


def decontaminate_stage(examination: Examination) -> Stage:
    """No row holds what the student will be examined on."""

    def decide(candidate: Candidate) -> Decision:
        found = any(examination.found_in(text) is not None for text in candidate.texts)
        return (candidate, "in an evaluation set") if found else candidate

    return each(decide)


def examination_of(settings: DecontaminateSettings, quarantine: Quarantine) -> Examination:
    """All texts of the evaluation sets. Raises DataError for a set that cannot be read or holds nothing to look for."""
    found = Examination(settings.ngram, settings.shortest)
    for source in settings.against:
        unlabelled = source.model_copy(update={"use_labels": False})
        reader, opened, before = ColumnReader(unlabelled, None), open_source(source, quarantine), found.texts
        rows = 0
        for row in opened.rows:
            if source.limit is not None and rows == source.limit:
                break
            rows += 1
            try:
                example = reader.example(row).example
            except BadRow as fault:
                quarantine.reject(row.file, row.line, fault, row.values)
                continue
            texts = (example.prompt, example.pair or "", example.response, *(turn.content for turn in example.messages))
            found.add(text for text in texts if text.strip())
        reader.check_columns(opened.name, rows)
        if found.texts == before:
            raise DataError(f"{opened.name}: no text to look for in decontaminate.against; check the source")
    return found


def prompt_key(candidate: Candidate) -> tuple[str, str | int]:
    """What makes two answers ones to the same prompt: its id by the writer, else its words."""
    told = candidate.told.get("prompt_id")
    return (
        (candidate.source, told) if isinstance(told, str) else (candidate.source, hash_64(words_of(candidate.prompt)))
    )


def rates(verdicts: Mapping[str, Counter[str]]) -> tuple[int, int]:
    """Prompts that were asked, and those with a right answer."""
    return len(verdicts), sum(one["right"] > 0 for one in verdicts.values())
