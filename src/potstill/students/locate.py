"""From the name in a recipe to a folder on this machine, with what is known of its origin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from potstill.core.errors import ModelError
from potstill.core.lineage import with_declared
from potstill.students.packaged import find_packaged, installed_version
from potstill.students.refuse import inspect_config
from potstill.students.settings import ModelSettings
from potstill.students.stated import licence_of

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
_UNWANTED = ("onnx/*", "openvino/*", "*/onnx/*", "original/*")


@dataclass(frozen=True, slots=True)
class Located:
    """A model folder. revision: None when only its content can identify it."""

    source: str
    folder: Path
    display_name: str
    revision: str | None
    licence: str


def locate(settings: ModelSettings, folder_of: Mapping[str, Path], *, trust_remote_code: bool = False) -> Located:
    """Find, convert or fetch the model that the settings name, with the licence they declare for it beside its own.
    Raises ModelError with the next step."""
    found = _located(settings, folder_of, trust_remote_code)
    return replace(found, licence=with_declared(found.licence, settings.licence))


def _located(settings: ModelSettings, folder_of: Mapping[str, Path], trust_remote_code: bool) -> Located:
    name = settings.model_name_or_path
    kind, _, rest = name.partition(":")
    if kind == "packaged":
        return _packaged(name, rest)
    if kind == "stage":
        return _stage(name, rest, folder_of)
    path = Path(name).expanduser()
    if path.is_dir():
        shown = path.resolve().parent.name if path.resolve().name == "model" else path.resolve().name
        return Located(name, path, shown, settings.revision, licence_of(path))
    if path.suffix == ".gguf":
        return _gguf(name, path)
    if path.exists() or not _HUB_ID.match(name):
        found = "is a file" if path.exists() else "does not exist"
        raise ModelError(f"{name}: {found}; give a model folder, a .gguf file, a hub id or packaged:NAME")
    folder = _fetch(name, settings.revision, trust_remote_code=trust_remote_code)
    return Located(name, folder, name, folder.name, licence_of(folder))


def _packaged(name: str, rest: str) -> Located:
    row, path = find_packaged(rest)
    folder = _converted(path) if path.suffix == ".gguf" else path
    return Located(name, folder, row.display_name, installed_version(row), row.licence)


def _stage(name: str, stage: str, folder_of: Mapping[str, Path]) -> Located:
    if stage not in folder_of:
        known = ", ".join(sorted(folder_of)) or "none"
        raise ModelError(f"{name}: no earlier stage is called `{stage}` (finished stages: {known}): correct the name")
    return Located(name, folder_of[stage], name, None, licence_of(folder_of[stage]))


def _gguf(name: str, path: Path) -> Located:
    if not path.is_file():
        raise ModelError(f"{name}: no such file: check the path")
    folder = _converted(path)
    return Located(name, folder, f"{path.stem} (GGUF, dequantised)", f"sha256:{folder.name[:16]}", licence_of(folder))


def _converted(path: Path) -> Path:
    from potstill.students.gguf import converted

    return converted(path)


def _fetch(repository: str, revision: str | None, *, trust_remote_code: bool) -> Path:
    """A snapshot from the hub or its local cache. The config is judged before anything else is fetched."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    code = ("*.py",) if trust_remote_code else ()
    try:
        config = hf_hub_download(repository, "config.json", revision=revision)
        inspect_config(Path(config).parent, trust_remote_code=trust_remote_code)
        patterns = [*_WANTED, *code]
        commit = Path(config).parent.name
        return Path(
            snapshot_download(repository, revision=commit, allow_patterns=patterns, ignore_patterns=list(_UNWANTED))
        )
    except GatedRepoError as error:
        raise ModelError(f"{repository}: access is restricted: accept its terms on the hub and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{repository}: no revision `{revision}`: check the commit or branch") from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{repository}: no such folder here and no such model on the hub: check the name") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{repository}: not in the local cache and the hub cannot be reached ({reason}): "
            "connect, or download the model elsewhere and give its folder"
        ) from error
