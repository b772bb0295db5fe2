"""A process reward model: a token scorer that says what each step of an answer is worth.

Follows adaptive-mask Appendix A in kind: supervised on scores of single steps, from the SFT trunk. There it is a
class per step (good, neutral, bad) of annotated real text; here a step has a number, its credit, so the loss is the
squared error at the steps' last tokens, averaged over each answer's steps, then over answers (as tlcr's loss here).
`noise` is the deviation of an annotator's error, in credit, drawn once per step and independent of all else.

Left out: two epochs (one, as every scorer of this study has), and labels by a model in place of annotators.
"""

from pathlib import Path

import torch
from datasets import Dataset
from transformers import Trainer
from transformers.modeling_outputs import TokenClassifierOutput

from densereward.models import TokenScorer, scorer_from
from densereward.profiles import Profile
from densereward.seeding import seed_everything
from densereward.testbed.steps import steps
from densereward.testbed.truth import text_of
from densereward.tokens import pad_batch
from densereward.training.epoch import one_epoch, with_lengths
from densereward.training.settings import watched

NO_STEP = float("nan")  # the label of tokens at which no step is read


class ProcessModel(TokenScorer):
    """A `TokenScorer` whose forward returns the loss for `labels` [B, L] (credit, or NO_STEP), and every token's
    score."""

    def forward(self, input_ids, attention_mask, labels=None, **unused) -> TokenClassifierOutput:
        scores = self.token_scores(input_ids, attention_mask)  # [B, L]
        return TokenClassifierOutput(loss=None if labels is None else step_loss(scores, labels), logits=scores)


def from_policy(model) -> ProcessModel:
    """A process model on a causal LM's trunk, with a fresh head. Random: torch's global state."""
    start = scorer_from(model, aggregate="sum")
    net = ProcessModel(start.config)
    net.load_state_dict(start.state_dict())
    return net.to(model.dtype)


def step_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Squared error of scores [B, L] at the steps of labels [B, L] (credit, or NO_STEP), in credit squared: mean over
    each answer's steps, then over answers."""
    step = ~labels.isnan()
    errors = torch.where(step, scores - labels.nan_to_num(), 0.0) ** 2
    return (errors.sum(1) / step.sum(1)).mean()


def labelled(rows: Dataset, tokenizer, noise: float, draw: torch.Generator) -> Dataset:
    """Answers with a label per token, of one side of each preference pair, chosen or rejected at even odds: columns
    prompt_ids, completion_ids, labels (credit with noise at steps, NO_STEP elsewhere). Random: `draw`. ValueError for
    negative noise."""
    if noise < 0:
        raise ValueError(f"noise is {noise}; give the deviation of a step's label in credit, 0 or more")
    side = torch.rand(len(rows), generator=draw) < 0.5
    sides = zip(side.tolist(), rows["chosen_completion_ids"][:], rows["rejected_completion_ids"][:], strict=True)
    completions = [chosen if first else rejected for first, chosen, rejected in sides]
    found = steps(tokenizer, [text_of(tokenizer, ids) for ids in rows["prompt_ids"][:]], completions)
    noisy = found.credit + noise * torch.randn(found.credit.shape, generator=draw)
    labels = torch.where(found.ends, noisy, NO_STEP).tolist()
    return Dataset.from_dict(
        {
            "prompt_ids": rows["prompt_ids"][:],
            "completion_ids": completions,
            "labels": [row[: len(ids)] for row, ids in zip(labels, completions, strict=True)],
        }
    )


def collate(rows: list[dict], pad_id: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask, labels [B, L] of rows of `labelled`, padded on the right."""
    input_ids, attention_mask = pad_batch([row["prompt_ids"] + row["completion_ids"] for row in rows], pad_id)
    labels = torch.full(input_ids.shape, NO_STEP)
    for i, row in enumerate(rows):
        start = len(row["prompt_ids"])
        labels[i, start : start + len(row["labels"])] = torch.tensor(row["labels"])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def train_process(net: ProcessModel, tokenizer, train: Dataset, profile: Profile, folder: Path, seed: int) -> None:
    """Train `net` in place for one epoch on rows of `labelled` and save it.

    As many answers a batch as a reward model's pairs hold, at the profile's reward-model learning rate. Random: the
    order of the answers (batches hold like lengths), by `seed`."""
    seed_everything(seed)
    rows = with_lengths(train)
    args = one_epoch(folder, net, seed, rows, profile, profile.rm_learning_rate)
    trainer = Trainer(
        model=net,
        args=args,
        train_dataset=rows,
        data_collator=lambda batch: collate(batch, tokenizer.pad_token_id),
        processing_class=tokenizer,
    )
    watched(trainer, "process model").train()
    net.save_pretrained(folder)
