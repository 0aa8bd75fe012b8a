"""A whole run: stages, controls, measures, export, report; each is done once, a stopped run goes on where it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from potstill.bench import Bench
from potstill.chains import told
from potstill.compressing import refuse_ranks
from potstill.config import Recipe, StageSettings
from potstill.core.errors import FolderError, GateError, InputError, RunError
from potstill.core.finding import Finding
from potstill.core.record import RunRecord
from potstill.deployed import measure_export
from potstill.export.formats import FORMATS, place, refuse_not_installed
from potstill.folder import RunFolder, environment
from potstill.licensing import clear, place_of
from potstill.measure import measure
from potstill.policy.ledger import graph, verify
from potstill.publish import publish, write_card
from potstill.recipe_yaml import dump_recipe, load_recipe
from potstill.recorded import recorded
from potstill.release import asking, gate_record, judge, nodes_of
from potstill.report.page import render
from potstill.sizes import refuse_larger_tutors
from potstill.stage import curve, run_stage
from potstill.students.settings import ModelSettings
from potstill.target.cost import measure_cost
from potstill.train.join import TIMEOUT_SECONDS, joined
from potstill.train.lock import RunLock
from potstill.train.memory import keep_freed_memory
from potstill.train.stop import StopFlag

__all__ = ["RunRecord", "cost_run", "evaluate_run", "export_run", "report_run", "resume", "run"]


def run(
    recipe: str | Path | Recipe,
    overrides: Sequence[str] = (),
    *,
    output_dir: str | Path | None = None,
    trust_remote_code: bool = False,
    rank_timeout: float = TIMEOUT_SECONDS,
) -> RunRecord:
    """Do everything the recipe says; in a folder where it was begun before, go on.

    recipe: a file, the name of a shipped recipe, or settings. rank_timeout: seconds after which a job of several ranks
    gives up one that does not answer. Raises RecipeError, FolderError and what the rooms raise.
    """
    settings = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if isinstance(recipe, Recipe) and overrides:
        raise InputError("overrides change a recipe file; these settings are final: change them before calling run")
    root = Path(output_dir) if output_dir else place_of(settings)
    with opened(root, settings, trust_remote_code, rank_timeout) as bench:
        distil(bench)
        return recorded(bench.folder)


def resume(
    run_folder: str | Path, *, trust_remote_code: bool = False, rank_timeout: float = TIMEOUT_SECONDS
) -> RunRecord:
    """Go on with the run in this folder, with as many ranks as there are now."""
    root = existing(run_folder)
    recipe = load_recipe(root / "config.yaml")
    return run(recipe, output_dir=root, trust_remote_code=trust_remote_code, rank_timeout=rank_timeout)


def evaluate_run(
    path: str | Path, *, recipe: Recipe | None = None, formats: Sequence[str] = (), trust_remote_code: bool = False
) -> RunRecord:
    """Measure the models of a finished run again; or these of its exported formats, each in its own runtime; or, with a
    recipe, a model folder alone on the recipe's test rows."""
    if recipe is not None and formats:
        raise InputError("a format belongs to a run, and a recipe measures a model folder: leave out one of them")
    if recipe is not None:
        return evaluate_model(Path(path), recipe, trust_remote_code=trust_remote_code)
    return _again(path, "deployed.json" if formats else "findings.json", trust_remote_code, formats)


def evaluate_model(model: Path, recipe: Recipe, *, trust_remote_code: bool = False) -> RunRecord:
    """Quality and cost of one model folder; nothing is written. The record's only subject is called `student`."""
    if (model / "config.yaml").is_file():
        raise FolderError(f"{model} is a run, measured by its own recipe: leave out --recipe, or name {model}/model.")
    settings = ModelSettings(model_name_or_path=str(model))
    alone = recipe.model_copy(update={"controls": ()})
    with StopFlag() as stop:
        bench = Bench(alone, RunFolder(model), stop=stop, say=tell, trust_remote_code=trust_remote_code)
        findings = measure(bench, {"student": settings})
    return RunRecord(folder=str(model), recipe=recipe.model_dump(mode="json"), findings=findings)


def cost_run(run_folder: str | Path, *, trust_remote_code: bool = False) -> list[Finding]:
    """Time every export of a finished run in its own program, in turn with the teacher; `cost.json` keeps what is
    found. Raises what `measure_cost` raises."""
    root = existing(run_folder)
    with opened(root, load_recipe(root / "config.yaml"), trust_remote_code) as bench:
        bench.folder.stage_record("student")
        for stage in (*bench.recipe.stages, bench.recipe.final):
            run_stage(bench, stage)
        findings = measure_cost(bench)
        bench.folder.write_json("cost.json", [finding.as_json() for finding in findings])
        return findings


def export_run(run_folder: str | Path, *, formats: Sequence[str] = (), trust_remote_code: bool = False) -> RunRecord:
    """Write the student's folders again, loaded and compared as the first time. formats: more than the recipe names;
    for this time only, the recipe stays what it is."""
    return _again(run_folder, "export.json", trust_remote_code, formats)


def report_run(run_folder: str | Path) -> RunRecord:
    """Write report.html again from what lies in the folder."""
    return reported(RunFolder(existing(run_folder)))


def reported(folder: RunFolder) -> RunRecord:
    """Write the page of what the folder tells, which is returned."""
    record = recorded(folder)
    folder.write_text("report.html", render(record, folder.config.read_text(encoding="utf-8")))
    return record


def _again(run_folder: str | Path, result: str, trust_remote_code: bool, formats: Sequence[str] = ()) -> RunRecord:
    """Make one result of a finished run anew; the old one stands until then."""
    root = existing(run_folder)
    with opened(root, load_recipe(root / "config.yaml"), trust_remote_code) as bench:
        bench.folder.stage_record("student")
        wider = exporting(bench.recipe, formats)
        if result == "export.json":
            bench.recipe = wider
        distil(bench, again=result, formats=formats)
        return recorded(bench.folder)


def exporting(recipe: Recipe, formats: Sequence[str]) -> Recipe:
    """The recipe with more formats to export. Raises InputError for a name that is none."""
    if strange := sorted(set(formats) - FORMATS.keys()):
        raise InputError(f"{', '.join(strange)}: no such export format; there are {', '.join(FORMATS)}")
    both = tuple(dict.fromkeys((*recipe.export.formats, *formats)))
    return recipe.model_copy(update={"export": recipe.export.model_copy(update={"formats": both})})


def existing(run_folder: str | Path) -> Path:
    """A folder that holds a run."""
    root = Path(run_folder)
    if (root / "config.json").is_file() and not (root / "config.yaml").is_file():
        raise FolderError(f"{root} is a model, not a run: `potstill evaluate {root} --recipe FILE` measures it.")
    if not (root / "config.yaml").is_file():
        raise FolderError(f"{root}: no run lies here (it has no config.yaml). `potstill run RECIPE` starts one.")
    return root


def tell(text: str) -> None:
    """What happens now, for a person."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def opened(
    root: Path, recipe: Recipe, trust_remote_code: bool, rank_timeout: float = TIMEOUT_SECONDS
) -> Iterator[Bench]:
    """The folder, locked and checked by the leader, with signals caught and the other ranks met."""
    keep_freed_memory()
    with joined(rank_timeout) as ranks, StopFlag(ranks.signal) as stop, ExitStack() as held:

        def begin() -> None:
            held.enter_context(RunLock(root))
            RunFolder.open(root, recipe).write_json("env.json", environment(torch.get_num_threads(), ranks.size))

        ranks.lead(begin)
        folder = RunFolder(root)
        ranks.everywhere(lambda: folder.refuse_unseen(recipe))

        def say(text: str) -> None:
            if ranks.leads:
                tell(text)
                folder.log(text)

        yield Bench(recipe, folder, stop, say, trust_remote_code=trust_remote_code, ranks=ranks)


def distil(bench: Bench, *, again: str | None = None, formats: Sequence[str] = ()) -> None:
    """Every phase in its order; what is done already is only read. again: a result that is made anew. formats: those
    that are measured, where that is deployed.json.

    All ranks train, and the leader does the rest. Raises RunError at the end, when all else is saved, if an export
    differs from the trained student.
    """
    folder = bench.folder
    bench.ranks.everywhere(lambda: refuse_larger_tutors(bench.recipe))
    bench.ranks.everywhere(lambda: refuse_ranks(bench))
    bench.ranks.lead(lambda: refuse_not_installed(bench.recipe.export.formats))
    if again is None:
        bench.ranks.lead(lambda: cleared(bench))
    for stage in (*bench.recipe.stages, bench.recipe.final):
        run_stage(bench, stage)
    bench.recipe = settled(bench)
    taken = bench.ranks.lead(lambda: folder.stage_record("student"))["steps"]
    for stage, steps in controls(bench.recipe, taken):
        run_stage(bench, stage, steps=steps)
    bench.ranks.conclude(lambda: conclude(bench, again, formats))


def conclude(bench: Bench, again: str | None, formats: Sequence[str] = ()) -> None:
    """Measure, export and report what was trained."""
    folder = bench.folder
    folder.write_lines("metrics.jsonl", [row for name in bench.products for row in curve(folder.stage(name), name)])
    write_ledger(bench)
    if again == "findings.json" or folder.read_json("findings.json") is None:
        folder.write_json("findings.json", [finding.as_json() for finding in measure(bench)])
    found, gate = judge(folder, release=False, measured=("findings.json",))
    if folder.read_json("gate.json") != (record := gate_record(found, gate)):
        folder.write_json("gate.json", record)
        heed(bench, found)
    if not gate.open:
        reported(folder)
        raise GateError(closed(folder.root, [finding.name for finding in gate.stops]))
    if again == "export.json" or folder.read_json("export.json") is None:
        folder.write_json("export.json", [finding.as_json() for finding in publish(bench, recorded(folder))])
        forget_measures(folder, bench.recipe.export.formats)
        write_ledger(bench)
    if again == "deployed.json":
        measure_deployed(bench, formats)
        write_ledger(bench)
    reported(folder)
    if differs := [values["name"] for values in folder.read_json("export.json") or () if values["verdict"] == "stop"]:
        raise RunError(
            f"{folder.root}: the exported folder is not the trained student ({', '.join(differs)}), so it was not "
            f"published: look at {folder.root / 'report.html'}, then `potstill export {folder.root}`."
        )


def forget_measures(folder: RunFolder, formats: Sequence[str]) -> None:
    """What was measured of an earlier export is not of this one."""
    before = folder.read_json("deployed.json")
    if before is not None:
        folder.write_json("deployed.json", {name: found for name, found in before.items() if name not in formats})


def measure_deployed(bench: Bench, formats: Sequence[str]) -> None:
    """Measure exported formats beside the student, and tell it in the card of each."""
    folder = bench.folder
    found = {name: [finding.as_json() for finding in measure_export(bench, name)] for name in formats}
    folder.write_json("deployed.json", {**(folder.read_json("deployed.json") or {}), **found})
    for name in formats:
        write_card(folder.root / place(name), recorded(folder), name)


def settled(bench: Bench) -> Recipe:
    """The recipe with the precision that was timed, written back: it now repeats its numbers in another folder too, and
    the controls train in the same precision as the student."""
    names = [*(stage.name for stage in bench.recipe.stages), "student"]
    timed = bench.ranks.lead(lambda: {name: bench.folder.stage_record(name)["bf16"] for name in names})
    recipe = bench.recipe.settled(timed)
    if recipe != bench.recipe:
        bench.ranks.lead(lambda: bench.folder.write_text("config.yaml", dump_recipe(recipe)))
    return recipe


def controls(recipe: Recipe, steps: int) -> list[tuple[StageSettings, int]]:
    """The student without its teacher: on labels alone for the same number of steps, and as initialised."""
    final, found = recipe.final, []
    if "labels" in recipe.controls:
        plain = {"soft_weight": 0.0, "hard_weight": 1.0, "projection": None, "fused": False, "layers": None}
        alone = final.objective.model_copy(update=plain)
        use = "labelled" if recipe.task == "classify" else "all"
        without = {"teacher": None, "order": None, "augment": None, "rollout": None, "hop": None}
        stage = final.model_copy(update={"name": "labels", "objective": alone, "use": use, **without})
        found.append((stage, steps))
    if "untrained" in recipe.controls:
        found.append((final.model_copy(update={"name": "untrained", "hop": None}), 0))
    return found


def cleared(bench: Bench) -> None:
    """Before anything is loaded: what the recipe names. A run that came to its gate before has said it. Raises
    TermsError."""
    with asking(bench.folder):
        found = clear(bench.recipe, bench.folder.root, fetch=True)
    if bench.folder.read_json("gate.json") is None:
        heed(bench, found)


def heed(bench: Bench, findings: Sequence[Finding]) -> None:
    """Say what is owed, and what nobody stated."""
    for finding in findings:
        if finding.verdict == "warn":
            bench.say(f"{finding.name}: {finding.evidence['why']}")


def closed(root: Path, stops: Sequence[str]) -> str:
    """Why nothing is exported, and what a person can do."""
    return (
        f"{root}: the gate is closed, and nothing is exported: {', '.join(stops)}. `potstill gate {root}` says why; a "
        f"person lets a finding pass with `potstill gate {root} --override FINDING --by NAME --date YYYY-MM-DD "
        f"--reason TEXT`, then `potstill resume {root}`."
    )


def write_ledger(bench: Bench) -> None:
    """ledger.json, unless one lies there that was changed since it was written. Raises FolderError."""
    before = bench.folder.read_json("ledger.json") or {}
    if "graph" in before and (faults := verify(before["graph"])):
        raise FolderError(
            f"{bench.folder.root / 'ledger.json'}: {faults[0]}: find out who changed it; removed, it is made anew by "
            f"`potstill resume {bench.folder.root}`."
        )
    bench.folder.write_json("ledger.json", ledger(bench))


def ledger(bench: Bench) -> dict[str, Any]:
    """Models and data of the run, each with its origin and licence, models with the hashes of those they were made
    from; the hops of a chain; the rows that the student's data left out; and the graph of hashes."""
    entries: list[dict[str, Any]] = []
    records = {name: bench.folder.stage_record(name) for name in bench.products}
    for name, done in records.items():
        notes = f"{done['model']}; {done['steps']} steps" if done["steps"] else f"{done['model']}; not trained"
        entries.append(_entry(f"stage {name}", done, notes))
        entries += [entry for entry in (*done.get("teachers", ()), *done["lineage"]) if entry not in entries]
    own = {name: records[name] for name in (*(stage.name for stage in bench.recipe.stages), "student")}
    nodes = nodes_of(bench.folder, own)
    return {
        "entries": entries,
        "hops": told(records),
        "rejected": records["student"]["data"]["refused"],
        "graph": graph(nodes),
    }


def _entry(role: str, done: Mapping[str, Any], notes: str) -> dict[str, Any]:
    return {
        "role": role,
        "source": done["source"],
        "base": done["base"],
        "revision": done["revision"],
        "licence": done["licence"],
        "hash": done.get("hash", ""),
        "parents": done.get("parents", []),
        "notes": notes,
    }
