"""Trains the PPO trainer for four rollout batches and writes what it did: `train_ppo.py MODELS OUT BATCH [CHECKPOINT]`.

Started plainly it is the one-process run, under a launcher the distributed one. Responses are sampled, then replaced by
some that depend on the prompt alone, so that the runs can be compared. BATCH counts prompts per process.
"""

import json
import os
import sys

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from densereward.text.models import TokenScorer
from densereward.training.ppo import DensePPOConfig, DensePPOTrainer

models, out, batch_size, checkpoint = sys.argv[1], sys.argv[2], int(sys.argv[3]), (sys.argv[4:] or [None])[0]
use_cpu = "ACCELERATE_USE_DEEPSPEED" not in os.environ  # it would switch DeepSpeed off, silently


def reward_fn(batch):
    return (batch["completion_ids"] % 7 - 3.0) * batch["completion_mask"]


policy, ref = (AutoModelForCausalLM.from_pretrained(f"{models}/{name}") for name in ("policy", "ref"))
texts = [word * n for word in ("cat ", "dog ", "mat ", "on ") for n in (1, 2, 3, 4)]
trainer = DensePPOTrainer(
    policy,
    reward_fn=reward_fn,
    ref_model=ref,
    critic=TokenScorer.from_pretrained(f"{models}/critic"),
    args=DensePPOConfig(
        out,
        per_device_train_batch_size=batch_size,
        max_completion_length=10,
        max_steps=8,
        num_iterations=2,
        learning_rate=2e-4,
        critic_learning_rate=2e-3,
        kl_coef=0.1,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        max_grad_norm=0.0,
        save_strategy="steps",
        save_steps=4,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ and not torch.cuda.is_available() else None,
        use_cpu=use_cpu,
    ),
    train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts]),
    processing_class=AutoTokenizer.from_pretrained(f"{models}/policy"),
)
sample = trainer._generate_single_turn


def fixed_responses(prompt_ids, *rest):
    sampled, _ = sample(prompt_ids, *rest)
    assert len(sampled) == len(prompt_ids) and all(sampled)
    seeds = [sum(ids) for ids in prompt_ids]
    made = [torch.randint(5, 270, (3 + s % 7,), generator=torch.Generator().manual_seed(s)) for s in seeds]
    return [ids.tolist() for ids in made], None


trainer._generate_single_turn = fixed_responses
trainer.train(resume_from_checkpoint=checkpoint)
trainer.save_model(f"{out}/final")
if trainer.is_world_process_zero():
    facts = {
        "engine": type(trainer.model_wrapped).__name__,
        "processes": trainer.accelerator.num_processes,
        "curves": trainer.curves,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
    }
    with open(f"{out}/facts.json", "w") as file:
        json.dump(facts, file)
