"""A bandit run's stages before and after they were made fast, at equal sizes: the old code and this one, in turns.

The old code is the last commit before (`BEFORE`), unpacked from git's history into runs/before. Each stage is a process
of its own, whose start, measured by one that finds its stages made, is taken off. Both train the SFT model by one
recipe, which is not counted. What the old code does else is its own: a filter drops nearly half of the pairs it draws.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from turns import of, ratios, row

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "9de88946ee21bd1db40b3be5735aa7909615e682"
SIZES = {"pairs": 4_000, "heldout_pairs": 500, "rounds": 16, "critic_warmup": 4, "eval_prompts": 128}
SIZES |= {"credit_responses": 32, "credit_samples": 8}  # what both profiles `cpu` are given
RECIPE = {"actor_learning_rate": 3e-4, "critic_learning_rate": 1e-3, "sft_epochs": 3.0, "sft_learning_rate": 3e-3}
RECIPE |= {"heldout_proxy": False, "world": {"sft_repeats": 0.5}}  # the old one's, for this code
UNTIL = ("preferences", "scorer", "run")  # what `--until` takes, in order
STAGES = dict(zip((*UNTIL, "all"), ("preferences", "reward model", "PPO and evaluation", "the three"), strict=True))


def unpacked(commit: str, folder: Path) -> Path:
    """The library of a commit. RuntimeError where git's history does not hold it."""
    found = subprocess.run(["git", "archive", commit, "lib"], cwd=ROOT, capture_output=True)
    if found.returncode:
        raise RuntimeError(f"no commit {commit[:7]} in git's history here; git fetch --unshallow, or name other parts")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-x", "-C", folder], input=found.stdout, check=True)  # tarfile's filter is of Python 3.11.4
    return folder / "lib"


def stages(turns: int = 3, **changes) -> Iterator[dict]:
    """CPU seconds of preferences, reward model, and PPO with its evaluation: before over after. A turn is a seed."""
    sizes = SIZES | changes
    with tempfile.TemporaryDirectory() as folder:
        old = unpacked(BEFORE, ROOT / "runs" / "before"), "densereward.study", sizes, Path(folder, "before")
        new = ROOT / "lib", "study.runner", sizes | RECIPE, Path(folder, "after")
        for way in (old, new):
            seconds(*way, 0, "sft")
        before, after = zip(*([turn(*way, seed) for way in (old, new)] for seed in range(turns)), strict=True)
    lengths = [of(rounds, "length") for rounds in (before, after)]
    for name, what in STAGES.items():
        spent = [of(rounds, name) for rounds in (before, after)]
        mark = ("least", 2.0) if name == "all" else None
        said = f"a bandit run, {what}: times as fast as before"
        yield row(said, ratios(*spent), mark, seconds=spent, lengths=lengths)


def turn(lib: Path, module: str, sizes: dict, folder: Path, seed: int) -> dict:
    """CPU seconds of each stage, and of all; the mean length of its policy's answers, in tokens."""
    start = seconds(lib, module, sizes, folder, seed, "sft")
    found = {until: seconds(lib, module, sizes, folder, seed, until) - start for until in UNTIL}
    final = json.loads((folder / "runs.jsonl").read_text().splitlines()[-1])["final"]
    return found | {"all": sum(found.values()), "length": final["length"]}


def seconds(lib: Path, module: str, sizes: dict, folder: Path, seed: int, until: str) -> float:
    """CPU seconds of one call of the study. CalledProcessError if it fails."""
    line = [sys.executable, "-m", module, "--profile", "cpu", "--methods", "bandit", "--seeds", str(seed)]
    out = ["--runs", str(folder), "--out", str(folder / "runs.jsonl")]
    line += ["--change", json.dumps(sizes), *out, "--until", until]
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(line, check=True, cwd=lib.parent, env=os.environ | {"PYTHONPATH": str(lib)}, stdout=sys.stderr)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - spent.ru_utime - spent.ru_stime
