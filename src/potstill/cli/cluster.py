"""`potstill cluster FILE`: teachers and students on the machines of a Ray cluster."""

from typing import Annotated

import typer

from potstill.cli.options import AsJson
from potstill.cli.output import emit, working


def cluster(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A job: programs, and what each needs of a machine.")],
    as_json: AsJson = False,
) -> None:
    """Run programs on a Ray cluster. They are placed, watched, and started again when one fails."""
    from potstill.cluster.job import load_job

    job = load_job(file)
    with working():
        from potstill.cluster.on_ray import run_on_ray
        from potstill.still import tell

        run_on_ray(job, say=tell)
    done = [name for name, program in job.programs.items() if not program.service]
    emit(f"done: {', '.join(done)}", {"done": done}, as_json=as_json)
