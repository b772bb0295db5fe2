"""A few answers close up: what a notebook needs to show segments, scores and rewards token by token.

Works on any dataset: the answers are those that people (or the testbed's labels) preferred.
"""

from pathlib import Path

import torch
from datasets import Dataset, load_from_disk

from densereward import dense, rewards, sampling
from densereward.methods import Method
from densereward.models import TokenScorer, load_causal_lm
from densereward.pipeline import Run, calibration_scores, to_device
from densereward.seeding import generator
from densereward.stages import Artifact


def answers(prefs: Artifact, n: int, shortest: int = 16, longest: int = 64) -> Dataset:
    """The first n test pairs whose chosen answer has `shortest` to `longest` tokens; any others where those are too few."""
    rows = load_from_disk(prefs.path / "test")
    fit = [i for i, ids in enumerate(rows["chosen_completion_ids"]) if shortest <= len(ids) <= longest]
    rest = [i for i in range(len(rows)) if i not in set(fit)]
    return rows.select((fit + rest)[:n])


@torch.no_grad()
def batch(folder_of_sft: Path, rows: Dataset):
    """(batch, tokenizer): the chosen answers of tokenised pairs as reward functions take them."""
    model, tokenizer = load_causal_lm(folder_of_sft)
    model = to_device(model).eval()
    return sampling.batch_of(model, tokenizer, rows["prompt_ids"][:], rows["chosen_completion_ids"][:]), tokenizer


def fit(run: Run, row: Method, folder_of_scorer: Path, folder_of_sft: Path, prefs: Artifact) -> tuple:
    """(scores [B, S], mask, normaliser): the calibration scores of a scorer and what is fitted on them."""
    scores, mask = calibration_scores(run, row, folder_of_scorer, folder_of_sft, prefs)
    return scores, mask, rewards.fit_normaliser(scores=scores, segment_mask=mask, **row.normaliser)


@torch.no_grad()
def dense_rewards(run: Run, row: Method, folder_of_scorer: Path, normaliser, batch: dict, tokenizer):
    """(rewards [B, T], segment ids [B, T]) of a batch under a method, as PPO would be given them."""
    net = to_device(TokenScorer.from_pretrained(folder_of_scorer, dtype=torch.float32))
    cut = dense.segment_ids(row, batch, tokenizer, generator(run.seed, "segments", row.name))
    paid = dense.reward_function(row, net, normaliser, tokenizer, generator(run.seed, "segments", row.name))(batch)
    return paid.cpu(), cut.cpu()
