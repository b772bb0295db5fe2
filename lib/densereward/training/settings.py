"""Training arguments that trainers share, and how far a training is.

Book: reward_models.md
"""

from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from densereward.progress import progress


def common(folder: Path, model: torch.nn.Module, seed: int) -> dict:
    """Arguments of any TRL config here: where it runs, and everything that it should not do on the side.

    A tiny model trains in float32 and without gradient checkpointing; one on a GPU in bfloat16 if it was loaded so."""
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(Path(folder) / "trainer"),
        "seed": seed,
        "use_cpu": not on_gpu,
        "bf16": on_gpu and model.dtype == torch.bfloat16,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,  # `watched` says how far it is, in a log file too
        "dataloader_pin_memory": on_gpu,
        "adam_beta2": 0.95,  # segment-ppo Appendix D: .9 and .95
        "max_grad_norm": 1.0,  # segment-ppo Tables 8 and 9
    }


def one_epoch(rows: int, batch: int, learning_rate: float) -> dict:
    """Arguments of any config for one epoch over so many rows: linear decay after a short warm-up (ours, in no paper),
    the loss logged about eight times."""
    steps = max(1, rows // batch)
    return {
        "per_device_train_batch_size": batch,
        "num_train_epochs": 1,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": min(30, steps // 5),
        "logging_steps": max(1, steps // 8),
    }


class _Updates(TrainerCallback):
    def __init__(self, what: str):
        self.what = what

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = progress(self.what, total=state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar.update()

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar.close()


def watched(trainer: Trainer, what: str) -> Trainer:
    """A trainer of transformers or TRL that says how many of its updates are made, and prints no logs."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Updates(f"{what}, updates"))
    return trainer
