"""Supervised fine-tuning with TRL's SFTTrainer: the model that is policy, reference, segmenter and trunk of every
scorer.

Book: reward_models.md
"""

from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from densereward.seeding import seed_everything
from densereward.training.settings import batches, common, save, watched


def train_sft(
    model,
    tokenizer,
    dataset: Dataset,
    folder: Path,
    batch: int,
    epochs: float,
    learning_rate: float,
    seed: int = 0,
    **further,
) -> list[dict]:
    """Fine-tune `model` in place on rows of input_ids and completion_mask, `batch` an update; save it with its
    tokenizer; return the loss curve. `further` fields of TRL's config replace ours."""
    seed_everything(seed)
    ours = {
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 50,
        "logging_steps": 25,
        "train_sampling_strategy": "group_by_length",
        "completion_only_loss": True,
        "max_length": None,
    }
    sizes = batches(batch, further.get("per_device_train_batch_size"))
    args = SFTConfig(**common(folder, model, seed) | ours | further | sizes)
    trainer = SFTTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer)
    watched(trainer, "SFT").train()
    save(trainer, folder)
    tokenizer.save_pretrained(folder)
    return [{"step": row["step"], "loss": float(row["loss"])} for row in trainer.state.log_history if "loss" in row]
