"""Policies trained on preference pairs without a reward model: DPO, by TRL's own trainer.

The baseline of segment-ppo Table 3; masked, adaptive-mask's Eq. 15. Left out: everything that TRL's DPOTrainer offers
beyond its default loss.

Book: segment_ppo_tables.md
"""

from pathlib import Path

from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from densereward.seeding import seed_everything
from densereward.training import masked
from densereward.training.settings import common, one_epoch, save, watched


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer on rows of prompt_ids, chosen_ids, rejected_ids as they are: the very tokens, truncated alike, that
    reward models learn from."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        return dataset


def train_dpo(
    model,
    reference,
    tokenizer,
    pairs: Dataset,
    folder: Path,
    seed: int,
    batch: int,
    learning_rate: float,
    beta: float,
    **further,
) -> list[dict]:
    """Train `model` in place for one epoch on rows of `tokens.tokenize_pairs`, `batch` pairs an update, and save
    it; return its curve of loss and accuracy. `further` fields of TRL's config replace ours.

    Rows with the columns of `masked.mask_pairs` are masked. Random: the order of the pairs, by `seed`."""
    seed_everything(seed)
    masks = [name for name in masked.COLUMNS if name in pairs.column_names]
    rows = pairs.select_columns(["prompt_ids", "chosen_completion_ids", "rejected_completion_ids", *masks])
    rows = rows.rename_columns({"chosen_completion_ids": "chosen_ids", "rejected_completion_ids": "rejected_ids"})
    args = DPOConfig(
        **common(folder, model, seed) | one_epoch(len(rows), batch, learning_rate, **further),
        beta=beta,
        max_length=None,
        remove_unused_columns=not masks,
    )
    collator = masked.MaskedCollator(DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id))
    trainer = TokenisedDPOTrainer(
        model=model,
        ref_model=reference,
        args=args,
        data_collator=collator if masks else None,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    watched(trainer, "DPO").train()
    save(trainer, folder)
    log = [row for row in trainer.state.log_history if "loss" in row]
    return [
        {
            "pairs": row["step"] * batch,
            "loss": float(row["loss"]),
            "accuracy": float(row["rewards/accuracies"]),
        }
        for row in log
    ]
