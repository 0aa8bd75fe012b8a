"""The scripts in benchmarks/, imported by their path: benchmarks/ is no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


# They import each other by name, as a script finds its neighbours; last, so that no name of theirs hides another.
sys.path.append(str(BENCHMARKS))


def script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    # Dataclasses look their module up by name.
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module
