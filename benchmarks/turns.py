"""How everything here is measured: two things in turns, in one run, as ratios.

What is compared runs in processes of its own (`Child`), each of which does one round whenever it is given its turn, so
that a machine that grows slow for a while is slow for both. The first round of each is not counted. Seconds are CPU
seconds of that process on a CPU, where other processes would count into wall time, and wall seconds on a GPU, which is
waited for. Peak memory is what the process took beyond what it held before its work (`ru_maxrss`, Linux), or torch's
peak on a GPU.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def clock() -> float:
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def held() -> float:
    """MiB that this process holds now."""
    if CUDA:
        return torch.cuda.memory_allocated() / 2**20
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    """MiB that this process held at most so far."""
    return (
        torch.cuda.max_memory_allocated() / 2**20
        if CUDA
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    )


class Baton:
    """A child's end: `take` waits for the turn, `give` says what the round took. Ends the process with its parent."""

    def __init__(self):
        self.reply = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what trainers print is no reply
        self.base = held()

    def take(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)
        self.started = clock()

    def give(self, **facts) -> None:
        facts |= {"seconds": clock() - self.started, "peak": peak() - self.base}
        print(json.dumps(facts), file=self.reply, flush=True)

    def rounds(self, work) -> None:
        """`work()`, which may return facts, whenever it is this child's turn."""
        while True:
            self.take()
            self.give(**(work() or {}))


class Child:
    """The parent's end: a process of `file` that does what `spec` says, one round each time it is asked."""

    def __init__(self, file: str, **spec):
        path = os.pathsep.join(filter(None, [spec.pop("path", None), *sys.path]))
        self.log = tempfile.TemporaryFile("w+")
        given = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log, "text": True}
        line = [sys.executable, str(HERE / file), json.dumps(spec)]
        self.process = subprocess.Popen(line, env=os.environ | {"PYTHONPATH": path}, **given)

    def turn(self) -> dict:
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            self.log.seek(0)
            raise RuntimeError(f"{self.process.args[1:]} ended:\n{self.log.read()[-3000:]}") from None

    def close(self) -> None:
        with suppress(OSError):  # it may have ended before
            self.process.stdin.close()
        self.process.wait()


def in_turns(turns: int, *children: Child) -> list[list[dict]]:
    """What each child said of so many rounds, after one that is not counted."""
    try:
        found = [[child.turn() for child in children] for _ in range(turns + 1)]
    finally:
        for child in children:
            child.close()
    return [list(rounds) for rounds in zip(*found[1:])]


def seconds(work) -> float:
    started = clock()
    work()
    return clock() - started


def of(rounds: list[dict], name: str) -> list[float]:
    return [r[name] for r in rounds]


def ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def row(what: str, found: list[float], mark: tuple | None = None, **further) -> dict:
    """A line of the table: median, least and largest of the turns' numbers, `mark` ("most" or "least", number), and
    what it rests on."""
    numbers = {"median": statistics.median(found), "least": min(found), "largest": max(found), "turns": len(found)}
    return {"kind": "bench", "what": what, **numbers, "mark": mark, **further}
