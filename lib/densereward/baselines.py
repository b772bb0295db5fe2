"""Stages of the methods that the three papers compare with, and that are no PPO: RLOO, GRPO, ReMax, FIGA.

    scorer ----> rloo, grpo, remax, dense-rloo, dense-grpo          revisions ----> figa

As many responses and updates as PPO's where they sample (`rollouts.py`), from the same list of prompts; FIGA samples
nothing. RTO and ABC are PPO with another reward (`Method.shaping`).
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from datasets import load_from_disk

from densereward import dense, labeling, masking, revised, rewards, rollouts, segments, winning
from densereward.methods import Method
from densereward.models import load_causal_lm
from densereward.pipeline import DATA, SCORING, Run, inputs_of, known, own_code, to_device
from densereward.seeding import derive, seed_everything
from densereward.stages import Artifact, save_json, stage
from densereward.testbed import truth
from densereward.training import appo, counting, epoch, figa, group, padding, remax, settings, steps

CODE = [counting, group, remax, steps, appo, masking, *masking.CODE]


def train_without_critic(
    run: Run, method: Method, folder_of_sft: Path, prefs: Artifact, folder_of_scorer: Path | None
) -> Artifact:
    """RLOO, GRPO or ReMax, as `method.trainer` says, on the total that the row's rewards pay a response, or the first
    two on the rewards of its segments: policy, curves, normaliser. Random: rollouts, prompt order (seed, as PPO's)."""
    p, folder_of_mask = run.profile, masking.scorer(run, method, folder_of_sft, prefs)
    watched, heldout = winning.metrics(run, folder_of_sft), winning.heldout_scorer(run, folder_of_sft)

    def build(folder: Path) -> None:
        policy, tokenizer = load_causal_lm(folder_of_sft)
        seed = derive(run.seed, "ppo")  # the seed of PPO: the first rollouts are its own
        seed_everything(seed)
        paid, _ = rollouts.reward(run, method, folder_of_sft, prefs, folder_of_scorer, tokenizer, folder)
        trainer = group.trainer_of(
            method.trainer,
            policy,
            at_steps(method, paid, tokenizer)
            if method.trainer.startswith("dense-")
            else rollouts.per_response(paid, tokenizer),
            watched,
            p.kl_coef,
            settings.common(folder, policy, seed % 2**31) | rollouts.sizes(p),
            **method.options,
            decide=masking.decider(run, method, folder_of_sft, prefs, folder_of_mask, tokenizer, folder),
            train_dataset=rollouts.prompts(run, tokenizer),
            processing_class=tokenizer,
        )
        settings.watched(trainer, method.name).train()
        trainer.save_model(folder / "policy")
        save_json(folder / "curves.json", [known(row) for row in trainer.curves])

    return stage(
        method.trainer,
        build,
        key=run.key(*rollouts.FIELDS, method=asdict(method), **masking.key(method)),
        sources=[*DATA, *SCORING, rollouts, *CODE, padding, rewards, truth, winning, *own_code(method)],
        inputs=[
            *inputs_of(folder_of_sft),
            prefs,
            *(x for x in (folder_of_scorer, folder_of_mask, heldout) if x is not None),
        ],
        root=run.root,
    )


def at_steps(method: Method, reward_fn: Callable, tokenizer) -> Callable:
    """The reward function with the ends of the row's segments: batch -> (rewards [B, T], bool [B, T])."""
    return lambda batch: (reward_fn(batch), segments.segment_ends(dense.segment_ids(method, batch, tokenizer)))


def train_on_revisions(run: Run, method: Method, folder_of_sft: Path, prefs: Artifact) -> Artifact:
    """FIGA on the labelled tokens of the row's reviser: policy, curve of its loss. Random: the order (seed)."""
    made, p = revised.revisions(run, method, folder_of_sft, prefs), run.profile

    def build_figa(folder: Path) -> None:
        model, tokenizer = load_causal_lm(folder_of_sft)
        rows = load_from_disk(made.path / "labelled" / "preference")
        seed = derive(run.seed, "figa") % 2**31
        curve = figa.train_figa(to_device(model), tokenizer, rows, p, folder, seed, **method.options)
        model.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
        save_json(folder / "curve.json", curve)

    return stage(
        "figa",
        build_figa,
        key=run.key("rm_batch", "dpo_learning_rate", options=method.options),
        sources=[*DATA, *SCORING, labeling, epoch, figa],
        inputs=[*inputs_of(folder_of_sft), prefs, made],
        root=run.root,
    )
