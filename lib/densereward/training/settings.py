"""Training arguments that every stage shares."""

import sys
from pathlib import Path

import torch


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
        "disable_tqdm": not sys.stderr.isatty(),
        "dataloader_pin_memory": on_gpu,
        "adam_beta2": 0.95,  # segment-ppo Appendix D: .9 and .95
        "max_grad_norm": 1.0,  # segment-ppo Tables 8 and 9
    }
