"""Checkpoint folders: `checkpoints/step-N/`, complete or not there at all.

A save is written to `.step-N.partial`, flushed, and renamed. The manifest, written last, holds size and SHA-256 of each
file (safetensors notices a cut file, but loads a flipped bit in silence), the fingerprint of the run, and its own hash.
Choosing a checkpoint therefore never trusts a folder's name: from the newest back, the first one whose every byte is
as it was written is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from potstill.core.errors import CheckpointError, FolderError
from potstill.durable import flush, sha256, write_file, writing

MANIFEST = "MANIFEST.json"
STATE = "state.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A save whose bytes were verified. state: what `state.json` holds."""

    folder: Path
    step: int
    state: Mapping[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `name.safetensors`. They lie in a mapped file: copy them into memory of your own."""
        return load_file(self.folder / f"{name}.safetensors")


def save_checkpoint(
    root: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    folders: Path | None = None,
) -> Checkpoint:
    """Write `root/step-N`. tensors: file name without ending -> tensors; folders: on the same disk, its folders, whose
    files are flushed, become a part of the checkpoint.

    Raises DiskError or FolderError; then the unfinished folder is gone and earlier saves are untouched.
    """
    final, partial = root / f"step-{step}", root / f".step-{step}.partial"
    needed = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    with writing(final, needed=needed):
        try:
            fresh_folder(partial)
            for name, group in tensors.items():
                save_file(dict(group), partial / f"{name}.safetensors", metadata={"format": "pt"})
                flush(partial / f"{name}.safetensors")
            if folders is not None:
                for one in folders.iterdir():
                    flush(one.rename(partial / one.name))
                folders.rmdir()
            write_file(partial / STATE, _dump(state))
            write_file(partial / MANIFEST, _manifest(partial, step, fingerprint))
            flush(partial)
            if final.exists():  # only a save that nobody verified can still be here
                shutil.rmtree(final)
            os.rename(partial, final)
            flush(root)
        except BaseException:
            for unfinished in (partial, folders):
                if unfinished is not None:
                    shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return Checkpoint(final, step, json.loads(_dump(state)))


def fresh_folder(place: Path) -> None:
    """An empty folder. Raises OSError."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)


def _dump(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


def _manifest(folder: Path, step: int, fingerprint: Mapping[str, Any]) -> bytes:
    files = {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in _files(folder).items()}
    body = {"format": FORMAT, "step": step, "files": files, "fingerprint": fingerprint}
    return _dump({**body, "sha256": hashlib.sha256(_dump(body)).hexdigest()})


def _files(folder: Path) -> dict[str, Path]:
    """Every file but folders, by its path within."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}


def latest_complete(
    root: Path, fingerprint: Mapping[str, Any], *, notice: Callable[[str], None] = lambda text: None
) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None when nothing was ever saved.

    Damaged folders are renamed to `step-N.damaged`, saves cut short are removed; `notice` is told of both. Raises
    FolderError when the checkpoint belongs to a run with another fingerprint, showing what differs, and
    CheckpointError when there are checkpoints but none is whole.
    """
    with writing(root):
        for cut in sorted(root.glob(".step-*.partial")):
            shutil.rmtree(cut)
            notice(f"{cut.name}: a save that was cut short; removed")
        folders = list(_newest_first(root))
        for step, folder in folders:
            damage, manifest = inspect(folder)
            if damage is None:
                _refuse_other_run(folder, manifest["fingerprint"], fingerprint)
                return Checkpoint(folder, step, json.loads((folder / STATE).read_bytes()))
            aside = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(folder, aside)
            notice(f"{folder.name} is damaged ({damage}): set aside as {aside.name}, the save before it is used")
    if folders or any(root.glob("step-*.damaged")):
        raise CheckpointError(
            f"{root}: no checkpoint is whole; restore one from a copy, or remove {root} to start again"
        )
    return None


def _newest_first(root: Path) -> Iterator[tuple[int, Path]]:
    steps = [int(found[1]) for path in root.glob("step-*") if (found := re.fullmatch(r"step-(\d+)", path.name))]
    return ((step, root / f"step-{step}") for step in sorted(steps, reverse=True))


def inspect(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """What is wrong with a checkpoint folder (None: every byte is as it was written), and its manifest."""
    try:
        written = (folder / MANIFEST).read_bytes()
        manifest = json.loads(written)
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        if _dump({**body, "sha256": hashlib.sha256(_dump(body)).hexdigest()}) != written:
            return f"{MANIFEST} is not as it was written", {}
        files = manifest["files"]
        present = _files(folder).keys() - {MANIFEST}
        if present != files.keys():
            return f"files missing or added: {', '.join(sorted(present ^ files.keys()))}", manifest
        for name, expected in files.items():
            size = (folder / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} of {expected['bytes']} bytes", manifest
            if sha256(folder / name) != expected["sha256"]:
                return f"{name} is not as it was written", manifest
    except (ValueError, AttributeError, KeyError, FileNotFoundError) as error:
        return f"{MANIFEST} cannot be read: {error}", {}
    except PermissionError as error:
        raise FolderError(f"{folder} cannot be read ({error.strerror}): make it readable") from error
    except OSError as error:
        return f"the disk does not give it back: {error.strerror}", {}
    return None, manifest


def _refuse_other_run(folder: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    then, now = dict(_flat(saved)), dict(_flat(json.loads(_dump(now))))
    names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if names:
        absent = "absent"
        lines = [f"  {name}: {then.get(name, absent)} there, {now.get(name, absent)} now" for name in names]
        raise FolderError(
            f"{folder} was made by another run:\n"
            + "\n".join(lines)
            + "\nSet these back, or name another output folder"
        )


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def prune_checkpoints(root: Path, *, limit: int, keep: int | None) -> None:
    """Leave the newest `limit` and step `keep` (the best). A folder is hidden before it is emptied, so that being cut
    short here never looks like damage."""
    with writing(root):
        for step, folder in list(_newest_first(root))[limit:]:
            if step != keep:
                going = root / f".step-{step}.partial"
                os.rename(folder, going)
                shutil.rmtree(going)
