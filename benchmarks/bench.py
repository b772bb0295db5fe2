"""Every ratio of the book's table of speed, or some: `make bench`, or

    python benchmarks/bench.py step edits

of step, against_trl, growth (ppo.py), logprobs, segments, edits, labels, sampling (pieces.py), stages (stages.py).
Those of large.py, ceiling, half, resident and engines, are for a GPU, and run only where they are named: `gpu.py` does.

A line of the table is appended to data/results/bench.jsonl as it is measured, with machine, versions and commit; the
book draws the newest. Half an hour of a CPU core. Marks were set before anything was measured; what misses its mark
is in the table as well. TRL 1.5.0, the last release with a PPO trainer, lies in a folder of its own (`--trl`).
"""

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "benchmarks")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is measured at other sizes than the functions' own: on a GPU, and cut down, to see that everything starts.
BIG = {"model": [32_000, 1024, 8], "dtype": "bfloat16", "batch": 64, "micro": 16, "length": 256, "full": True}
TINY = {"batch": 8, "micro": 4, "length": 16}
SIZES = {
    "cpu": {},
    "gpu": {
        "step": {"turns": 2, **BIG},
        "against_trl": {"turns": 2, "testbed": {"batch": 256, "micro": 64}, "large": BIG},
        "growth": {"turns": 1, **BIG, "batch": 16, "lengths": (128, 512, 1024), "batches": (16, 64)},
        "logprobs": {"width": 1024, "batch": 8, "length": 512, "dtype": "bfloat16"},
        "segments": {"turns": 1},
        "sampling": {"turns": 2, "rows": 256},
        "half": {"turns": 1, **BIG},
    },
    "rehearsal": {
        "step": {"turns": 1, **TINY},
        "against_trl": {"turns": 1, "testbed": TINY, "large": {**TINY, "model": [2000, 32, 1]}},
        "growth": {"turns": 1, "model": [768, 32, 1], "lengths": (8, 16), "batches": (4, 8)},
        "logprobs": {"turns": 1, "words": 8000, "width": 32, "batch": 2, "length": 16},
        "segments": {"turns": 1, "batch": 4, "length": 64},
        "edits": {"turns": 1, "length": 64},
        "labels": {"few": 1000, "many": 2000},
        "sampling": {"turns": 1, "rows": 8, "each": 2, "length": 8},
        "ceiling": {"size": 256},
        "half": {"turns": 1, "model": [768, 32, 1], **TINY},
        "resident": {"model": [768, 32, 1], "size": 256, "prompt": 24, **TINY},
        "engines": {"names": ("zero2",)},
    },
}


FOR_A_GPU = ("ceiling", "half", "resident", "engines")


def functions() -> dict:
    """What is measured by a name."""
    import large
    import pieces
    import ppo
    import stages

    found = (ppo.step, ppo.against_trl, ppo.growth, pieces.logprobs, pieces.segments, pieces.edits, pieces.labels)
    found += (pieces.sampling, large.ceiling, large.half, large.resident, large.engines, stages.stages)
    return {f.__name__: f for f in found}


def main() -> None:
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    parts = functions()
    every = [name for name in parts if name not in FOR_A_GPU]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=every, help=f"some of {', '.join(parts)}")
    parser.add_argument("--size", choices=SIZES, default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--trl", default=str(ROOT / "runs" / "trl-1.5.0"), help="the folder that TRL 1.5.0 lies in")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "results" / "bench.jsonl")
    given = parser.parse_args()
    if wrong := set(given.parts) - set(parts):
        parser.error(f"no benchmark is called {sorted(wrong)[0]!r}; choose some of {', '.join(parts)}")
    if "against_trl" in given.parts and not Path(given.trl, "trl").is_dir():
        parser.error(f"{given.trl} does not hold TRL: pip install --no-deps --target {given.trl} trl==1.5.0")
    from study.records import git_state, provenance, write_record

    git_state()  # of the code that runs, whatever is edited meanwhile
    for name in given.parts:
        started = time.perf_counter()
        further = {"trl": given.trl} if name == "against_trl" else {}
        for row in parts[name](**further, **SIZES[given.size].get(name, {})):
            where = provenance(0, "cuda" if torch.cuda.is_available() else "cpu", started)
            write_record(given.out, row | {"part": name, "size": given.size, "provenance": where})
            mark = f"   mark: at {row['mark'][0]} {row['mark'][1]}" if row["mark"] else ""
            print(f"{row['what']}: {row['median']:.3g} ({row['least']:.3g} to {row['largest']:.3g}){mark}", flush=True)


if __name__ == "__main__":
    main()
