"""Dense rewards on today's TRL: a reward per token in PPO, an advantage per segment in GRPO, a mask per token in DPO.

    python examples/dense_rewards_on_trl.py

Nothing here but the library `densereward` and TRL; no study, no testbed. A tiny model with random weights stands where
yours would; the rewards are toys, and so each task prints what its policy learnt of them.
"""

import tempfile

import torch
from datasets import Dataset
from trl import DPOConfig, GRPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from densereward.reward.segments import segment, segment_ends
from densereward.text.models import build_tokenizer, load_causal_lm, scorer_from, tiny_llama
from densereward.text.tokens import tokenize_pairs
from densereward.training.masked import MaskedCollator, mask_pairs
from densereward.training.ppo import DensePPOConfig, DensePPOTrainer
from densereward.training.preference import TokenisedDPOTrainer
from densereward.training.step_advantages import DenseGRPOTrainer

WORDS = ["red", "green", "blue", "grey"]
TOKENIZER = build_tokenizer([f"{a} and {b} and {c}" for a in WORDS for b in WORDS for c in WORDS], 300)
PROMPTS = Dataset.from_list([{"prompt": [{"role": "user", "content": f"{a} {b}"}]} for a in WORDS for b in WORDS])
BLUE = torch.tensor([i for i in range(len(TOKENIZER)) if "blue" in TOKENIZER.decode([i])])


def save_model(folder: str) -> None:
    torch.manual_seed(0)
    tiny_llama(TOKENIZER, width=32, layers=1).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)


def model(folder: str):
    return load_causal_lm(folder)[0]


def common(folder: str) -> dict:
    plain = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True}
    quiet = {"save_strategy": "no", "logging_strategy": "no"}
    return plain | quiet | {"output_dir": f"{folder}/out", "learning_rate": 1e-2}


# [ppo]
def reward_per_token(batch: dict) -> torch.Tensor:
    """Rewards [B, T]: 1 for each token that says blue, paid where it is said."""
    return torch.isin(batch["completion_ids"], BLUE).float() * batch["completion_mask"]


def ppo(folder: str) -> list[float]:
    policy = model(folder)
    trainer = DensePPOTrainer(
        policy,
        reward_fn=reward_per_token,  # batch -> rewards [B, T]; entropies are in it too
        ref_model=model(folder),
        critic=scorer_from(policy),
        args=DensePPOConfig(
            **common(folder), per_device_train_batch_size=16, max_completion_length=12,
            max_steps=24, kl_coef=0.01, critic_learning_rate=1e-2,
        ),
        train_dataset=PROMPTS,
        processing_class=TOKENIZER,
    )  # fmt: skip
    trainer.train()
    return [row["proxy_reward"] for row in trainer.curves]


# [/ppo]


# [grpo]
def reward_per_segment(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(rewards [B, T], ends of segments [B, T]): entropy cuts, blues are paid at the end."""
    mask = batch["completion_mask"]
    entropies = batch["ref_entropies"]  # [B, T], nats
    ids = segment(kind="entropy", mask=mask, entropies=entropies, cutoff=5.5)
    blue = torch.isin(batch["completion_ids"], BLUE).float() * mask
    sums = torch.zeros_like(blue).scatter_add(1, ids.clamp(min=0), blue)  # [B, S]
    ends = segment_ends(ids).bool()
    return torch.where(ends, sums.gather(1, ids.clamp(min=0)), 0.0), ends


def grpo(folder: str) -> list[float]:
    noted: list[float] = []

    def paid(batch: dict):
        rewards, ends = reward_per_segment(batch)
        noted.append(rewards.sum(1).mean().item())
        return rewards, ends

    trainer = DenseGRPOTrainer(
        model(folder),
        reward_fn=paid,
        reward_funcs=[],  # metrics of TRL's kind, never trained on
        args=GRPOConfig(
            **common(folder), per_device_train_batch_size=16, num_generations=4,
            max_completion_length=12, max_steps=24, beta=0.01,
        ),
        train_dataset=PROMPTS,
        processing_class=TOKENIZER,
    )  # fmt: skip
    trainer.train()
    return noted


# [/grpo]


# [dpo]
def dpo(folder: str) -> dict:
    """Masked DPO: of chosen answers only tokens with a reward above the mean are learnt, of
    rejected ones the others. Returns what the mask left (adaptive-mask Eq. 13, 15)."""
    said = {"chosen": "blue and red", "rejected": "grey and red"}
    sides = {side: [{"role": "assistant", "content": text}] for side, text in said.items()}
    texts = [{"prompt": row["prompt"], **sides} for row in PROMPTS]
    pairs, _ = tokenize_pairs(Dataset.from_list(texts), TOKENIZER, 32, 16)

    def paid(ids: list[int]) -> list[float]:
        return torch.isin(torch.tensor(ids), BLUE).float().tolist()

    rewards = {side: [paid(ids) for ids in pairs[f"{side}_completion_ids"]] for side in said}
    pairs, counts = mask_pairs(pairs, rewards)
    rows = pairs.rename_columns({f"{side}_completion_ids": f"{side}_ids" for side in said})
    trainer = TokenisedDPOTrainer(
        model=model(folder),
        ref_model=model(folder),
        args=DPOConfig(
            **common(folder), max_steps=8, max_length=None, remove_unused_columns=False,
        ),
        data_collator=MaskedCollator(
            DataCollatorForPreference(pad_token_id=TOKENIZER.pad_token_id),
        ),
        train_dataset=rows,
        processing_class=TOKENIZER,
    )  # fmt: skip
    trainer.train()
    return counts


# [/dpo]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder)
        for name, curve in (("PPO", ppo(folder)), ("GRPO", grpo(folder))):
            print(f"{name}: blue is said {curve[0]:.2f} times per answer at first, {curve[-1]:.2f} times at the end")
        counts = dpo(folder)
        for side in ("chosen", "rejected"):
            print(f"DPO: of {counts[side]['tokens']} tokens of {side} answers {counts[side]['kept']} are learnt from")


if __name__ == "__main__":
    main()
