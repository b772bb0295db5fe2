"""What every trainer that samples is given, alike: prompts, and how a rollout batch becomes updates.

A seed's prompts, their order and the first answers are the same for all rows: `profile.rounds` batches of
`profile.rollouts` answers, each `minibatches` x `ppo_epochs` updates.
"""

import numpy as np
from datasets import Dataset, concatenate_datasets

from densereward.text.tokens import tokenize_prompt
from densereward.training.settings import batches
from study.profiles import Profile

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
    passes = batches(p.rollouts // p.minibatches, p.micro_batch)
    return passes | {
        "steps_per_generation": p.minibatches * passes["gradient_accumulation_steps"],
        "num_iterations": p.ppo_epochs,
        "max_steps": p.rounds * p.minibatches * p.ppo_epochs,
        "max_completion_length": p.max_completion_length,
        "learning_rate": p.actor_learning_rate,
        "logging_strategy": "no",
    }


def prompts(run, tokenizer) -> Dataset:
    """Prompts within the limit, one for each answer, repeated where there are fewer than a rollout batch; says so."""
    p = run.profile
    run.refuse_long_prompts(tokenizer)
    rows = run.splits(ppo=p.rounds * p.rollouts)["ppo"]
    every = len(rows)
    fits = [len(tokenize_prompt(tokenizer, prompt)) <= p.max_prompt_length for prompt in rows["prompt"]]
    rows = rows.select(np.flatnonzero(fits))  # `filter` hashes what its function holds: seconds for a tokenizer
    if len(rows) < every:  # the trainer has no limit of its own, and scorers never saw longer ones
        print(f"ppo: {every - len(rows)} of {every} prompts exceed {p.max_prompt_length} tokens: left out", flush=True)
    if len(rows) < p.rollouts:  # TRL would drop the incomplete round, and train on nothing
        print(f"ppo: {len(rows)} prompts for rounds of {p.rollouts}: they are repeated", flush=True)
        rows = concatenate_datasets([rows] * -(-p.rollouts // len(rows)))
    return rows
