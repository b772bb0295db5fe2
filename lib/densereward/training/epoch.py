"""One epoch over labelled answers, as discriminator, process model and FIGA train alike: batches of like length, linear
decay after a short warm-up, as many answers a batch as a reward model's pairs hold."""

from pathlib import Path

from datasets import Dataset
from transformers import TrainingArguments

from densereward.profiles import Profile
from densereward.training.settings import common


def with_lengths(rows: Dataset) -> Dataset:
    """Rows with the column by which `one_epoch` puts like lengths together: tokens of `completion_ids`."""
    return rows.add_column("length", [len(ids) for ids in rows["completion_ids"]])


def one_epoch(folder: Path, model, seed: int, rows: Dataset, profile: Profile, learning_rate: float):
    """Arguments of transformers' Trainer for one epoch over `with_lengths` rows, its loss logged about eight times.
    Random: the order of the rows (seed)."""
    size = 2 * profile.rm_batch
    steps = max(1, len(rows) // size)
    return TrainingArguments(
        **common(folder, model, seed),
        per_device_train_batch_size=size,
        num_train_epochs=1,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=min(30, steps // 5),
        logging_steps=max(1, steps // 8),
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length",
    )
