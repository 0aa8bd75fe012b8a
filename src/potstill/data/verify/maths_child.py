"""The child process in which math-verify reads expressions; run as a script, it imports nothing of ours.

One JSON line in ({"reference": …, "answer": …}), one out: {"reference": read or not, "answer": read or not, "same": …}.
Limits are set here, before anything is read, so that no expression outgrows them. Arguments: MiB of memory.
"""

import json
import logging
import resource
import sys


def main() -> None:
    """Answer until the parent closes the pipe."""
    # sympy and its grammar take some 300 MiB of addresses before the first expression.
    room = (int(sys.argv[1]) + 512) << 20
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    def read(text: str) -> list[object]:
        # The parent keeps the time: math-verify's own alarm cannot interrupt a long multiplication.
        found = parse(text, parsing_timeout=None)
        return found or parse(f"${text}$", parsing_timeout=None)

    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        reference, answer = read(asked["reference"]), read(asked["answer"])
        same = bool(reference and answer) and bool(verify(reference, answer, timeout_seconds=None))
        print(json.dumps({"reference": bool(reference), "answer": bool(answer), "same": same}), flush=True)


if __name__ == "__main__":
    main()
