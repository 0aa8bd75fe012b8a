"""`potstill export RUN`: the student as a folder that other tools load."""

from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import AsJson, RunFolder, TrustRemoteCode
from potstill.cli.output import emit, working


def export(
    run: RunFolder,
    formats: Annotated[
        list[str] | None, typer.Option("--format", metavar="NAME", help="One more format than the recipe names.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Write the student as a plain model folder. It is loaded again and compared with the trained one."""
    with working():
        from potstill import still
        from potstill.export.formats import place

        record = still.export_run(run, formats=tuple(formats or ()), trust_remote_code=trust_remote_code)
    folders = [str(Path(record.folder) / place(name)) for name in ("huggingface", *(formats or ()))]
    emit("\n".join(folders), {"model": folders[0], "folders": folders}, as_json=as_json)
