"""The run folder: everything a run leaves behind, and nothing outside it.

    config.yaml   the resolved recipe          env.json       versions, hardware
    ledger.json   models and data, lineage     metrics.jsonl  every logged step and evaluation, per arm
    findings.json what was measured            log.txt        what was said
    stages/NAME/  checkpoints and product of each training        model/  the student to deploy
    report.html

JSON files are written aside and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from potstill.config import Recipe
from potstill.core.errors import DiskError, FolderError, RunError
from potstill.durable import replace_file, writing
from potstill.recipe_yaml import dump_recipe, load_recipe

VERSIONS = ("potstill", "torch", "transformers", "tokenizers", "datasets", "safetensors", "pydantic", "numpy")


class RunFolder:
    """One run's folder, opened for one recipe."""

    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def open(cls, root: Path, recipe: Recipe) -> RunFolder:
        """Make the folder, or go on in one that the same recipe made.

        Raises FolderError when it cannot be written or was made by another recipe.
        """
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe = root / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise FolderError(
                f"{root}: this folder cannot be written ({error.strerror}). Choose another with --output-dir."
            ) from error
        folder = cls(root)
        text = dump_recipe(recipe)
        if folder.config.exists():
            folder.refuse_another(recipe)
        elif any(root.iterdir()) and not folder.looks_like_a_run():
            raise FolderError(f"{root}: not empty, and not a run. Choose an empty folder with --output-dir.")
        else:
            folder.write_text("config.yaml", text)
        return folder

    @property
    def config(self) -> Path:
        """The resolved recipe."""
        return self.root / "config.yaml"

    def refuse_unseen(self, recipe: Recipe) -> None:
        """For a process that did not open the folder itself, perhaps on another machine. Raises FolderError."""
        if not self.config.is_file():
            raise FolderError(
                f"{self.root}: {platform.node()} does not see the run that the first rank began there: name a folder "
                f"on a disk that all machines share with --output-dir."
            )
        self.refuse_another(recipe)

    def looks_like_a_run(self) -> bool:
        """Only the lock and the log of a run may be there before its recipe is."""
        return {entry.name for entry in self.root.iterdir()} <= {".lock", "log.txt"}

    def refuse_another(self, recipe: Recipe) -> None:
        """The same folder with another recipe would mix two runs."""
        before = load_recipe(self.config)
        bf16 = {stage.name: stage.train.bf16 for stage in (*before.stages, before.final)}
        if before == recipe.settled({name: value for name, value in bf16.items() if value != "auto"}):
            return
        changed = ", ".join(sorted(_differences(before.model_dump(), recipe.model_dump())))
        raise FolderError(
            f"{self.root}: this folder was made by another recipe; these settings differ: {changed}. "
            f"Choose another folder with --output-dir, or remove this one."
        )

    def stage(self, name: str) -> Path:
        """The folder of one training."""
        place = self.root / "stages" / name
        place.mkdir(parents=True, exist_ok=True)
        return place

    def write_text(self, name: str, text: str) -> None:
        """Write aside, flush to disk, rename. A full disk leaves the old file as it was."""
        place = self.root / name
        data = text.encode()
        try:
            with writing(place, needed=len(data)):
                replace_file(place, data)
        except RunError as error:
            place.with_name(f".{place.name}.partial").unlink(missing_ok=True)
            raise DiskError(f"{error}: `potstill resume {self.root}`. What was saved before stands.") from error

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file, sorted so that equal values give equal bytes."""
        self.write_text(name, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def write_lines(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """One JSON value a line."""
        self.write_text(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The values of such a file; none when it was not written yet."""
        place = self.root / name
        if not place.exists():
            return []
        # Not str.splitlines(): it also breaks at U+2028 and the like, which JSON leaves as they are.
        with place.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def log(self, text: str) -> None:
        """One line of log.txt, with its time."""
        place = self.root / "log.txt"
        with writing(place), place.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")

    def stage_record(self, name: str) -> dict[str, Any]:
        """What a finished stage left behind, as `stage.summary` made it. Raises FolderError when it is not finished."""
        found = self.read_json(f"stages/{name}/stage.json")
        if not isinstance(found, dict):
            raise FolderError(f"{self.root}: stage {name} is not finished: `potstill resume {self.root}`.")
        return found

    def read_json(self, name: str) -> Any | None:
        """The value of a JSON file, or None when it was not written yet."""
        place = self.root / name
        if not place.exists():
            return None
        try:
            return json.loads(place.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FolderError(
                f"{place}: not as it was written ({error}). Remove it and run `potstill resume {self.root}`."
            ) from error


def environment(threads: int, ranks: int = 1) -> dict[str, Any]:
    """What the numbers of this run depend on beside its recipe."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {
        "versions": found,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "ranks": ranks,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> set[str]:
    changed = set()
    for key in before.keys() | after.keys():
        one, other = before.get(key), after.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            changed |= _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            changed.add(f"{prefix}{key}")
    return changed
