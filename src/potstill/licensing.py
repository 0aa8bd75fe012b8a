"""Whose terms a recipe or a writing job is under, found before anything is paid or loaded. No torch.

What is not on this machine yet, and states its terms itself (a set or a teacher elsewhere), is judged again when it is
there, before anything is learnt from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from potstill.config import Recipe, StageSettings
from potstill.core.errors import TermsError
from potstill.core.finding import Finding
from potstill.core.lineage import with_declared
from potstill.data.licences import LICENCES, ORIGINS
from potstill.data.settings import DataSettings, SourceSettings
from potstill.policy.combine import Ancestor, Question, Role, family_of
from potstill.policy.consent import Consent, read_consents
from potstill.policy.gate import decide, licence_findings
from potstill.policy.identify import identify
from potstill.recipe_writing import WritingJob
from potstill.redaction import redact
from potstill.students.settings import ModelSettings
from potstill.students.stated import stated_licence

ANSWERS = "answers.json"
_FILES = (".jsonl", ".csv", ".parquet")


def clear(recipe: Recipe, root: Path, *, fetch: bool = False) -> list[Finding]:
    """The findings on what a recipe names, none of which stops it. root: the run's folder, where answers lie, if it is
    there. Raises TermsError."""
    ancestors = of_recipe(recipe, fetch=fetch)
    return refuse(ancestors, question_of(recipe, ancestors), answers(root), root, resume=True)


def place_of(recipe: Recipe) -> Path:
    """The run folder of a recipe, where no other is named."""
    return Path(recipe.output_dir or Path("runs") / recipe.name)


def clear_job(job: WritingJob, output: Path) -> list[Finding]:
    """The same for a writing job; its answers lie beside its output."""
    ancestors = of_job(job)
    return refuse(ancestors, Question(), answers(output), output, resume=False)


def refuse(
    ancestors: Sequence[Ancestor], question: Question, consents: Sequence[Consent], place: Path, *, resume: bool
) -> list[Finding]:
    """The findings on these, none of which stops. Raises TermsError that names each that does, and the next step."""
    found = licence_findings(ancestors, question, consents)
    gate = decide(found, consents)
    if gate.stops:
        then = f"potstill resume {place}" if resume else "the same command again"
        lines = [*(told(one, ancestors, place) for one in gate.stops), f"Then: {then}"]
        raise TermsError("\n".join(lines), [asdict(one) for one in ancestors])
    return found


def told(finding: Finding, ancestors: Sequence[Ancestor], place: Path) -> str:
    """One stop in words: whose terms, what they say, where they stand, what answers them."""
    evidence = finding.evidence
    if finding.name == "licence.name":
        return f"licence.name: {evidence['why']}"
    named = {(one["role"], one["name"]) for one in evidence["ancestors"]}
    under = ", ".join(
        f"{one.where + ' ' if one.where else ''}{one.name} ({one.licence})"
        for one in ancestors
        if (one.role, one.name) in named and any(f"licence.{terms.id.lower()}" == finding.name for terms in one.terms)
    )
    accept = evidence["permission"] in ("accept", "ask")
    flag = f"--accept {finding.name.removeprefix('licence.')}" if accept else f"--override {finding.name}"
    where = f" ({evidence['source']}, read {evidence['read']})" if evidence["source"] else ""
    return (
        f"{finding.name}: {under}: {evidence['terms']}{where}: {evidence['why']}. Next: read them, and if a person "
        f"answers for it: potstill gate {place} {flag} --by NAME --date YYYY-MM-DD --reason TEXT"
    )


def answers_file(place: Path) -> Path:
    """Where answers are kept: in a run's folder, or beside a writing job's output."""
    return place.with_name(f"{place.name}.{ANSWERS}") if place.suffix in _FILES else place / ANSWERS


def answers(place: Path) -> list[Consent]:
    """What persons answered for a run, or a writing job. Raises InputError where the file is damaged."""
    file = answers_file(place)
    if not file.is_file():
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TermsError(f"{file}: not answers as they were kept ({error}): remove it and answer again") from error
    return read_consents(rows if isinstance(rows, list) else [rows], str(file))


def question_of(recipe: Recipe, ancestors: Iterable[Ancestor]) -> Question:
    """What is asked of the terms: for the purpose of the release, of a student of this family and name."""
    return Question(recipe.export.purpose, family_of(ancestors), recipe.export.name or recipe.name)


def of_recipe(recipe: Recipe, *, fetch: bool = False) -> list[Ancestor]:
    """Everything a recipe names, with the licence that is known of it now. fetch: ask the hub for models' cards."""
    found = list(_rows(recipe.data, "data"))
    places = [f"stages.{number}." for number in range(len(recipe.stages))]
    for stage, place in zip((*recipe.stages, recipe.final), (*places, ""), strict=True):
        if stage.data is not None:
            found += _rows(stage.data, f"{place}data")
        found += _model("base", stage.student, f"{place}student", fetch)
        found += _teachers(stage, place, fetch)
        if stage.augment is not None:
            proposing = ModelSettings(model_name_or_path=stage.augment.model_name_or_path)
            found += _model("writer", proposing, f"{place}augment", fetch)
    return list(dict.fromkeys(found))


def of_job(job: WritingJob) -> list[Ancestor]:
    """The prompts and the writer of a job."""
    return [*_source(job.prompts, "prompts"), writer_of(job)]


def writer_of(job: WritingJob) -> Ancestor:
    """Who answers the prompts, and under which licence as far as it is known before it is loaded."""
    if job.model is not None:
        name, licence = job.model.model_name_or_path, stated_licence(job.model, fetch=False) or "unknown"
        return Ancestor("writer", name, licence, ours=is_ours(name), where="model")
    endpoint = job.endpoint
    assert endpoint is not None, "a job has an endpoint or a model"
    name, licence = endpoint.model or redact(endpoint.url), endpoint.licence or "unknown"
    return Ancestor("writer", name, licence, endpoint.url, where="endpoint")


def _teachers(stage: StageSettings, place: str, fetch: bool) -> Iterator[Ancestor]:
    if stage.teacher is None:
        return
    for number, model in enumerate(stage.teacher.models):
        yield from _model("teacher", model, f"{place}teacher.models.{number}", fetch)
    if (named := stage.teacher.endpoint) is not None:
        licence = named.licence or "unknown"
        yield Ancestor("teacher", redact(named.url), licence, named.url, where=f"{place}teacher.endpoint")


def _model(role: Role, settings: ModelSettings, where: str, fetch: bool) -> Iterator[Ancestor]:
    """A model, unless a stage makes it or nothing is known of it yet."""
    name = settings.model_name_or_path
    if name.startswith("stage:"):
        return
    licence = stated_licence(settings, fetch=fetch)
    if licence is not None:
        yield Ancestor(role, name, licence, ours=is_ours(name), where=where)


def _rows(data: DataSettings, where: str) -> Iterator[Ancestor]:
    """The rows that are learnt from, that choose, and on which the promise rests."""
    for number, source in enumerate(data.train):
        yield from _source(source, f"{where}.train.{number}")
    for name, held in (("validation", data.validation), ("test", data.test)):
        if held is not None:
            yield from _source(held, f"{where}.{name}")


def _source(source: SourceSettings, where: str) -> Iterator[Ancestor]:
    name = source.dataset_name
    kind, _, rest = name.partition(":")
    if kind == "packaged":
        for origin in ORIGINS.get(rest, ()):
            yield Ancestor("data", origin, with_declared(LICENCES[origin], source.licence), where=where)
    elif is_ours(name):
        writer = _written(Path(name), where)
        yield writer or Ancestor("data", name, source.licence or "unknown", ours=True, where=where)
    elif source.licence is not None:
        yield Ancestor("data", name, source.licence, where=where)


def _written(place: Path, where: str) -> Ancestor | None:
    """Who wrote a file, where `potstill write` did and its record lies beside it."""
    record = place.with_name(f"{place.name}.json")
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        licence = found["job"].get("licence") or found.get("licence")
        model, url = found["model"], found.get("endpoint", "")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Ancestor("writer", str(model), str(licence or "unknown"), str(url), ours=not url, where=where)


def is_ours(name: str) -> bool:
    """Whether a name is a file or a folder of this machine: nobody else can know whose it is."""
    return Path(name).suffix in (*_FILES, ".gguf") or Path(name).expanduser().exists()


def ids(licence: str) -> tuple[str, ...]:
    """The rows of the terms table that a stated licence leads to, for the ledger."""
    return tuple(terms.id for terms in identify(licence))
