"""How fast an answer gets from the teacher's process to the student's, by each way the service offers.

    python benchmarks/transport.py

A message is a whole frame of last states, asked for, sent, received and decoded as in a run; the receiver ends with a
tensor that it can read. Beside them stand one copy in memory of the same bytes, and a bare TCP socket that receives
into a buffer it keeps. All ways take turns; medians. Results also go to benchmarks/results/transport.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import uvicorn

from potstill.teachers.channel import Address, Channel
from potstill.teachers.keys import KeyRing
from potstill.teachers.limits import Limits
from potstill.teachers.metrics import Metrics
from potstill.teachers.server import application
from potstill.teachers.streams import Streams
from potstill.teachers.wire import Frame, decode

RESULTS = Path(__file__).parent / "results"
KEY = "a key that is for measuring only"
WIDTH = 576
SIZES = {"64 MiB": 64 * 2**20, "1 MiB": 2**20, "16 KiB": 2**14}
MESSAGES = {"64 MiB": 1, "1 MiB": 8, "16 KiB": 32}
WAYS = ("shared memory", "Unix socket", "TCP", "HTTP")
IN_FLIGHT = 2  # questions a run sends ahead by default


def canned(size: int) -> Frame:
    return Frame("signal", {"bytes": size}, {"states": torch.zeros(size // WIDTH // 2, WIDTH, dtype=torch.bfloat16)})


def teacher(folder: str, ports: Any) -> None:
    """The other process: answers every question with a frame of the size it names."""
    torch.set_num_threads(1)
    frames = {size: canned(size) for size in SIZES.values()}

    def answer(frame: Frame) -> Future[Frame]:
        future: Future[Frame] = Future()
        future.set_result(frames[int(frame.meta["size"])])
        return future

    limits, metrics = Limits(max_reply_bytes=2**28), Metrics()
    streams = Streams(answer, KeyRing([KEY]), limits, metrics)
    streams.listen_unix(Path(folder) / "teacher.sock")
    tcp = streams.listen_tcp("127.0.0.1", 0, None)
    bare = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=bare_side, args=(bare,), daemon=True).start()
    said = SimpleNamespace(answer=answer, decoded=decode, limits=limits, metrics=metrics, facts=None)
    said.decoded = lambda body: decode(body)
    config = uvicorn.Config(
        application(said, KeyRing([KEY])),
        port=0,
        lifespan="off",
        log_level="error",
        access_log=False,  # type: ignore[arg-type]
    )
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        ports.put({"tcp": tcp, "bare": bare.getsockname()[1], "http": server.servers[0].sockets[0].getsockname()[1]})
        await serving

    asyncio.run(run())


def bare_side(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    payload = memoryview(bytearray(max(SIZES.values())))
    while asked := connection.recv(8):
        connection.sendall(payload[: int.from_bytes(asked, "little")])


def over(channel: Channel) -> Callable[[int], None]:
    def ask(size: int) -> None:
        reply = channel.call(Frame("question", {"size": size}), seconds=60)
        assert reply.tensors["states"].nbytes > size - 2 * WIDTH - 2

    return ask


def together(channels: list[Channel]) -> Callable[[int], None]:
    """As a run asks: a question on each of several channels at once. Time is per message."""
    asking = ThreadPoolExecutor(len(channels))
    calls = [over(channel) for channel in channels]

    def ask(size: int) -> None:
        list(asking.map(lambda call: call(size), calls))

    return ask


def bare_tcp(port: int) -> Callable[[int], None]:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(max(SIZES.values())))

    def ask(size: int) -> None:
        connection.sendall(size.to_bytes(8, "little"))
        left = buffer[:size]
        while len(left):
            left = left[connection.recv_into(left) :]

    return ask


def memory() -> Callable[[int], None]:
    source, target = (np.ones(max(SIZES.values()), dtype=np.uint8) for _ in range(2))
    return lambda size: np.copyto(target[:size], source[:size])


def measure(ways: dict[str, Callable[[int], None]], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of one message, the median over rounds, by size and way."""
    found: dict[str, dict[str, float]] = {}
    for label, size in SIZES.items():
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds + 2):
            for way, ask in ways.items():
                started = time.perf_counter()
                for _ in range(MESSAGES[label]):
                    ask(size)
                if turn > 1:  # the first two fill buffers and pages
                    each = MESSAGES[label] * (IN_FLIGHT if "in flight" in way else 1)
                    seconds[way].append((time.perf_counter() - started) / each)
        found[label] = {way: statistics.median(times) for way, times in seconds.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    ports: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=teacher, args=(folder, ports), daemon=True)
        process.start()
        at = ports.get(timeout=120)
        unix, room = f"unix://{folder}/teacher.sock", 65 * 2**20
        addresses = (
            Address(unix, KEY, shared_bytes=room),
            Address(unix, KEY, shared_bytes=0),
            Address(f"tcp://127.0.0.1:{at['tcp']}", KEY),
            Address(f"http://127.0.0.1:{at['http']}", KEY),
        )
        ways = {"one copy in memory": memory(), "bare TCP": bare_tcp(at["bare"])}
        ways |= {way: over(address.open()) for way, address in zip(WAYS, addresses, strict=True)}
        ways |= {
            f"{way}, {IN_FLIGHT} in flight": together([address.open() for _ in range(IN_FLIGHT)])
            for way, address in zip(WAYS, addresses, strict=True)
        }
        found = measure(ways, options.rounds)
        process.terminate()
    print("| way | " + " | ".join(f"{label}: ms | GB/s | of a copy | of bare TCP" for label in SIZES) + " |")
    print("|---" * (1 + 4 * len(SIZES)) + "|")
    for way in ways:
        cells = []
        for label, size in SIZES.items():
            seconds = found[label]
            copy, bare = seconds["one copy in memory"] / seconds[way], seconds["bare TCP"] / seconds[way]
            cells.append(f"{1e3 * seconds[way]:.3f} | {size / seconds[way] / 1e9:.2f} | {copy:.2f} | {bare:.2f}")
        print(f"| {way} | " + " | ".join(cells) + " |")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "transport.json").write_text(json.dumps({"rounds": options.rounds, "seconds": found}, indent=1))


if __name__ == "__main__":
    main()
