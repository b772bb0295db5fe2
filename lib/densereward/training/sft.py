"""Supervised fine-tuning with TRL's SFTTrainer: the model that is policy, reference, segmenter and trunk of every
scorer.

Book: reward_models.md
"""

from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from densereward.seeding import seed_everything
from densereward.training.settings import common, watched


def train_sft(
    model, tokenizer, dataset: Dataset, folder: Path, batch: int, epochs: float, learning_rate: float, seed: int = 0
) -> list[dict]:
    """Fine-tune `model` in place on rows of input_ids and completion_mask; save it with its tokenizer; return the loss
    curve."""
    seed_everything(seed)
    args = SFTConfig(
        **common(folder, model, seed),
        per_device_train_batch_size=batch,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        logging_steps=25,
        train_sampling_strategy="group_by_length",
        completion_only_loss=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": False},
    )
    trainer = SFTTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer)
    watched(trainer, "SFT").train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return [{"step": row["step"], "loss": float(row["loss"])} for row in trainer.state.log_history if "loss" in row]
