"""What a machine with one GPU is asked, in eight minutes: `make gpu`, or `python benchmarks/gpu.py tests sampling`.

Each part is a process of its own with a limit of time, so that one that fails or hangs costs its own time alone; the
comparison comes last and takes all that is left, a quarter of the eight minutes at least: what is slow before it takes
from the parts behind, and not from it. What was measured is appended to data/results/bench.jsonl as it comes,
records of the comparison to data/results/gpu/runs.jsonl (both to the folder $OUT where that is set). Started again, the
comparison goes on where it stopped; `comparison` alone has all eight minutes. With $OUT its small stages are kept there
as stages.tgz: a bare machine unpacks it where it lies beside this project's README.

A machine without network takes wheels along: `make wheels` here, and .whl with the tree. `--rehearse` starts every part
on a CPU, cut down, and leaves what it measured in runs/rehearsal.
"""

import argparse
import os
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS, SITE, LAST = ROOT / ".whl", ROOT / "runs" / "site", ROOT / "runs" / "trl-1.5.0"
LIMITS = {  # seconds at most, by what an H200 took where it ended there; the most valuable first
    "tests": 75,
    "ceiling": 30,
    "resident": 100,
    "logprobs": 75,
    "against_trl": 110,
    "sampling": 60,
    "step": 70,
    "half": 50,
    "engines": 150,
    "growth": 100,
    "segments": 25,
    "comparison": 480,  # and no less than its share, which no other part may take
}
SHARE = 1 / 4
STAGES, KEPT, LEAST = "stages.tgz", 15 * 2**20, 10  # bytes of all stages that are kept; seconds under which none starts


def command(part: str, out: Path, rehearse: bool) -> list[str]:
    """The command line of a part."""
    if part == "tests":
        return ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/densereward/test_gpu.py"]
    if part == "comparison":
        few = '{"rounds": 1, "critic_warmup": 0, "rollouts": 8, "eval_prompts": 8, "credit_responses": 2}'
        cut = ["--profile", "smoke", "--methods", "bandit", "--seeds", "0", "--jobs", "1", "--change", few]
        whole = ["--profile", "gpu", "--methods", "core", "--seeds", ",".join(map(str, range(10)))]
        folder = out / "gpu" if out == ROOT / "data" / "results" else out
        runs = ["--runs", str(ROOT / "runs"), "--out", str(folder / "runs.jsonl")]
        return ["-m", "study.runner", *runs, *(cut if rehearse else [*whole, "--jobs", str(os.cpu_count())])]
    size = "rehearsal" if rehearse else "gpu"
    return ["benchmarks/bench.py", part, "--size", size, "--trl", str(LAST), "--out", str(out / "bench.jsonl")]


def installed() -> None:
    """The wheels of .whl, where there are any and this Python lacks TRL, in folders of their own."""
    for folder, target in {WHEELS: SITE, WHEELS / "trl-1.5.0": LAST}.items():
        if find_spec("trl") and folder == WHEELS:
            continue
        if (wheels := sorted(map(str, folder.glob("*.whl")))) and not target.exists():
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
            subprocess.run([*pip, "--target", str(target), *wheels], check=True)
    if (ROOT / STAGES).exists():
        (ROOT / "runs").mkdir(exist_ok=True)
        subprocess.run(["tar", "-xzf", str(ROOT / STAGES), "-C", str(ROOT / "runs")], check=True)


def run(line: list[str], seconds: float) -> str:
    """What became of a part: done, failed or stopped, with all that it started. SIGTERM first: a study ends its own."""
    env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    path = os.pathsep.join(filter(None, [str(SITE), str(ROOT / "lib"), os.environ.get("PYTHONPATH")]))
    env = os.environ | env | {"PYTHONPATH": path}
    child = subprocess.Popen([sys.executable, *line], cwd=ROOT, env=env, start_new_session=True)
    try:
        return "done" if child.wait(seconds) == 0 else f"failed (exit {child.returncode})"
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return f"stopped after {seconds:.0f} seconds"


def seconds_of(part: str, left: float, kept: float) -> float:
    """What a part may take of the seconds that are left, `kept` of which are the comparison's."""
    return min(LIMITS[part], left if part == "comparison" else left - kept)


def keep(out: Path) -> None:
    """The finished stages that are small, the first made first, for another machine."""
    with tarfile.open(out / STAGES, "w:gz") as file:
        room = KEPT
        for manifest in sorted((ROOT / "runs").glob("*/*/manifest.json"), key=lambda path: path.stat().st_mtime):
            size = sum(path.stat().st_size for path in manifest.parent.rglob("*") if path.is_file())
            if size <= room:
                room -= size
                file.add(manifest.parent, manifest.parent.relative_to(ROOT / "runs"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=list(LIMITS), help=f"some of {', '.join(LIMITS)}")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, cut down: does every part start?")
    parser.add_argument("--out", type=Path, help="folder of what is measured; default $OUT, or data/results")
    given = parser.parse_args()
    if wrong := set(given.parts) - set(LIMITS):
        parser.error(f"no part is called {sorted(wrong)[0]!r}; choose some of {', '.join(LIMITS)}")
    began, end = time.monotonic(), time.monotonic() + 60 * given.minutes
    installed()
    default = ROOT / "runs" / "rehearsal" if given.rehearse else os.environ.get("OUT") or ROOT / "data" / "results"
    out = (given.out or Path(default)).resolve()
    out.mkdir(parents=True, exist_ok=True)
    became, kept = {}, 60 * given.minutes * SHARE if "comparison" in given.parts else 0.0
    for part in given.parts:
        left = end - time.monotonic()
        limit = left if given.rehearse else seconds_of(part, left, kept)
        if limit < LEAST:
            became[part] = "no time was left"
            continue
        started = time.monotonic()
        became[part] = run(command(part, out, given.rehearse), limit)
        print(f"== {part}: {became[part]}, {time.monotonic() - started:.0f} s", flush=True)
    if "OUT" in os.environ and "comparison" in given.parts:
        keep(out)
    print("\n".join(f"{part:12}{what}" for part, what in became.items()))
    print(f"{time.monotonic() - began:.0f} seconds, into {out}")
    stopped = {"comparison"}  # takes what time there is
    return any(not what.startswith("done") for part, what in became.items() if part not in stopped)


if __name__ == "__main__":
    sys.exit(main())
