"""A process reward model: a token scorer that says what each step of an answer is worth.

Follows adaptive-mask Appendix A in kind: supervised on scores of single steps, from the SFT trunk. There it is a
class per step (good, neutral, bad) of annotated real text; here a step has a number, its credit, so the loss is the
squared error at the steps' last tokens, averaged over each answer's steps, then over answers (as tlcr's loss here).

Left out: two epochs (one, as every scorer of this study has), and labels by a model in place of annotators.

Book: process_outcome.md
"""

from functools import partial
from pathlib import Path

import torch
from datasets import Dataset

from densereward.training import labelled

NO_STEP = float("nan")  # the label of tokens at which no step is read


def step_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Squared error of scores [B, L] at the steps of labels [B, L] (credit, or NO_STEP), in credit squared: mean over
    each answer's steps, then over answers; one without any step counts 0."""
    step = ~labels.isnan()
    errors = torch.where(step, scores - labels.nan_to_num(), 0.0) ** 2
    return (errors.sum(1) / step.sum(1).clamp(min=1)).mean()


class ProcessModel(labelled.Labelled):
    """A `TokenScorer` whose forward returns the loss for `labels` [B, L] (credit, or NO_STEP), and every token's
    score."""

    loss = staticmethod(step_loss)


collate = partial(labelled.collate, no_label=NO_STEP)


def train_process(
    net: ProcessModel, tokenizer, train: Dataset, folder: Path, seed: int, batch: int, learning_rate: float
) -> None:
    """Train `net` in place for one epoch on rows of prompt_ids, completion_ids, labels (credit at a step's last token,
    NO_STEP elsewhere), `batch` answers an update, and save it. Random: the order of the answers (batches hold like
    lengths), by `seed`."""
    collator = partial(collate, pad_id=tokenizer.pad_token_id)
    labelled.train("process model", net, tokenizer, train, collator, folder, seed, batch, learning_rate)
