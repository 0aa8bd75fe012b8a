"""Units taken out of a finished model by hand: scores, a plan, and the smaller model as a folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from potstill import assemble
from potstill.bench import Bench
from potstill.compress.plan import PrunePlan
from potstill.compress.plan_text import save_plan
from potstill.compress.prune import apply
from potstill.compress.settings import PruneSettings
from potstill.compressing import scored_plan, smaller
from potstill.config import Recipe
from potstill.core.errors import FolderError, InputError
from potstill.durable import writing
from potstill.folder import RunFolder
from potstill.recipe_yaml import load_recipe
from potstill.still import tell
from potstill.students.save import save_model
from potstill.students.settings import ModelSettings
from potstill.train.stop import StopFlag


@dataclass(frozen=True, slots=True)
class Cut:
    """The plan, where it was written, and where the smaller model lies; None where it was not asked for."""

    plan: PrunePlan
    file: Path | None
    folder: Path | None


def cut(
    path: str | Path,
    settings: PruneSettings,
    *,
    recipe: Recipe | None = None,
    plan: str | Path | None = None,
    output_dir: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Cut:
    """Score the units of a model on training rows, and take out what `settings` say.

    path: a run, whose student and rows are taken, or a model folder, with a recipe whose rows are. plan, output_dir:
    where to write; the model itself is not changed.
    Raises InputError without rows to score on, FolderError for an output that is there already, and what `choose` and
    `plan_of` raise.
    """
    model = Path(path)
    if (model / "config.yaml").is_file():
        if recipe is not None:
            raise InputError(f"{model} is a run and has its own rows: leave out --recipe, or name {model}/model")
        recipe, model = load_recipe(model / "config.yaml"), model / "model"
    if recipe is None:
        raise InputError(f"{model}: units are scored on rows of a training split: name a recipe with --recipe FILE")
    target = None if output_dir is None else Path(output_dir)
    if target is not None and target.exists():
        raise FolderError(f"{target} is there already: name a new folder with --output-dir")
    with StopFlag() as stop:
        bench = Bench(recipe, RunFolder(model), stop=stop, say=tell, trust_remote_code=trust_remote_code)
        made, prepared = assemble.model(bench, ModelSettings(model_name_or_path=str(model)))
        found = scored_plan(bench, made, prepared, settings)
        if plan is not None:
            save_plan(found, Path(plan))
        if target is not None:
            aside = target.with_name(f".{target.name}.partial")
            shutil.rmtree(aside, ignore_errors=True)
            save_model(smaller(made, apply(made.module, found), found), aside)
            with writing(target):
                aside.rename(target)
    return Cut(found, None if plan is None else Path(plan), target)
