"""The licence that a model's own files state: read, never guessed from a name. No weight is touched, no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

from potstill.core.errors import ModelError
from potstill.core.lineage import with_declared
from potstill.students.gguf_header import gguf_header
from potstill.students.packaged import PACKAGED
from potstill.students.settings import ModelSettings

_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md")
_MOST_READ = 1 << 16


def licence_of(folder: Path) -> str:
    """The licence that the model card's front matter states, or config.json, or the first line of a licence file, or
    the record of the stage that made the folder, in a run. "unknown" where none does."""
    card = folder / "README.md"
    found = _of_card(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else ""
    return found or _of_config(folder / "config.json") or _of_file(folder) or _of_stage(folder) or "unknown"


def stated_licence(settings: ModelSettings, *, fetch: bool = False) -> str | None:
    """What is known of a model's licence before it is loaded, with what the recipe declares. None: nothing yet, since
    it is not on this machine. fetch: ask the hub for its card, which is small."""
    name = settings.model_name_or_path
    kind, _, rest = name.partition(":")
    path = Path(name).expanduser()
    if kind == "packaged":
        found = PACKAGED[rest].licence if rest in PACKAGED else "unknown"
    elif path.is_dir():
        found = licence_of(path)
    elif path.suffix == ".gguf" and path.is_file():
        found = _of_gguf(path)
    else:
        card = _hub_card(name, settings.revision, fetch)
        if card is None:
            return settings.licence
        found = _of_card(card) or "unknown"
    return with_declared(found, settings.licence)


def _of_card(text: str) -> str:
    """`license` of the front matter, one or a list; `license_name` where that says `other`."""
    matter = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    if not matter:
        return ""
    stated = _value(matter.group(1), "license")
    return _value(matter.group(1), "license_name") or stated if stated == "other" else stated


def _value(matter: str, key: str) -> str:
    line = re.search(rf"^{key}:[ \t]*(.*(?:\n[ \t]*-[ \t].*)*)", matter, re.MULTILINE)
    if not line:
        return ""
    text = re.sub(r"\s#.*$", "", line.group(1), flags=re.MULTILINE).strip()
    if text.startswith(("[", "-")):
        names = re.split(r"[\[\],]|\n?\s*-\s", text)
        return " AND ".join(name.strip(" \"'\n") for name in names if name.strip(" \"'\n"))
    return text.strip("\"'")


def _of_config(place: Path) -> str:
    if not place.is_file():
        return ""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except ValueError:
        return ""
    stated = found.get("license") if isinstance(found, dict) else None
    return stated.strip() if isinstance(stated, str) else ""


def _of_file(folder: Path) -> str:
    """The title of a licence text: its first line with words in it."""
    for name in _FILES:
        place = folder / name
        if place.is_file():
            with place.open(encoding="utf-8", errors="replace") as file:
                lines = (line.strip(" \t\r\n#*=-") for line in file.read(_MOST_READ).splitlines())
            return next((line[:100] for line in lines if line), "")
    return ""


def _of_stage(folder: Path) -> str:
    """What RUN/stages/NAME/stage.json says of RUN/stages/NAME/model."""
    record = folder.resolve().parent / "stage.json"
    if folder.resolve().name != "model" or not record.is_file():
        return ""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return ""
    stated = found.get("licence") if isinstance(found, dict) else None
    return stated if isinstance(stated, str) else ""


def _of_gguf(path: Path) -> str:
    try:
        return str(gguf_header(path).values.get("general.license") or "unknown")
    except ModelError:  # a damaged file is told of when it is loaded
        return "unknown"


def _hub_card(name: str, revision: str | None, fetch: bool) -> str | None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        found = try_to_load_from_cache(name, "README.md", revision=revision)
        if fetch and not isinstance(found, str):
            found = hf_hub_download(name, "README.md", revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None
    return Path(found).read_text(encoding="utf-8", errors="replace") if isinstance(found, str) else None
