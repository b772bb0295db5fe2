"""Seconds of sampling and of a round of PPO, ours against the plain way: in turns, in one run, as ratios.

    make bench

Sampling: `sampling.decode` against transformers' `generate`, for the prompts of a rollout batch, and for the
continuations of a Monte Carlo value, 16 of each prefix. A round: as it is; with TRL's generation in place of ours; and
with one pass per update, as wide as the longest of its responses (`training/padding.py`), besides. Same prompts, same
updates; the SFT model is the committed one of profile cpu, the reward the oracle's. Seconds are medians, of rounds
without the first of each run; a ratio is the median of those of each repeat, with the least and the largest.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from densereward.seeding import derive
from densereward.text import sampling
from densereward.text.models import load_causal_lm
from densereward.text.tokens import pad_batch, tokenize_prompt
from study.cache import load_json
from study.methods import method
from study.profiles import models_folder, profile
from study.run import Run
from testbed import build, monte_carlo

PARTS = ("generate", "score", "update")
CPU = replace(profile("cpu"), committed_models="cpu", pairs=400, heldout_pairs=100)
ONE_PASS = CPU.rollouts // CPU.minibatches


def told(what: str, plain: list[float], ours: list[float]) -> None:
    ratios = [a / b for a, b in zip(plain, ours, strict=True)]
    print(
        f"{what:44}{statistics.median(plain):9.3f}{statistics.median(ours):9.3f}"
        f"{statistics.median(ratios):9.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def seconds(work, *given) -> float:
    started = time.perf_counter()
    work(*given)
    return time.perf_counter() - started


def sampled(repeats: int) -> None:
    model, tokenizer = load_causal_lm(models_folder("cpu") / "sft")
    model.eval()
    texts = monte_carlo.eval_prompts(CPU.world, "validation", CPU.rollouts)
    prompts = [tokenize_prompt(tokenizer, build.messages(text)) for text in texts]
    answers = sampling.sample(model, tokenizer, prompts, CPU.max_completion_length, derive(0, "bench"))
    prefixes = [p + a[: len(a) // 2] for p, a in zip(prompts[:16], answers) for _ in range(CPU.credit_samples)]

    def by_generate(prefixes):
        ids, mask = pad_batch(prefixes, tokenizer.pad_token_id, "left")
        limit, pad, eos = CPU.max_completion_length, tokenizer.pad_token_id, tokenizer.eos_token_id
        settings = {"attention_mask": mask, "max_new_tokens": limit, "pad_token_id": pad, "eos_token_id": eos}
        model.generate(ids, **settings, **sampling.PLAIN)

    def by_decode(prefixes):
        sampling.continued(model, tokenizer, prefixes, CPU.max_completion_length, **sampling.PLAIN)

    for what, rows in {"rollouts": prompts, "Monte Carlo": prefixes}.items():
        found = [(seconds(by_generate, rows), seconds(by_decode, rows)) for _ in range(repeats + 1)]
        told(f"sampling, {len(rows)} rows ({what})", *map(list, zip(*found[1:])))


def rounds_of(micro_batch: int, own: bool, rounds: int, root: Path, seed: int) -> dict[str, float]:
    """Median seconds of each part of a round."""
    p = replace(CPU, rounds=rounds, micro_batch=micro_batch)
    run = Run(p, seed, root=root / f"{micro_batch}-{own}", row=method("oracle-sequence"))
    settings = sampling.Decoding.own_settings if own else lambda trainer: None
    with patch.object(sampling.Decoding, "own_settings", settings):
        rows = load_json(run.policy.path / "curves.json")[1:]
    return {part: statistics.median(row[f"seconds_{part}"] for row in rows) for part in PARTS}


def main(rounds: int = 8, repeats: int = 3) -> None:
    torch.set_num_threads(1)
    variants = {
        "ours": (CPU.micro_batch, True),
        "TRL's generation": (CPU.micro_batch, False),
        "TRL's generation, one pass per update": (ONE_PASS, False),
    }
    found = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as root:
        for repeat in range(repeats):
            for name, settings in variants.items():
                found[name].append(rounds_of(*settings, rounds, Path(root), repeat))
    print(f"\n{'':44}{'plain (s)':>9}{'ours (s)':>9}{'ratio':>9}")
    sampled(5 * repeats)
    ours = found.pop("ours")
    for part in PARTS:
        told(f"round: {part}", *([row[part] for row in rows] for rows in (found["TRL's generation"], ours)))
    for name, rows in found.items():
        told(f"round: {name}", *([sum(row.values()) for row in each] for each in (rows, ours)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
