"""Rounds of PPO per second, with and without sorting responses by length: the two in turns, in one run, as a ratio.

    make bench

Before: one pass per update, as wide as the longest of its responses. After: micro-batches of like length, trimmed
(`training/padding.py`). Same prompts, same updates; the SFT model is the committed one of profile cpu, the reward the
oracle's. Prints medians over rounds, the first of each run left out.
"""

import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from densereward import pipeline, policy
from densereward.methods import method
from densereward.profiles import profile
from densereward.stages import load_json

PARTS = ("generate", "score", "update")


def seconds(micro_batch: int, rounds: int, root: Path, seed: int) -> list[dict]:
    """One row per round: seconds of each part of it."""
    p = replace(profile("cpu"), committed_models="cpu", pairs=400, heldout_pairs=100, rounds=rounds)
    run = pipeline.Run(replace(p, micro_batch=micro_batch), seed, root=root / str(micro_batch))
    sft = pipeline.sft_model(run)
    made = policy.train_policy(run, method("oracle-sequence"), sft, pipeline.preferences(run, sft), None)
    return [{part: row[f"seconds_{part}"] for part in PARTS} for row in load_json(made.path / "curves.json")[1:]]


def main(rounds: int = 8, repeats: int = 3) -> None:
    torch.set_num_threads(1)
    settings = {"before": profile("cpu").rollouts // profile("cpu").minibatches, "after": profile("cpu").micro_batch}
    found = {name: [] for name in settings}
    with tempfile.TemporaryDirectory() as root:
        for repeat in range(repeats):
            for name, micro_batch in settings.items():
                found[name] += seconds(micro_batch, rounds, Path(root), repeat)
    median = {n: {part: statistics.median(r[part] for r in rows) for part in PARTS} for n, rows in found.items()}
    print(f"{'':10}{'micro-batch':>12}" + "".join(f"{part + ' (s)':>14}" for part in PARTS) + f"{'rounds/s':>12}")
    for name, parts in median.items():
        cells = "".join(f"{parts[part]:14.3f}" for part in PARTS)
        print(f"{name:10}{settings[name]:12}{cells}{1 / sum(parts.values()):12.2f}")
    total = {name: sum(parts.values()) for name, parts in median.items()}
    print(f"after / before, rounds per second: {total['before'] / total['after']:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
