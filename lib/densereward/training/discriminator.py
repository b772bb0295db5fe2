"""TLCR's discriminator: a token scorer trained to tell tokens that a reviser brings in from those that it takes out.

Follows tlcr Section 4.2: binary cross-entropy with soft labels (Eq. 6), 1 for positive, 0 for negative, .5 for neutral
tokens. One logit in place of the released code's two, which is the same model; as in that code the loss is averaged
over the tokens of each response, then over responses.

Its logit at token t is the log-odds that the token is positive, so rewards (`log_odds.py`) read it as any scorer is
read, at every token. Left out: the paper's own learning rate and schedule for a model of 7 billion parameters.

Book: tlcr.md
"""

from functools import partial
from pathlib import Path

import torch
from datasets import Dataset

from densereward.labels.labeling import NO_LABEL
from densereward.progress import progress
from densereward.text.models import TokenScorer
from densereward.training import labelled

NEUTRAL_BAND = (0.4, 0.6)  # probabilities in it count as neutral: tlcr's confidence of .6


def soft_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """tlcr Eq. 6 of logits and labels [B, L] (0, .5, 1, or NO_LABEL): mean over each response's tokens, then over
    responses; one without any label counts 0."""
    mask = (labels != NO_LABEL).to(logits.dtype)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    losses = loss(logits, labels.clamp(min=0), reduction="none")
    return ((losses * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


class Discriminator(labelled.Labelled):
    """A `TokenScorer` whose forward returns the loss of Eq. 6 for `labels` [B, L], and the log-odds of every token."""

    loss = staticmethod(soft_loss)


def as_scorer(net: Discriminator) -> TokenScorer:
    """The same weights as a scorer of responses: the sum of their tokens' log-odds."""
    scorer = TokenScorer(net.config)
    scorer.load_state_dict(net.state_dict())
    return scorer.to(net.device)


collate = partial(labelled.collate, no_label=NO_LABEL)


def train_discriminator(
    net: Discriminator, tokenizer, train: Dataset, folder: Path, seed: int, batch: int, learning_rate: float, **further
) -> list[dict]:
    """Train `net` in place for one epoch on rows of `labeling.labelled`, `batch` responses an update; save it, return
    its curve of losses. `further` fields of the trainer's config replace ours. Random: the order
    of the responses (batches hold like lengths), by `seed`."""
    rows = train.select_columns(["prompt_ids", "completion_ids", "labels"])
    collator = partial(collate, pad_id=tokenizer.pad_token_id)
    log = labelled.train(
        "discriminator", net, tokenizer, rows, collator, folder, seed, batch, learning_rate, further=further
    )
    return [{"responses": row["responses"], "loss": float(row["loss"])} for row in log]


@torch.no_grad()
def probabilities(net: TokenScorer, rows: Dataset, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """D(a_t | x, a_<t) of every labelled token of the rows, and its label, both [N]."""
    net.eval()
    found, labels, size = [], [], 256
    for start in progress("probabilities, batches", range(0, len(rows), size)):
        batch = collate(rows.select(range(start, min(start + size, len(rows)))).to_list(), pad_id)
        batch = {name: x.to(net.device) for name, x in batch.items()}
        real = batch["labels"] != NO_LABEL
        found.append(net.token_scores(batch["input_ids"], batch["attention_mask"])[real].sigmoid().cpu())
        labels.append(batch["labels"][real].cpu())
    return torch.cat(found), torch.cat(labels)


def as_labels(p: torch.Tensor) -> torch.Tensor:
    """The label that probabilities stand for: neutral within NEUTRAL_BAND, else the likelier class."""
    low, high = NEUTRAL_BAND
    return torch.where(p >= high, 1.0, torch.where(p <= low, 0.0, 0.5))


def discriminator_metrics(p: torch.Tensor, labels: torch.Tensor, bins: int = 10) -> dict:
    """What is reported of probabilities p and labels, both [N], on held-out tokens: accuracy over the three labels
    beside the share of the largest; accuracy on tokens that are not neutral by p > 1/2, beside theirs; expected
    calibration error and the points of its reliability curve, on tokens that are not neutral.

    The paper reports an accuracy of 81.4% and does not say how neutral tokens count (Section 7.2)."""
    edited, shares = labels != 0.5, [float((labels == x).float().mean()) for x in (0.0, 0.5, 1.0)]
    found = {
        "token_accuracy": float((as_labels(p) == labels).float().mean()),
        "token_majority": max(shares),
        "negative": shares[0],
        "neutral": shares[1],
        "positive": shares[2],
    }
    if not edited.any():
        return found
    q, y = p[edited], labels[edited]
    which = (q * bins).long().clamp(max=bins - 1)
    n = torch.bincount(which, minlength=bins).float()
    said, true = (torch.bincount(which, weights=x, minlength=bins) / n.clamp(min=1) for x in (q, y))
    curve = [{"said": float(s), "true": float(t), "tokens": int(k)} for s, t, k in zip(said, true, n, strict=True) if k]
    return found | {
        "edited_accuracy": float(((q > 0.5) == (y > 0.5)).float().mean()),
        "edited_majority": max(float(y.mean()), 1 - float(y.mean())),
        "ece": float((n / n.sum() * (said - true).abs()).sum()),
        "reliability": curve,
    }
