"""Trainers that sample and have no critic: RLOO, GRPO, GTPO, ReMax, Vine, on the total that the row's rewards pay a
response, or the first two on the rewards of its segments. Needs the SFT model, pairs, scorer, and what decides a mask.

As many responses and updates as PPO's, from the same list of prompts. A row whose `options` give a share of `answers`
makes the same updates of fewer responses, where what it samples besides would make it another budget.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from densereward.reward import dense, rewards, segments
from densereward.seeding import derive, seed_everything
from densereward.text.models import load_causal_lm
from densereward.training import appo, counting, group, gtpo, padding, remax, settings, step_advantages, vine
from study.cache import Artifact, save_json
from study.records import known
from study.sources import DATA, SCORING, own_code
from study.stages import mask, prompts, reward, watched
from testbed import truth

CODE = [counting, group, gtpo, remax, vine, step_advantages, appo, mask, *mask.CODE]


def train(run) -> Artifact:
    """Policy, curves, normaliser. Random: rollouts, prompt order (seed, as PPO's)."""
    p, method = run.profile, run.method
    metrics = watched.metrics(run)

    def build(folder: Path) -> None:
        policy, tokenizer = load_causal_lm(run.sft, run.dtype)
        seed = derive(run.seed, "ppo")  # the seed of PPO: the first rollouts are its own
        seed_everything(seed)
        policy = run.adapted(policy)
        paid, _ = reward.fitted(run, folder, tokenizer)
        options = dict(method.options)
        per_update = int(p.rollouts * options.pop("answers", 1.0) / p.minibatches)
        sizes = prompts.sizes(replace(p, rollouts=max(per_update, 1) * p.minibatches))
        per_step = method.trainer.startswith("dense-")
        trainer = group.trainer_of(
            method.trainer,
            policy,
            at_steps(method, paid, tokenizer) if per_step else reward.per_response(paid, tokenizer),
            metrics,
            p.kl_coef,
            settings.common(folder, policy, seed % 2**31) | sizes | run.further("policy"),
            **options,
            decide=mask.decider(run, tokenizer, folder),
            train_dataset=prompts.prompts(run, tokenizer),
            processing_class=tokenizer,
        )
        settings.watched(trainer, method.name).train()
        trainer.save_model(folder / "policy")
        save_json(folder / "curves.json", [known(row) for row in trainer.curves])

    code = [prompts, reward, *CODE, padding, rewards, truth, watched, *own_code(method)]
    key = run.key(*prompts.FIELDS, trl="policy", method=asdict(method), **mask.key(run))
    needs = [run.sft, run.pairs, run.scorer, *mask.needs(run), run.heldout]
    return run.stage(method.trainer, build, key, [*DATA, *SCORING, *code], needs)


def at_steps(method, reward_fn: Callable, tokenizer) -> Callable:
    """The reward function with the ends of the row's segments: batch -> (rewards [B, T], bool [B, T])."""
    cut = method.segmentation
    return lambda batch: (reward_fn(batch), segments.segment_ends(dense.segment_ids(cut, batch, tokenizer)))
