"""placeholder"""

from __future__ import annotations
import shutil
from pathlib import Path
import potstill
from potstill.folder import RunFolder
from dataclasses import dataclass
from collections.abc import Sequence, Mapping

FORMATS = "[huggingface,onnx-int8,openvino-int8]"
PLAIN = ("controls=[]", "evaluate.cost=null", f"export.formats={FORMATS}")


def trained(recipe_name: str, overrides: Sequence[str], folder: Path, shared: Path | None):
    recipe = potstill.load_recipe(recipe_name, [*PLAIN, *overrides])
    if shared is not None and not (folder / "config.yaml").exists():
        RunFolder.open(folder, recipe)
        shutil.copytree(shared / "teacher", folder / "stages" / "teacher")
        for one in (shared / "student").glob("answers-*"):
            shutil.copytree(one, folder / "stages" / "student" / one.name)
    return potstill.run(recipe, output_dir=folder)
