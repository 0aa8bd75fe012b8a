"""Every benchmark still finds what it measures: none is run by the other tests."""

import re
import subprocess
import sys

import pytest

from tests.benchmarks.scripts import BENCHMARKS

COMMAND = re.compile(r"^    python ((?:-m )?benchmarks\S+)", re.MULTILINE)
DOCUMENTED = {path.stem: COMMAND.search(path.read_text()) for path in sorted(BENCHMARKS.glob("*.py"))}


@pytest.mark.parametrize("name", [name for name, command in DOCUMENTED.items() if command])
def test_the_documented_command_starts(name):
    command = [sys.executable, *DOCUMENTED[name][1].split(), "--help"]
    assert subprocess.run(command, capture_output=True, cwd=BENCHMARKS.parent, check=True).stdout.startswith(b"usage")
