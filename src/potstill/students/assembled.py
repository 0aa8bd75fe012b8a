"""A packaged model that a registry delivers in parts: joined once, kept in a cache, checked by its hash."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from potstill.core.errors import ModelError
from potstill.durable import settle, sha256, writing


def cache_folder() -> Path:
    """Where converted and joined models are kept: POTSTILL_CACHE, else ~/.cache/potstill."""
    named = os.environ.get("POTSTILL_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "potstill"


def assembled(name: str, parts: Sequence[tuple[str, str]], expected: str, install: str) -> Path:
    """The whole file. parts: (package, file in it) in their order; packages are found, never imported.

    Raises ModelError where a part is missing or the whole has another hash than `expected`; FolderError, DiskError
    where the cache cannot hold it.
    """
    target = cache_folder() / "packaged" / expected / name
    if target.is_file():
        return target
    found = []
    for module, inside in parts:
        spec = importlib.util.find_spec(module)
        folders = spec.submodule_search_locations if spec else None
        place = Path(folders[0]) / inside if folders else None
        if place is None or not place.is_file():
            raise ModelError(f"{module}: this part of {name} is not installed: run `{install}`")
        found.append(place)
    with writing(target.parent, needed=sum(place.stat().st_size for place in found)):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{name}.{os.getpid()}")
        try:
            with aside.open("wb") as whole:
                for place in found:
                    with place.open("rb") as part:
                        shutil.copyfileobj(part, whole, 1 << 20)
            if (true := sha256(aside)) != expected:
                raise ModelError(
                    f"{name}: joined from its packages it has hash {true[:16]}, and {expected[:16]} is the file's: run "
                    f"`{install} --force-reinstall`"
                )
            settle(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    return target
