"""A Ray cluster of two nodes on this machine, and a job on it; one node is killed on the way.

    colony.py JOB.yaml MARK        (the node is killed at the first word after MARK exists)

Prints what is said; ends with the job's exit code.
"""

import os
import secrets
import signal
import sys
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

from potstill.cluster.job import load_job
from potstill.cluster.on_ray import run_on_ray
from potstill.core.errors import PotstillError


def descendants(parent):
    """All that a machine loses with its power: killed one by one, the nearest to the root last."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == parent:
            own = int(stat.parent.name)
            found += [*descendants(own), own]
    return found


def main():
    job, mark = load_job(sys.argv[1]), Path(sys.argv[2])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    first = cluster.add_node(num_cpus=2)
    for _ in range(max(program.nodes for program in job.programs.values()) - 1):
        cluster.add_node(num_cpus=2)
    raylet = first.all_processes["raylet"][0].process.pid
    job = job.model_copy(update={"address": cluster.address})

    struck = []

    def say(text):
        print(text, flush=True)
        if mark.exists() and not struck:
            struck.append(True)
            cluster.add_node(num_cpus=2)
            print("the first node is killed", flush=True)
            for process in (*descendants(raylet), raylet):
                os.kill(process, signal.SIGKILL)
            cluster.remove_node(first, allow_graceful=False)

    code = 0
    try:
        run_on_ray(job, say=say)
    except PotstillError as error:
        print(error, flush=True)
        code = error.exit_code
    cluster.shutdown()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
