"""`potstill gate RUN`: may the student leave; who answers for what; the ledger held against the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potstill.cli.options import AsJson
from potstill.cli.output import emit

if TYPE_CHECKING:
    from potstill.core.finding import Finding
    from potstill.policy.gate import Gate


def gate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, or the output of a writing job.")],
    accept: Annotated[
        str | None, typer.Option("--accept", metavar="TERMS", help="Accept these terms of the table.")
    ] = None,
    override: Annotated[
        str | None, typer.Option("--override", metavar="FINDING", help="Let a finding that stops pass.")
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who answers for it.")] = "",
    day: Annotated[str, typer.Option("--date", metavar="YYYY-MM-DD", help="The day it was decided.")] = "",
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")] = "",
    verify: Annotated[bool, typer.Option("--verify", help="Hold the ledger against itself and the files.")] = False,
    bom: Annotated[
        str | None, typer.Option("--bom", metavar="FORMAT", help="Print a bill of materials: cyclonedx or spdx.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a run for release: exit 0 when its student may leave, 1 when something stops it."""
    from potstill.core.errors import InputError

    if accept is not None or override is not None:
        emit(*_answer(Path(run), accept, override, by=by, day=day, reason=reason), as_json=as_json)
        return
    if by or day or reason:
        raise InputError("--by, --date and --reason belong to an answer: add --accept TERMS or --override FINDING")
    folder = _folder(run)
    if bom is not None:
        from potstill.materials import bill

        text = bill(folder, bom)
        emit(text, json.loads(text), as_json=as_json)
        return
    text, values, good = _verified(folder) if verify else _judged(folder)
    emit(text, values, as_json=as_json)
    if not good:
        raise typer.Exit(1)


def _folder(run: str) -> Any:
    from potstill.core.errors import FolderError
    from potstill.folder import RunFolder

    if not (Path(run) / "config.yaml").is_file():
        raise FolderError(f"{run}: no run lies here (it has no config.yaml). `potstill run RECIPE` starts one.")
    return RunFolder(Path(run))


def _answer(
    place: Path, accept: str | None, override: str | None, *, by: str, day: str, reason: str
) -> tuple[str, dict[str, Any]]:
    """Keep one answer for a run, finished or not, or beside the output of a writing job."""
    from potstill.answering import keep
    from potstill.core.errors import InputError

    if accept is not None and override is not None:
        raise InputError("--accept and --override are two answers: give one at a time")
    kept = keep(place, accept=accept, override=override, by=by, day=day, reason=reason)
    return f"{kept.kind} {kept.about}: kept for {place}, by {kept.by} on {kept.day}", {"answer": kept.as_json()}


def _judged(folder: Any) -> tuple[str, dict[str, Any], bool]:
    """The verdict of a release, finding by finding."""
    from potstill.release import gate_record, judge

    found, verdict = judge(folder, release=True)
    values = {"run": str(folder.root), **gate_record(found, verdict)}
    return "\n".join(_lines(folder.root, found, verdict)), values, verdict.open


def _lines(root: Path, found: list[Finding], verdict: Gate) -> list[str]:
    lines = [f"{root}: {'pass' if verdict.open else 'stop'}"]
    for one in found:
        lines.append(f"  {one.verdict:<5} {one.name}: {one.evidence['why']}")
        lines += [f"        {duty['kind']}: {duty['text']}" for duty in one.evidence.get("duties", ())]
    known = {one.name for one in found}
    lines += [f"  stop  {one.name} ({one.subject}): {one.value:.4g}" for one in verdict.stops if one.name not in known]
    for one, by in verdict.overrides:
        lines.append(f"  overridden: {one.name} by {by.by} on {by.day}: {by.reason}")
    return lines


def _verified(folder: Any) -> tuple[str, dict[str, Any], bool]:
    """What is not as the ledger says."""
    from potstill.release import tampered

    faults = tampered(folder)
    text = "\n".join([f"{folder.root}: {len(faults)} faults", *(f"  {fault}" for fault in faults)])
    sound = f"{folder.root}: the ledger is whole, and products and exports are as it says"
    return text if faults else sound, {"run": str(folder.root), "sound": not faults, "faults": faults}, not faults
