"""`potstill tune`: a search among settings of a recipe for the best student under a budget of bytes or of time.

Each trial is an ordinary run in a folder of its own, named after its settings, so that the same settings are trained
once and a stopped search goes on where it was. What is compared is the exported student in its own program, on the
validation rows: the test rows choose nothing. optuna proposes the settings (the extra `[tune]`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from potstill.assemble import scores
from potstill.bench import Bench
from potstill.config import Recipe
from potstill.core.errors import DataError, InputError, ModelError, RecipeError
from potstill.data.order import in_order
from potstill.data.prepare import prepare
from potstill.deployed import forward_of
from potstill.evaluate.cost import deployed_bytes
from potstill.evaluate.settings import CostSettings
from potstill.evaluate.timing import time_interleaved
from potstill.export.formats import FORMATS, place, refuse_not_installed
from potstill.export.graph import input_names
from potstill.export.rows import tensors_of
from potstill.export.runtimes import needed
from potstill.folder import RunFolder
from potstill.recipe_yaml import load_recipe
from potstill.report.pareto import chart, front
from potstill.report.svg import Dot
from potstill.still import run
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from potstill.target.cost import REST
from potstill.target.engines import ENGINES
from potstill.train.stop import StopFlag

FORMAT = "export.format"
# Nothing of these changes the student that is exported.
PLAIN = ("controls=[]", "evaluate.cost=null", "evaluate.bootstrap=100")


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched. choices: for each setting, the values to choose from, as JSON. formats: how the student may
    leave. budget: at most so many megabytes, or milliseconds at batch 1; the other may be anything. unit: which."""

    recipe: str
    choices: Mapping[str, Sequence[str]]
    formats: Sequence[str]
    budget: float
    unit: str

    @property
    def combinations(self) -> int:
        """How many there are."""
        return prod(len(values) for values in self.choices.values()) * len(self.formats)


@dataclass(frozen=True, slots=True)
class Tried:
    """One trial. quality: accuracy on the validation rows, of a language model minus the loss in nats a token. cost: in
    the unit of the budget; fits: whether it is within it."""

    settings: Mapping[str, str]
    format: str
    quality: float
    megabytes: float
    milliseconds: float
    fits: bool
    folder: str

    @property
    def name(self) -> str:
        """For a chart: the values, and the format."""
        return ", ".join([*self.settings.values(), self.format])


def choices_of(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`key.sub=[a, b]` of the command line. Raises InputError for what is no such list, or has no two values."""
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, _, text = word.partition("=")
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not key or not isinstance(values, list) or len(values) < 2:
            raise InputError(
                f"`{word}` names no choice: give at least two values as a list, as student.vocabulary_size=[4000,7500]"
            )
        found[key] = tuple(json.dumps(value) for value in values)
    return found


def tune(search: Search, *, trials: int, output_dir: Path, seed: int = 0, say: Callable[[str], None]) -> list[Tried]:
    """So many trials, those of an earlier call included; what was found is in `output_dir`/tune.json, the front of it
    in front.svg. Where there are no more combinations than trials, each is tried once.

    Raises InputError when a format's runtime or optuna is not installed, when the folder holds another search, or when
    no trial could be run; RecipeError when the recipe is none.
    """
    refuse_not_installed(search.formats)
    output_dir.mkdir(parents=True, exist_ok=True)
    _refuse_another(search, output_dir / "search.json")
    study, optuna = _study(output_dir, seed)
    for _ in range(_asked(search, study, optuna.trial.TrialState, trials)):
        trial = study.ask()
        chosen = {key: trial.suggest_categorical(key, list(values)) for key, values in search.choices.items()}
        form = trial.suggest_categorical(FORMAT, list(search.formats))
        try:
            one = tried(search, chosen, form, output_dir, say)
        except (RecipeError, ModelError, DataError) as error:
            say(f"{chosen} cannot be: {error}")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        trial.set_constraint("budget", getattr(one, search.unit) - search.budget)
        trial.set_user_attr("tried", asdict(one))
        study.tell(trial, [one.quality, getattr(one, search.unit)])
        say(f"{one.name}: {one.quality:.4f}, {one.megabytes:.2f} MB, {one.milliseconds:.2f} ms")
    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    found = {one.user_attrs["tried"]["folder"]: Tried(**one.user_attrs["tried"]) for one in done}
    if not found:
        raise InputError("no trial could be run: look at what was said of each, and change the choices")
    everyone = list(found.values())
    _write(search, everyone, output_dir)
    return everyone


def _study(output_dir: Path, seed: int) -> tuple[Any, Any]:
    optuna = needed("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = needed("optuna.storages.journal", "tune").JournalFileBackend(str(output_dir / "study.journal"))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(journal),
        study_name="potstill",
        load_if_exists=True,
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.TPESampler(seed=seed),
    )
    return study, optuna


def _asked(search: Search, study: Any, states: Any, trials: int) -> int:
    """How many trials there are still to be, those in the queue that are known by now."""
    for one in study.get_trials(deepcopy=False, states=(states.RUNNING,)):  # a process that was killed left it
        study.tell(one.number, state=states.FAIL)
        study.enqueue_trial(one.params)
    if search.combinations > trials:
        return max(0, trials - len(study.get_trials(deepcopy=False, states=(states.COMPLETE,))))
    for values in product(*search.choices.values(), search.formats):
        study.enqueue_trial(dict(zip((*search.choices, FORMAT), values, strict=True)), skip_if_exists=True)
    return len(study.get_trials(deepcopy=False, states=(states.WAITING,)))


def _refuse_another(search: Search, file: Path) -> None:
    text = json.dumps(asdict(search), indent=1, sort_keys=True)
    if file.exists() and json.loads(file.read_text()) != json.loads(text):
        raise InputError(f"{file.parent}: this folder holds another search: choose another with --output-dir")
    file.write_text(text)


def tried(search: Search, chosen: Mapping[str, str], form: str, output_dir: Path, say: Callable[[str], None]) -> Tried:
    """Train, or find trained, the student with these settings; export it, and measure what was exported."""
    name = hashlib.sha256(json.dumps([chosen, form], sort_keys=True).encode()).hexdigest()[:8]
    folder = output_dir / f"trial-{name}"
    formats = json.dumps(list(dict.fromkeys(["huggingface", form])))
    given = [f"{key}={value}" for key, value in chosen.items()]
    recipe = load_recipe(search.recipe, [*PLAIN, *given, f"export.formats={formats}"])
    if recipe.data.validation is None:
        raise InputError("there is no data.validation, and the test rows must choose nothing: add one to the recipe")
    _share(recipe, folder, output_dir)
    run(recipe, output_dir=folder)
    quality, milliseconds = measured(recipe, folder, form, say)
    megabytes = deployed_bytes(folder / place(form)) / 1e6
    fits = {"megabytes": megabytes, "milliseconds": milliseconds}[search.unit] <= search.budget
    return Tried(dict(chosen), form, quality, megabytes, milliseconds, fits, str(folder))


def _share(recipe: Recipe, folder: Path, output_dir: Path) -> None:
    """A trial that begins gets the earlier stages of another, where the recipe makes them no differently."""
    if (folder / "config.yaml").exists() or not recipe.stages:
        return
    for other in sorted(output_dir.glob("trial-*/stages/student/stage.json")):
        root = other.parents[2]
        made = load_recipe(root / "config.yaml")
        bf16 = {one.name: one.train.bf16 for one in (*made.stages, made.final)}
        like = recipe.settled({name: value for name, value in bf16.items() if value != "auto"})
        if (made.task, made.data, made.seed, made.stages) == (like.task, like.data, like.seed, like.stages):
            RunFolder.open(folder, recipe)
            for stage in recipe.stages:
                shutil.copytree(root / "stages" / stage.name, folder / "stages" / stage.name)
            if made.teacher == like.teacher:
                for answers in (root / "stages" / "student").glob("answers-*"):
                    shutil.copytree(answers, folder / "stages" / "student" / answers.name)
            return


def measured(recipe: Recipe, folder: Path, form: str, say: Callable[[str], None]) -> tuple[float, float]:
    """The exported student's quality on the validation rows, and milliseconds of one of them, the median."""
    program = next(one for one in ENGINES.values() if form.startswith(one.reads))
    if program.open is None:
        raise InputError(f"{form}: what reads it cannot score rows here: choose among {', '.join(FORMATS)}")
    cost = recipe.evaluate.cost or CostSettings()
    loaded = load_model(ModelSettings(model_name_or_path=str(folder / "model")), task=recipe.task, labels=None)
    prepared, names = prepare(recipe.data, loaded.tokenizer, recipe.task, recipe.seed), input_names(loaded)
    assert prepared.validation is not None
    answer = program.open(folder / place(form), recipe.task, cost.threads)
    with StopFlag() as stop, torch.inference_mode():
        bench = Bench(recipe, RunFolder(folder), stop=stop, say=say)
        found = scores(bench, forward_of(answer, names), prepared, prepared.validation)
        rows = in_order(prepared.validation.encoded[: cost.rounds], prepared.collate, 1)
        turns = cycle([tensors_of(row, names) for row in rows])
        times = time_interleaved({"": lambda: answer(next(turns))}, rounds=cost.rounds, threads=cost.threads, rest=REST)
    quality = found["accuracy"] if recipe.task == "classify" else -found["loss"]
    return quality, 1000 * float(np.median(times[""]))


def dots(search: Search, everyone: Sequence[Tried]) -> list[Dot]:
    """Each trial by its cost in the budget's unit and its quality; those over the budget in another colour."""
    return [
        Dot(one.name, "student" if one.fits else "untrained", getattr(one, search.unit), one.quality)
        for one in everyone
    ]


def best(search: Search, everyone: Sequence[Tried]) -> list[Tried]:
    """The front of those within the budget, the cheapest first."""
    within = [one for one in everyone if one.fits]
    names = [dot.name for dot in front(dots(search, within))]
    return sorted((one for one in within if one.name in names), key=lambda one: getattr(one, search.unit))


def _write(search: Search, everyone: Sequence[Tried], output_dir: Path) -> None:
    values = {"trials": [asdict(one) for one in everyone], "front": [asdict(one) for one in best(search, everyone)]}
    (output_dir / "tune.json").write_text(json.dumps(values, indent=1))
    label = {"megabytes": "megabytes", "milliseconds": "milliseconds at batch 1"}[search.unit]
    (output_dir / "front.svg").write_text(chart(dots(search, everyone), x_label=label, y_label="quality, validation"))
