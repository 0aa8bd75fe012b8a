"""A person's answer to the gate, kept where the run, or the writing job, finds it. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from potstill.core.errors import FolderError, InputError
from potstill.durable import replace_file, writing
from potstill.folder import RunFolder
from potstill.licensing import answers, answers_file, of_recipe, question_of
from potstill.policy.combine import Ancestor
from potstill.policy.consent import EVERYTHING, Consent, consent
from potstill.policy.gate import licence_findings
from potstill.recipe_yaml import load_recipe
from potstill.release import ASKED, judge, lineage_of


def keep(place: Path, *, accept: str | None, override: str | None, by: str, day: str, reason: str) -> Consent:
    """Add one answer to those of a place. Raises InputError where it is none, FolderError where there is no run."""
    file = answers_file(place)
    if file.parent == place and not (place / "config.yaml").is_file():
        raise FolderError(
            f"{place}: no run lies here (it has no config.yaml): `potstill run RECIPE` makes it, and stops where an "
            "answer is needed"
        )
    kind, about = ("accept", accept) if accept is not None else ("override", str(override))
    made_of = [] if file.parent != place else ancestors_of(RunFolder(place))
    names = [EVERYTHING] if file.parent != place else _about(place, str(about), kind, made_of)
    one = consent(kind, str(about), by=by, day=day, reason=reason, covers=names)  # type: ignore[arg-type]
    rows = [*(before.as_json() for before in answers(place)), one.as_json()]
    with writing(file):
        replace_file(file, (json.dumps(rows, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())
    return one


def ancestors_of(folder: RunFolder) -> list[Ancestor]:
    """What a run is made of: as its ledger says, as its recipe does, and what it was stopped by."""
    ledger = folder.read_json("ledger.json")
    known = lineage_of(ledger) if isinstance(ledger, dict) else []
    asked = [Ancestor(**values) for values in folder.read_json(ASKED) or ()]
    return list(dict.fromkeys((*known, *of_recipe(load_recipe(folder.config)), *asked)))


def _about(place: Path, about: str, kind: str, made_of: Sequence[Ancestor]) -> list[str]:
    """The ancestors that an answer is about. Raises InputError for a finding that the run does not have."""
    name = about.lower() if kind == "override" else f"licence.{about.lower()}"
    recipe = load_recipe(place / "config.yaml")
    found = licence_findings(made_of, question_of(recipe, made_of), answers(place), release=True)
    mine = [one for one in found if one.name == name]
    if kind == "override" and not mine and not name.startswith("licence."):
        stops = [one.name for one in judge(RunFolder(place), release=True)[1].stops]
        if about not in stops:
            raise InputError(
                f"--override {about}: nothing of this name stops {place} ({', '.join(stops) or 'nothing'})"
            )
    return sorted({row["name"] for one in mine for row in one.evidence.get("ancestors", ())})
