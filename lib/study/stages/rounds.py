"""Trainers that learn in rounds: online DPO and rejection sampling, masked or not (ADPO, ARS). Needs the SFT model,
pairs, scorer, and what decides a mask.

As many responses and updates as PPO: with eight answers to a prompt, an eighth of the prompts, and pairs.
"""

from dataclasses import asdict
from pathlib import Path

from densereward.reward import rewards
from densereward.seeding import derive, seed_everything
from densereward.text.models import load_causal_lm, to_device
from densereward.training import appo, online, preference, rounds, settings
from study.cache import Artifact, save_json
from study.records import known
from study.sources import DATA, SCORING, own_code
from study.stages import mask, prompts, reward, watched
from testbed import truth

SAMPLED = [name for name in prompts.FIELDS if name not in ("actor_learning_rate", "kl_coef")]
BETA = {"online-dpo": "online_dpo_beta", "rs": "kl_coef"}  # the field of the profile that weighs KL to the reference


def train(run) -> Artifact:
    """Online DPO or rejection sampling, as the row's trainer says, on the best and worst by the total that the row's
    rewards pay: policy, curves, normalisers. Random: answers and order of pairs (seed). ValueError for a rollout batch
    that is no multiple of the answers per prompt."""
    p, method = run.profile, run.method
    if p.rollouts % rounds.ANSWERS:
        raise ValueError(f"rollouts is {p.rollouts}: make it a multiple of {rounds.ANSWERS}, the answers to a prompt")
    metrics = watched.metrics(run, in_rounds=True)

    def build(folder: Path) -> None:
        (policy, tokenizer), (reference, _) = (load_causal_lm(run.sft, run.dtype) for _ in range(2))
        seed = derive(run.seed, method.trainer)  # a method and its masked twin start from the same answers
        paid, _ = reward.fitted(run, folder, tokenizer)
        decide = mask.decider(run, tokenizer, folder)
        asked = prompts.prompts(run, tokenizer)
        size, updates = p.rollouts // rounds.ANSWERS, p.minibatches * p.ppo_epochs
        made = rounds.Rounds(
            to_device(reference).eval(),
            tokenizer,
            asked,
            paid,
            metrics,
            size,
            p.max_completion_length,
            decide,
            **method.options,
        )
        args = settings.common(folder, policy, seed % 2**31) | {
            "per_device_train_batch_size": -(-size // p.minibatches),
            "max_steps": p.rounds * updates,
            "learning_rate": p.online_learning_rate,
            "logging_strategy": "no",
        }
        args |= run.further("policy")
        seed_everything(seed)
        policy = run.adapted(policy)
        beta, loop = getattr(p, BETA[method.trainer]), {"minibatches": p.minibatches, "epochs": p.ppo_epochs}
        trainer = online.trainer_of(
            method.trainer, policy, reference, tokenizer, made, args, beta, decide is not None, asked, **loop
        )
        settings.watched(trainer, method.name).train()
        policy.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
        save_json(folder / "curves.json", [known(row) for row in trainer.curves])

    code = [prompts, reward, rounds, online, appo, preference, mask, *mask.CODE, rewards, truth, watched]
    key = run.key(
        *SAMPLED, BETA[method.trainer], "online_learning_rate", trl="policy", method=asdict(method), **mask.key(run)
    )
    needs = [run.sft, run.pairs, run.scorer, *mask.needs(run), run.heldout]
    return run.stage(method.trainer, build, key, [*DATA, *SCORING, *code, *own_code(method)], needs)
