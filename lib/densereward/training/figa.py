"""FIGA: fine-tuning on revisions with a weight for every token, in place of a reward.

Follows Guo et al. 2024 (arXiv 2311.04072), the baseline of tlcr Table 1: tokens that the reviser brings in are learnt
with weight alpha, tokens that it takes out are unlearnt with weight beta, what both answers share counts gamma. The
three weights are the defaults of its released code, as is the mean over the tokens that count (of a process).

Unlearning has no bound: the loss falls for ever as an unwanted token's probability goes to 0. The released code
unlearns a token only while its loss lies in a window, .6 to 1 nat; `window` is that, as an option.

Left out: in that code EOS of a revised answer always counts alpha; its model of 7 billion parameters runs five epochs,
ours one, as every reader of pairs.

Book: tlcr.md
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer

from densereward.labels.labeling import NEGATIVE, POSITIVE
from densereward.text.logprobs import logprobs_and_entropy
from densereward.text.tokens import collate_prompt_completion, joined
from densereward.training import labelled


def collate(rows: list[dict], pad_id: int, alpha: float, beta: float, gamma: float) -> dict[str, torch.Tensor]:
    """`tokens.collate_prompt_completion` of rows of `labeling.labelled`, and `weights` [B, T], zero on padding: alpha
    for positive, -beta for negative, gamma for neutral tokens."""
    batch = collate_prompt_completion(rows, pad_id)
    labels = pad_sequence([torch.tensor(row["labels"]) for row in rows], batch_first=True)
    weights = torch.where(labels == POSITIVE, alpha, torch.where(labels == NEGATIVE, -beta, gamma))
    return batch | {"weights": weights * batch["completion_mask"]}


def weighted_loss(logps: torch.Tensor, weights: torch.Tensor, window: Sequence[float] | None = None) -> torch.Tensor:
    """- sum of w log p over the tokens [B, T] of a batch, per token that has a weight. With a `window` (least and
    greatest loss, nats), a token with a negative weight has it only where its -log p lies within."""
    if window is not None:
        least, most = window
        loss = -logps.detach()
        weights = weights.masked_fill((weights < 0) & ((loss < least) | (loss > most)), 0)
    return -(weights * logps).sum() / (weights != 0).sum().clamp(min=1)


class FigaTrainer(Trainer):
    """transformers' trainer on batches of `collate`. Its log says of the batches since the last: mean log-probability
    (nats) of the positive and of the negative tokens."""

    window, seen = None, 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        logps, _ = logprobs_and_entropy(model, *joined(inputs), inputs["completion_ids"].size(1))
        chosen = torch.stack([inputs["weights"] > 0, inputs["weights"] < 0])  # [2, B, T]
        sums = torch.stack([(chosen * logps.detach()).sum((1, 2)), chosen.sum((1, 2))])
        self.seen = self.seen + sums  # [sum and number, positive and negative]
        return weighted_loss(logps, inputs["weights"], self.window)

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            sums, numbers = self.accelerator.reduce(self.seen, reduction="sum")
            means = (sums / numbers.clamp(min=1)).tolist()
            logs, self.seen = logs | dict(zip(("positive", "negative"), means)), 0
        super().log(logs, *args, **kwargs)


def train_figa(
    model,
    tokenizer,
    train: Dataset,
    folder: Path,
    seed: int,
    batch: int,
    learning_rate: float,
    alpha: float = 1.0,
    beta: float = 0.5,
    gamma: float = 0.0,
    window: Sequence[float] | None = None,
    **further,
) -> list[dict]:
    """Train `model` in place for one epoch on rows of `labeling.labelled`, `batch` answers an update, and save it;
    return its curve of the loss and of mean log-probabilities (nats per token). `further` fields of the trainer's
    config replace ours. Random: the order of the answers (batches hold like lengths), by `seed`."""
    rows = train.select_columns(["prompt_ids", "completion_ids", "labels"])
    collator = partial(collate, pad_id=tokenizer.pad_token_id, alpha=alpha, beta=beta, gamma=gamma)
    how = (folder, seed, batch, learning_rate, FigaTrainer, further)
    log = labelled.train("FIGA", model, tokenizer, rows, collator, *how, window=window)
    names = ("loss", "positive", "negative")
    return [{"responses": row["responses"]} | {name: float(row[name]) for name in names} for row in log]
