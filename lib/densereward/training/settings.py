"""Training arguments that trainers share, and how far a training is.

What is launched on several processes (`launch.py`) is told so by WORLD_SIZE, as every launcher does.

Book: reward_models.md
"""

import math
import os
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from densereward.progress import progress


def common(folder: Path, model: torch.nn.Module, seed: int) -> dict:
    """Arguments of any TRL config here: where it runs, and everything that it should not do on the side.

    A tiny model trains in float32 and without gradient checkpointing; one on a GPU in bfloat16 if it was loaded so."""
    on_gpu, launched = torch.cuda.is_available(), "WORLD_SIZE" in os.environ
    return {
        "output_dir": str(Path(folder) / "trainer"),
        "seed": seed,
        "use_cpu": not on_gpu and "ACCELERATE_USE_DEEPSPEED" not in os.environ,  # it would switch that off, silently
        "ddp_backend": None if on_gpu or not launched else "gloo",
        "bf16": on_gpu and model.dtype == torch.bfloat16,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,  # `watched` says how far it is, in a log file too
        "dataloader_pin_memory": on_gpu,
        "adam_beta2": 0.95,  # segment-ppo Appendix D: .9 and .95
        "max_grad_norm": 1.0,  # segment-ppo Tables 8 and 9
    }


def processes() -> int:
    """How many processes train together: what a launcher says, or one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def batches(batch: int, micro: int | None = None) -> dict:
    """Arguments of any config for `batch` rows an update over all processes, at most `micro` of them a pass. ValueError
    where the processes do not divide the batch."""
    n = processes()
    if batch % n:
        raise ValueError(f"an update of {batch} rows does not split over {n} processes; give a multiple")
    share = batch // n
    size = math.gcd(share, micro or share)
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": share // size}


def one_epoch(rows: int, batch: int, learning_rate: float, **further) -> dict:
    """Arguments of any config for one epoch over so many rows, `batch` an update: linear decay after a short warm-up
    (ours, in no paper), the loss logged about eight times. `further` fields replace these; of them
    `per_device_train_batch_size` is a pass."""
    steps = max(1, rows // batch)
    given = {
        "num_train_epochs": 1,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": min(30, steps // 5),
        "logging_steps": max(1, steps // 8),
    }
    return given | further | batches(batch, further.get("per_device_train_batch_size"))


def save(trainer: Trainer, folder: Path, part: str = "") -> None:
    """`save_pretrained` of a trainer's model, or of its child `part`, whatever engine holds it: ZeRO-3's weights are
    gathered, and one process writes."""
    weights, model = trainer.accelerator.get_state_dict(trainer.model_wrapped), trainer.model
    if trainer.is_world_process_zero():
        if part:
            of = f"{part}."
            weights = {name.removeprefix(of): x for name, x in weights.items() if name.startswith(of)}
            model = getattr(model, part)
        model.save_pretrained(folder, state_dict=weights)
    trainer.accelerator.wait_for_everyone()


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
