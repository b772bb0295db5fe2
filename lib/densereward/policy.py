"""The last training stage: a row of `methods.py` and its scorer in, a policy with its curves out; PPO or DPO."""

import math
from dataclasses import asdict
from pathlib import Path

import torch
from datasets import concatenate_datasets, load_from_disk
from transformers import TrainerCallback

from densereward import dense, rewards
from densereward.methods import Method
from densereward.models import TokenScorer, load_causal_lm, scorer_from
from densereward.pipeline import DATA, SCORING, Run, calibration_scores, inputs_of, known, own_code, to_device
from densereward.seeding import derive, generator, seed_everything
from densereward.stages import Artifact, save_json, stage
from densereward.testbed import truth
from densereward.tokens import tokenize_prompt
from densereward.training import padding, ppo, preference, settings


def train_policy(
    run: Run, method: Method, folder_of_sft: Path, prefs: Artifact, folder_of_scorer: Path | None
) -> Artifact:
    """PPO by one row of `methods.py`: policy, critic after its warm-up, curves, normaliser. Random: rollouts, prompt
    order (seed)."""
    p = run.profile
    fields = (
        "rounds",
        "rollouts",
        "minibatches",
        "ppo_epochs",
        "actor_learning_rate",
        "critic_learning_rate",
        "kl_coef",
        "lam",
        "critic_warmup",
        "max_prompt_length",
        "max_completion_length",
    )

    def build_policy(folder: Path) -> None:
        policy, tokenizer = load_causal_lm(folder_of_sft)
        reference, _ = load_causal_lm(folder_of_sft)
        seed_everything(derive(run.seed, "ppo"))
        critic = scorer_from(policy)
        if method.scorer == "oracle":
            returns = run.profile.world.returns
            unit = truth.return_deviation(tokenizer, load_from_disk(prefs.path / "preference"), returns)
            save_json(folder / "unit.json", unit)
            reward_fn = truth.oracle_rewards(method, tokenizer, returns, unit, generator(run.seed, "oracle noise"))
        else:
            scores, segment_mask = calibration_scores(run, method, folder_of_scorer, folder_of_sft, prefs)
            normaliser = rewards.fit_normaliser(scores=scores, segment_mask=segment_mask, **method.normaliser)
            save_json(folder / "normaliser.json", normaliser.to_dict())
            net = to_device(TokenScorer.from_pretrained(folder_of_scorer, dtype=torch.float32))
            reward_fn = dense.reward_function(
                method, net, normaliser, tokenizer, generator(run.seed, "segments", method.name)
            )
        size = math.gcd(p.micro_batch, p.rollouts // p.minibatches)
        accumulated = p.rollouts // p.minibatches // size
        args = ppo.DensePPOConfig(
            **settings.common(folder, policy, derive(run.seed, "ppo") % 2**31),
            per_device_train_batch_size=size,
            steps_per_generation=p.minibatches * accumulated,
            num_iterations=p.ppo_epochs,
            gradient_accumulation_steps=accumulated,
            max_steps=p.rounds * p.minibatches * p.ppo_epochs,
            max_completion_length=p.max_completion_length,
            learning_rate=p.actor_learning_rate,
            critic_learning_rate=p.critic_learning_rate,
            kl_coef=p.kl_coef,
            lam=p.lam,
            value_clip=method.value_clip,
            critic_warmup_steps=p.critic_warmup,
            logging_strategy="no",
        )
        prompts = run.splits(ppo=p.rounds * p.rollouts)["ppo"]
        every = len(prompts)
        prompts = prompts.filter(lambda row: len(tokenize_prompt(tokenizer, row["prompt"])) <= p.max_prompt_length)
        if len(prompts) < every:  # the trainer has no limit of its own, and scorers never saw longer ones
            print(
                f"ppo: {every - len(prompts)} of {every} prompts exceed {p.max_prompt_length} tokens: left out",
                flush=True,
            )
        if len(prompts) < p.rollouts:  # TRL would drop the incomplete round, and train on nothing
            print(f"ppo: {len(prompts)} prompts for rounds of {p.rollouts}: they are repeated", flush=True)
            prompts = concatenate_datasets([prompts] * -(-p.rollouts // len(prompts)))
        warm = p.critic_warmup * p.minibatches * p.ppo_epochs
        trainer = ppo.DensePPOTrainer(
            policy,
            reward_fn=reward_fn,
            ref_model=to_device(reference),
            critic=critic,
            args=args,
            train_dataset=prompts,
            processing_class=tokenizer,
            metrics=truth.metrics(p.world.returns) if run.testbed else None,
            callbacks=[SaveCritic(folder, warm)],
        )
        if warm == 0:
            critic.save_pretrained(folder / "critic")
        trainer.train()
        trainer.save_model(folder / "policy")
        save_json(folder / "curves.json", [known(row) for row in trainer.curves])

    inputs = [*inputs_of(folder_of_sft), prefs, *([] if folder_of_scorer is None else [folder_of_scorer])]
    return stage(
        "ppo",
        build_policy,
        key=run.key(*fields, method=asdict(method)),
        sources=[*DATA, *SCORING, ppo, padding, rewards, truth, *own_code(method)],
        inputs=inputs,
        root=run.root,
    )


def train_on_pairs(run: Run, folder_of_sft: Path, prefs: Artifact) -> Artifact:
    """DPO on the preference pairs that reward models learn from: policy, curve of its loss. Random: the order
    (seed)."""
    p = run.profile

    def build_dpo(folder: Path) -> None:
        (model, tokenizer), (reference, _) = load_causal_lm(folder_of_sft), load_causal_lm(folder_of_sft)
        pairs = load_from_disk(prefs.path / "preference")
        curve = preference.train_dpo(model, reference, tokenizer, pairs, p, folder, derive(run.seed, "dpo") % 2**31)
        model.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
        save_json(folder / "curve.json", curve)

    return stage(
        "dpo",
        build_dpo,
        key=run.key("pairs", "rm_batch", "dpo_beta", "dpo_learning_rate"),
        sources=[*DATA, preference, settings],
        inputs=[*inputs_of(folder_of_sft), prefs],
        root=run.root,
    )


class SaveCritic(TrainerCallback):
    """Keeps the critic as it is after its warm-up, when the policy is still the SFT model: what credit fidelity is
    measured with."""

    def __init__(self, folder: Path, step: int):
        self.folder, self.step = folder, step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            model.critic.save_pretrained(self.folder / "critic")
