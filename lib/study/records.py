"""What was measured, one JSON object a line, each with its provenance.

A record is a dict: `method`, `profile`, `seed`, `params`, the measurements, and `provenance`. Files only grow; `latest`
picks the newest run of each cell and `to_frame` makes the table that figures draw from. Left out: a database, a schema
(whoever draws names the columns), and every environment variable but OMP_NUM_THREADS, as some hold secrets.
"""

import errno
import fcntl
import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import pandas as pd

from densereward.canonical import canonical

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "numpy", "densereward")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # errors of a disk that takes nothing more
DESCRIBES = ("data/results", "book")  # these report results and do not make them: no reason to call a commit dirty


def known(numbers: dict) -> dict:
    """The numbers with None in place of nan (the fact accuracy of answers without a fact, say), as records need it."""
    return {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in numbers.items()}


@cache
def git_state(file: str = __file__) -> dict:
    """Commit of the repository that tracks `file`, and whether its code or inputs differ from that commit.

    Read once per process, so call it early: what counts is the code that was loaded. Outside git, before a first
    commit, or when `file` is not tracked (installed into a foreign repository): commit 'unknown', dirty None.
    """
    here = Path(file).resolve().parent
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(here), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", Path(file).name)
        commit = git("rev-parse", "--verify", "HEAD")
        changes = git("status", "--porcelain", "--", ":/", *(f":(top,exclude){folder}" for folder in DESCRIBES))
    except (OSError, subprocess.SubprocessError):
        return {"commit": "unknown", "dirty": None}
    return {"commit": commit, "dirty": bool(changes)}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def provenance(seed: int | None, device, started: float, tokens: int | None = None) -> dict:
    """Where a measurement comes from; call it when the work is done. `started` is `time.perf_counter()` at its begin.

    Seconds are wall time since `started`. Peaks in MiB are those of the whole process so far (`ru_maxrss`, and torch's
    allocated GPU memory since its last reset), not of one stage. `tokens` is the caller's count, None where it has
    none. Raises ValueError when `started` lies in the future, as `time.time()` does on this clock.
    """
    seconds = time.perf_counter() - started
    if seconds < 0:
        raise ValueError(f"started={started} lies in the future: take it from time.perf_counter(), not time.time()")
    import torch  # whoever only reads records needs none

    device = torch.device(device)
    cuda = device.type == "cuda"
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {
        **git_state(),
        "packages": {package: _version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "utc": datetime.now(UTC).isoformat(timespec="microseconds"),
        "seconds": round(seconds, 3),
        "peak_rss_mib": round(rss, 1),
        "peak_gpu_mib": round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if cuda else None,
        "tokens": tokens,
    }


def _parse(line: bytes, place: str, check: Callable[[dict], None] | None = None) -> dict:
    def refuse(constant: str):
        raise ValueError(f"holds {constant}")

    try:
        record = json.loads(line.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not a record ({error}); mend or delete this line") from None
    if not isinstance(record, dict):
        raise ValueError(f"{place}: not a record (a JSON {type(record).__name__}); mend or delete this line")
    try:
        if check:
            check(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{place}: not a record of the study ({why}); mend or delete this line") from None
    return record


def _finish_last_line(file: int, path: Path) -> None:
    """Drop what a killed writer left, so that the next record does not grow onto it."""
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return
    text = os.pread(file, size, 0)
    start, number = text.rfind(b"\n") + 1, text.count(b"\n") + 1
    try:
        _parse(text[start:], f"{path}:{number}")
        os.write(file, b"\n")
    except ValueError:
        os.ftruncate(file, start)
        warnings.warn(f"{path}:{number}: dropped an incomplete record, its writer was killed", stacklevel=3)


def write_record(path: str | Path, record: dict) -> None:
    """Append `record` to the JSON lines at `path`, whole or not at all, and wait until it is on disk.

    Writers that share a file take turns. Raises ValueError as `plain`, and OSError, naming the file, when it cannot
    be written (full disk, folder missing rights); the file then holds what it held before.
    """
    path = Path(path)
    if not isinstance(record, dict):
        raise ValueError(f"record for {path} is a {type(record).__name__}; pass a dict")
    line = (canonical(record) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            _finish_last_line(file, path)
            size = os.fstat(file).st_size
            try:
                if os.write(file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(file, size)
                raise
        finally:
            os.close(file)
    except OSError as error:
        reason = f"record not written, {error.strerror}; make room or choose another folder"
        raise OSError(error.errno, reason, str(path)) from error


def disk_full(error: BaseException | None) -> str | None:
    """The system's words where an error, or what it came of, is one of a full disk; None for any other."""
    while error:
        said = re.search(r"os error (\d+)", str(error))  # of safetensors, whose errors have no number
        number = int(said[1]) if said else getattr(error, "errno", None)
        if number in FULL:
            return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def read_records(path: str | Path, check: Callable[[dict], None] | None = None) -> list[dict]:
    """Every record of a file, or of all `*.jsonl` below a folder, in the order of file names and lines.

    An unfinished last line, left by a killed writer, is skipped; one warning counts these and names file:line. Raises
    ValueError, naming file:line, for any other line that is no record, and FileNotFoundError for a missing path and for
    a folder without such a file. `check` raises where a record lacks what its reader needs (`identity.check_record`).
    """
    path = Path(path)
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files or not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no records here yet; run the study first", str(path))
    records, unfinished = [], []
    for file in files:
        *lines, tail = file.read_bytes().split(b"\n")
        records += [_parse(line, f"{file}:{number}", check) for number, line in enumerate(lines, 1)]
        if tail:
            place = f"{file}:{len(lines) + 1}"
            try:
                _parse(tail, place)
            except ValueError:
                unfinished.append(place)
            else:
                records.append(_parse(tail, place, check))
    if unfinished:
        warnings.warn(f"skipped {len(unfinished)} unfinished record(s): {', '.join(unfinished)}", stacklevel=2)
    return records


def latest(records: list[dict], key: tuple[str, ...] = ("method", "profile", "seed", "params")) -> list[dict]:
    """The newest record (by `provenance.utc`; the later in the list wins a tie) for each value of `key`.

    Records of several kinds need a `key` that tells them apart. Raises ValueError when a record lacks a key.
    """
    newest = {}
    for index, record in enumerate(records):
        if missing := [name for name in key if name not in record]:
            raise ValueError(f"record {index} lacks {', '.join(missing)}; pass the keys that tell these records apart")
        cell = canonical([record[name] for name in key])
        utc = record.get("provenance", {}).get("utc", "")
        if cell not in newest or utc >= newest[cell][0]:
            newest[cell] = (utc, record)
    return [record for _, record in newest.values()]


def to_frame(records: list[dict]) -> pd.DataFrame:
    """One row per record, nested keys joined by dots (`params.cutoff`, `provenance.commit`); lists stay as they are."""
    return pd.json_normalize(records, sep=".")
