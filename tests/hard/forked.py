"""The study in a process that can be killed or starved at any point: a fork, as importing all of it takes longer than
this tiny study does."""

import errno
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from study import runner
from study.records import read_records

ROWS = ("sft", "token", "dpo")  # a reward model, PPO with its critic, a trainer on pairs; each measured
TINY = {
    "committed_models": None, "width": 16, "layers": 1, "vocab_size": 400, "sft_rows": 32, "pairs": 16,
    "heldout_pairs": 16, "rm_batch": 8, "rounds": 1, "critic_warmup": 0, "rollouts": 4, "minibatches": 1,
    "eval_prompts": 8, "credit_responses": 2, "credit_samples": 2, "max_completion_length": 16,
}  # fmt: skip
CHANGES = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "shutil.rmtree",
}  # audit events, see PEP 578


class Folder:
    """A folder with a study's records and stages, `code` and `said` of its last process."""

    def __init__(self, path: Path):
        self.path, self.out, self.log = path, path / "runs.jsonl", path / "log"
        self.code, self.said, self.seconds = None, "", 0.0
        path.mkdir(parents=True, exist_ok=True)

    def start(self, fault: Callable[[Path], None] = lambda path: None, out: Path | None = None) -> int:
        """The pid of a study in a process of its own, which calls `fault` first."""
        pid = os.fork()
        if pid == 0:
            code = 70  # as sysexits has it: an error inside
            try:
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(log, 1), os.dup2(log, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                fault(self.path)
                runner.main("smoke", ",".join(ROWS), "0", out=out or self.out, runs=self.path, change=json.dumps(TINY))
                code = 0
            except SystemExit as end:
                code = end.code
            except BaseException:
                traceback.print_exc()
            finally:
                with suppress(OSError):
                    sys.stdout.flush(), sys.stderr.flush()
                os._exit(code if isinstance(code, int) else 1)
        return pid

    def wait(self, pid: int) -> "Folder":
        self.code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.said = self.log.read_text()
        return self

    def study(self, *given, **named) -> "Folder":
        begun = time.monotonic()
        self.wait(self.start(*given, **named))
        self.seconds = time.monotonic() - begun
        return self

    def records(self) -> dict[str, str]:
        """What is recorded of each row, times and origin left out, as bytes of JSON. One record a row, and no error."""
        made = read_records(self.out)
        counted = Counter((r["kind"], r["method"]) for r in made)
        assert counted == {("run", row): 1 for row in ROWS}, counted
        return {r["method"]: json.dumps(measured(r), sort_keys=True) for r in made}


def measured(record):
    """A record without what no two runs share: where and when, and how long it took."""
    if isinstance(record, dict):
        apart = {"provenance", "stage_seconds"}
        return {name: measured(x) for name, x in record.items() if name not in apart and "seconds" not in name}
    return [measured(x) for x in record] if isinstance(record, list) else record


def on_change(do: Callable[[int], None], changes: set = CHANGES) -> Callable[[Path], None]:
    """A fault: `do(n)` before the n-th change to a file below the study's folder, its opening for writing included."""

    def begin(folder: Path) -> None:
        count, inside = 0, str(folder)

        def hook(event: str, given: tuple) -> None:
            nonlocal count
            opened = event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR)
            if (opened or event in changes) and str(given[0]).startswith(inside):
                count += 1
                do(count)

        sys.addaudithook(hook)

    return begin


def killed_at(n: int) -> Callable[[Path], None]:
    def kill(count: int) -> None:
        if count == n:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_change(kill)


def refused_from(n: int, why: int = errno.ENOSPC) -> Callable[[Path], None]:
    """A disk that takes nothing from the n-th change on. (What the trainers' libraries write in C or Rust still goes
    through: for those there are limits and a full file system.)"""

    def refuse(count: int) -> None:
        if count >= n:
            raise OSError(why, os.strerror(why))

    return on_change(refuse, {"os.rename", "os.mkdir"})  # a full disk lets files go
