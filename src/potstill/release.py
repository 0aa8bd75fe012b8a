"""May the student leave: the ledger as a graph, and the gate over it. No torch, so that it is judged without models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, get_args

from potstill.config import Recipe
from potstill.core.errors import FolderError, TermsError
from potstill.core.finding import Finding
from potstill.data.licences import LICENCES
from potstill.durable import sha256
from potstill.export.settings import FormatName, place
from potstill.folder import RunFolder
from potstill.licensing import answers, ids, is_ours, of_recipe, question_of, refuse
from potstill.policy.combine import Ancestor
from potstill.policy.gate import Gate, decide, licence_findings
from potstill.policy.ledger import Node, ancestors, title, verify
from potstill.recipe_yaml import load_recipe
from potstill.recorded import MEASURED

CARD = "README.md"
ASKED = "asked.json"


def nodes_of(folder: RunFolder, records: Mapping[str, Mapping[str, Any]]) -> list[Node]:
    """The nodes of a run, parents before children: what each stage was made of, its product, and what was exported.

    records: of the finished stages of the recipe, by name, in order; the last is the student's.
    """
    found: list[Node] = []
    products: dict[str, Node] = {}
    for name, done in records.items():
        parents = [*_rows(done), *_base(done, products), *_teachers(done, products)]
        own = Node(
            "checkpoint",
            name,
            f"stages/{name}/model",
            licence=done["licence"],
            terms=ids(done["licence"]),
            maker="this run",
            content={"weights": done.get("hash", ""), **files(folder.root / "stages" / name / "model")},
            parents=tuple(dict.fromkeys(node.hash for node in parents)),
        )
        products[name] = own
        found += [*parents, own]
    student = found[-1]
    for name in get_args(FormatName):
        where = place(name)
        if (folder.root / where).is_dir():
            content = files(folder.root / where)
            found.append(Node("export", name, where, licence=student.licence, terms=student.terms,
                              maker="this run", content=content, parents=(student.hash,)))  # fmt: skip
    return found


def _rows(done: Mapping[str, Any]) -> Iterator[Node]:
    """The rows' sources; what a model wrote has its writer, made of the prompts' source."""
    for entry in done["lineage"]:
        licence, source, depth = entry["licence"], entry["source"], entry.get("generation", 0)
        ours = source not in LICENCES and (_ours(entry) or depth > 0)
        rows = Node("source", source, source, entry["revision"], licence, ids(licence), entry.get("maker", "human"),
                    depth, role="data", ours=ours)  # fmt: skip
        yield rows
        if depth:
            yield Node("writer", rows.maker, source, entry["revision"], licence, ids(licence), rows.maker, depth,
                       role="writer", ours=ours, parents=(rows.hash,))  # fmt: skip


def _base(done: Mapping[str, Any], products: Mapping[str, Node]) -> Iterator[Node]:
    kind, _, stage = done["source"].partition(":")
    if kind == "stage":
        yield from (products[name] for name in (stage,) if name in products)
        return
    weights = {one["name"]: one["hash"] for one in done.get("parents", ()) if one["role"] == "student"}
    yield Node(
        "source",
        done["source"],
        done["source"],
        done["revision"],
        done["licence"],
        ids(done["licence"]),
        role="base",
        ours=_ours(done),
        content={"weights": weights[done["source"]]} if done["source"] in weights else {},
    )


def _teachers(done: Mapping[str, Any], products: Mapping[str, Node]) -> Iterator[Node]:
    for entry in done.get("teachers", ()):
        licence, source = entry["licence"], entry["source"]
        weights = {"weights": entry["hash"]} if entry.get("hash") else {}
        yield Node("teacher", source, source, entry["revision"], licence, ids(licence), role="teacher",
                   url=entry.get("url", ""), ours=_ours(entry), content=weights)  # fmt: skip
    for one in done.get("parents", ()):
        kind, _, stage = one["name"].partition(":")
        if one["role"] == "teacher" and kind == "stage" and stage in products:
            own = products[stage]
            yield own
            yield Node("tutor", stage, one["name"], licence=own.licence, terms=own.terms, maker="this run",
                       content={"weights": one["hash"]}, parents=(own.hash,))  # fmt: skip


def _ours(entry: Mapping[str, Any]) -> bool:
    """Whether it was a file or folder of the machine where it was learnt from; older records do not say."""
    return bool(entry["ours"]) if "ours" in entry else is_ours(entry["source"])


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path in it."""
    places = sorted(place for place in folder.rglob("*") if place.is_file())
    return {place.relative_to(folder).as_posix(): sha256(place) for place in places}


def lineage_of(ledger: Mapping[str, Any]) -> list[Ancestor]:
    """What the student was made of, as its ledger tells it."""
    found = ledger.get("graph")
    if not isinstance(found, Mapping):
        raise FolderError("ledger.json holds no graph: it was written by an older Potstill; run `potstill resume RUN`")
    student = next((node for node in reversed(found["nodes"]) if node["kind"] == "checkpoint"), None)
    made_of = ancestors(found, student["hash"]) if student else ()
    return [_ancestor(node) for node in made_of if node["role"]]


def _ancestor(node: Mapping[str, Any]) -> Ancestor:
    return Ancestor(node["role"], node["url"] or node["name"], node["licence"], node["url"], node["ours"])


def refuse_stage(folder: RunFolder, recipe: Recipe, done: Mapping[str, Any]) -> None:
    """Before a stage learns: the terms that only what it has loaded could state. done: as of a finished stage. Raises
    TermsError."""
    nodes = [*_rows(done), *_base(done, {}), *_teachers(done, {})]
    made_of = [_ancestor(node.body) for node in nodes if node.role]
    question = question_of(recipe, [*of_recipe(recipe), *made_of])
    with asking(folder):
        refuse(made_of, question, answers(folder.root), folder.root, resume=True)


@contextmanager
def asking(folder: RunFolder) -> Iterator[None]:
    """Where terms stop a run, keep what they were asked for: an answer is about the same things."""
    try:
        yield
    except TermsError as error:
        folder.write_json(ASKED, list(error.about))
        raise


def ledger_of(folder: RunFolder) -> dict[str, Any]:
    """Raises FolderError where the run has no ledger yet."""
    found = folder.read_json("ledger.json")
    if not isinstance(found, dict):
        raise FolderError(
            f"{folder.root}: this run was stopped before it had a ledger: `potstill resume {folder.root}`."
        )
    return found


def judge(folder: RunFolder, *, release: bool, measured: Sequence[str] = MEASURED) -> tuple[list[Finding], Gate]:
    """The licence findings of a finished run, and the verdict on them and on all that was measured.

    release: as for `licence_findings`. Raises FolderError where the run has no ledger yet.
    """
    ledger = ledger_of(folder)
    recipe, consents, made_of = load_recipe(folder.config), answers(folder.root), lineage_of(ledger)
    found = licence_findings(made_of, question_of(recipe, made_of), consents, release=release, today=date.today())
    others = [Finding.from_json(values) for name in measured for values in folder.read_json(name) or ()]
    return found, decide([*found, *others], consents)


def gate_record(found: Sequence[Finding], gate: Gate) -> dict[str, Any]:
    """gate.json: findings on licences, what stops, and who let what pass."""
    return {
        "open": gate.open,
        "findings": [one.as_json() for one in found],
        "stops": [one.name for one in gate.stops],
        "overrides": [{"finding": one.name, **by.as_json()} for one, by in gate.overrides],
    }


def tampered(folder: RunFolder) -> list[str]:
    """Everything that is not as the ledger says: in the graph, in the files of products and exports, in the card."""
    found = ledger_of(folder).get("graph")
    faults = verify(found)
    if faults:
        return faults
    assert isinstance(found, Mapping), "verified"
    faults = [fault for node in found["nodes"] for fault in _files_differ(folder.root, node)]
    student = next(node for node in reversed(found["nodes"]) if node["kind"] == "checkpoint")
    card = folder.root / "model" / CARD
    if card.is_file() and student["hash"] not in card.read_text(encoding="utf-8"):
        faults.append(f"{card}: the card names another ledger: {title(student)} is not in it")
    return faults


def _files_differ(root: Path, node: Mapping[str, Any]) -> Iterator[str]:
    if node["kind"] not in ("checkpoint", "export"):
        return
    now = files(root / node["source"])
    then = {name: value for name, value in node["content"].items() if name != "weights"}
    for name in sorted(now.keys() | then.keys()):
        if now.get(name) != then.get(name):
            what = "is gone" if name not in now else "was added" if name not in then else "was changed"
            yield f"{title(node)}: {node['source']}/{name} {what}"
