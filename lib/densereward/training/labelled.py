"""One epoch over labelled answers, as discriminator, process model and FIGA train alike: batches of like length, the
schedule of `settings.one_epoch`. As many answers a batch as a reward model's pairs hold is what the study asks for.

Book: tlcr.md
"""

from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import TokenClassifierOutput

from densereward.seeding import seed_everything
from densereward.text.models import TokenScorer
from densereward.text.tokens import pad_batch
from densereward.training.settings import common, one_epoch, save, watched


class Labelled(TokenScorer):
    """A `TokenScorer` whose forward returns its `loss` of every token's score and `labels`, both [B, L], and the
    scores."""

    loss: Callable
    accepts_loss_kwargs = False  # the loss is a mean; else Trainer would take it for a share of one, and sum passes

    def forward(self, input_ids, attention_mask, labels=None, **unused) -> TokenClassifierOutput:
        scores = self.token_scores(input_ids, attention_mask)  # [B, L]
        return TokenClassifierOutput(loss=None if labels is None else self.loss(scores, labels), logits=scores)


def collate(rows: list[dict], pad_id: int, no_label: float) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask, labels [B, L] of rows of prompt_ids, completion_ids, labels (one per completion
    token), padded on the right; labels are `no_label` on prompts and padding."""
    input_ids, attention_mask = pad_batch([row["prompt_ids"] + row["completion_ids"] for row in rows], pad_id)
    labels = torch.full(input_ids.shape, no_label)
    for i, row in enumerate(rows):
        start = len(row["prompt_ids"])
        labels[i, start : start + len(row["labels"])] = torch.tensor(row["labels"])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def train(
    what: str,
    model,
    tokenizer,
    rows: Dataset,
    collator: Callable,
    folder: Path,
    seed: int,
    batch: int,
    learning_rate: float,
    kind=Trainer,
    further: dict | None = None,
    **kept,
) -> list[dict]:
    """Train `model` in place on rows with `completion_ids`, `batch` answers an update, and save it; what the trainer
    logged with each loss, and `responses`, answers seen until then. `what` is what progress calls it, `kind` the
    trainer, `kept` attributes of it, `further` fields of its config. Random: the order of the answers (seed)."""
    seed_everything(seed)
    rows = rows.add_column("length", [len(ids) for ids in rows["completion_ids"]])
    args = TrainingArguments(
        **common(folder, model, seed) | one_epoch(len(rows), batch, learning_rate, **further or {}),
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length",
    )
    trainer = kind(model=model, args=args, train_dataset=rows, data_collator=collator, processing_class=tokenizer)
    for name, value in kept.items():
        setattr(trainer, name, value)
    watched(trainer, what).train()
    save(trainer, folder)
    return [{**row, "responses": row["step"] * batch} for row in trainer.state.log_history if "loss" in row]
