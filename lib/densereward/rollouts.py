"""What every trainer that samples is given, alike: prompts, how a rollout batch becomes updates, and a reward.

A seed's prompts, their order and the first answers are the same for all methods: `profile.rounds` batches of
`profile.rollouts` answers, each `minibatches` x `ppo_epochs` updates.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets, load_from_disk

from densereward import dense
from densereward.methods import Method
from densereward.models import TokenScorer
from densereward.pipeline import Run, calibration_scores, to_device
from densereward.profiles import Profile
from densereward.seeding import generator
from densereward.stages import Artifact, save_json
from densereward.testbed import truth
from densereward.tokens import pad_batch, tokenize_prompt

FIELDS = (  # of the profile, that all of them depend on; micro_batch changes no update
    "rounds",
    "rollouts",
    "minibatches",
    "ppo_epochs",
    "actor_learning_rate",
    "kl_coef",
    "max_prompt_length",
    "max_completion_length",
)


def sizes(p: Profile) -> dict:
    """Arguments of TRL's configs: a rollout batch in micro-batches, updates, steps, longest answer, learning rate."""
    size = math.gcd(p.micro_batch, p.rollouts // p.minibatches)
    accumulated = p.rollouts // p.minibatches // size
    return {
        "per_device_train_batch_size": size,
        "steps_per_generation": p.minibatches * accumulated,
        "num_iterations": p.ppo_epochs,
        "gradient_accumulation_steps": accumulated,
        "max_steps": p.rounds * p.minibatches * p.ppo_epochs,
        "max_completion_length": p.max_completion_length,
        "learning_rate": p.actor_learning_rate,
        "logging_strategy": "no",
    }


def prompts(run: Run, tokenizer) -> Dataset:
    """Prompts within the limit, one for each answer, repeated where there are fewer than a rollout batch; says so."""
    p = run.profile
    run.refuse_long_prompts(tokenizer)
    rows = run.splits(ppo=p.rounds * p.rollouts)["ppo"]
    every = len(rows)
    rows = rows.filter(lambda row: len(tokenize_prompt(tokenizer, row["prompt"])) <= p.max_prompt_length)
    if len(rows) < every:  # the trainer has no limit of its own, and scorers never saw longer ones
        print(f"ppo: {every - len(rows)} of {every} prompts exceed {p.max_prompt_length} tokens: left out", flush=True)
    if len(rows) < p.rollouts:  # TRL would drop the incomplete round, and train on nothing
        print(f"ppo: {len(rows)} prompts for rounds of {p.rollouts}: they are repeated", flush=True)
        rows = concatenate_datasets([rows] * -(-p.rollouts // len(rows)))
    return rows


def reward(
    run: Run,
    method: Method,
    folder_of_sft: Path,
    prefs: Artifact,
    folder_of_scorer: Path | None,
    tokenizer,
    folder: Path,
) -> tuple[Callable[[dict], torch.Tensor], TokenScorer | None]:
    """(batch -> rewards [B, T], the scorer it reads): of the row, before `method.shaping`. What it was fitted with is
    saved in `folder`: normaliser.json, or an oracle's unit.json. Random: the row's noise or random segments (seed)."""
    if method.scorer == "oracle":
        returns = run.profile.world.returns
        unit = truth.return_deviation(tokenizer, load_from_disk(prefs.path / "preference"), returns)
        save_json(folder / "unit.json", unit)
        return truth.oracle_rewards(method, tokenizer, returns, unit, generator(run.seed, "oracle noise")), None
    scores, lengths = calibration_scores(run, method, folder_of_scorer, folder_of_sft, prefs)
    normaliser = dense.fitted(method, scores, lengths)
    save_json(folder / "normaliser.json", normaliser.to_dict())
    net = to_device(TokenScorer.from_pretrained(folder_of_scorer, dtype=torch.float32))
    draw = generator(run.seed, "segments", method.name)
    return dense.reward_function(method, net, normaliser, tokenizer, draw), net


def per_response(reward_fn: Callable[[dict], torch.Tensor], tokenizer) -> Callable:
    """A reward function in TRL's sense, `proxy_reward`: the total that `reward_fn` pays each response, from
    conversational prompts and the responses' token ids. For rows that need no entropies of the SFT model."""

    @torch.no_grad()
    def proxy_reward(prompts, completion_ids, **unused) -> list[float]:
        ids, pad = [tokenize_prompt(tokenizer, prompt) for prompt in prompts], tokenizer.pad_token_id
        sides = {"prompt": pad_batch(ids, pad, "left"), "completion": pad_batch(completion_ids, pad)}
        batch = {
            f"{side}_{what}": to_device(x) for side, pair in sides.items() for what, x in zip(("ids", "mask"), pair)
        }
        return reward_fn(batch).sum(1).tolist()

    return proxy_reward
