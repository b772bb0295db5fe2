"""The stage of adaptive-mask's methods that learn in rounds: online DPO and rejection sampling, masked or not.

    scorer ----> online-dpo, rs <---- scorer of the mask (`masking.py`)

APPO is PPO with a mask (`policy.train_policy`), and so is masked DPO on fixed pairs (`policy.train_on_pairs`).
As many responses and updates as PPO: with eight answers to a prompt, an eighth of the prompts, and pairs.
"""

from dataclasses import asdict
from pathlib import Path

from densereward import masking, rewards, rollouts, winning
from densereward.methods import Method
from densereward.models import load_causal_lm
from densereward.pipeline import DATA, SCORING, Run, inputs_of, known, own_code, to_device
from densereward.seeding import derive, seed_everything
from densereward.stages import Artifact, save_json, stage
from densereward.testbed import truth
from densereward.training import appo, online, preference, rounds, settings

SAMPLED = [name for name in rollouts.FIELDS if name not in ("actor_learning_rate", "kl_coef")]
BETA = {"online-dpo": "online_dpo_beta", "rs": "kl_coef"}  # the field of the profile that weighs KL to the reference


def train_in_rounds(
    run: Run, method: Method, folder_of_sft: Path, prefs: Artifact, folder_of_scorer: Path | None
) -> Artifact:
    """Online DPO or rejection sampling, as `method.trainer` says, on the best and worst by the total that the row's
    rewards pay: policy, curves, normalisers. Random: answers and order of pairs (seed). ValueError for a rollout batch
    that is no multiple of the answers per prompt."""
    p = run.profile
    if p.rollouts % rounds.ANSWERS:
        raise ValueError(f"rollouts is {p.rollouts}: make it a multiple of {rounds.ANSWERS}, the answers to a prompt")
    folder_of_mask = masking.scorer(run, method, folder_of_sft, prefs)
    watched, heldout = winning.metrics(run, folder_of_sft, in_rounds=True), winning.heldout_scorer(run, folder_of_sft)

    def build(folder: Path) -> None:
        (policy, tokenizer), (reference, _) = load_causal_lm(folder_of_sft), load_causal_lm(folder_of_sft)
        seed = derive(run.seed, method.trainer)  # a method and its masked twin start from the same answers
        paid, _ = rollouts.reward(run, method, folder_of_sft, prefs, folder_of_scorer, tokenizer, folder)
        decide = masking.decider(run, method, folder_of_sft, prefs, folder_of_mask, tokenizer, folder)
        asked = rollouts.prompts(run, tokenizer)
        size, updates = p.rollouts // rounds.ANSWERS, p.minibatches * p.ppo_epochs
        made = rounds.Rounds(
            to_device(reference).eval(),
            tokenizer,
            asked,
            paid,
            watched,
            size,
            p.max_completion_length,
            decide,
        )
        args = settings.common(folder, policy, seed % 2**31) | {
            "per_device_train_batch_size": -(-size // p.minibatches),
            "max_steps": p.rounds * updates,
            "learning_rate": p.online_learning_rate,
            "logging_strategy": "no",
        }
        seed_everything(seed)
        beta, loop = getattr(p, BETA[method.trainer]), {"minibatches": p.minibatches, "epochs": p.ppo_epochs}
        trainer = online.trainer_of(
            method.trainer, policy, reference, tokenizer, made, args, beta, decide is not None, asked, **loop
        )
        settings.watched(trainer, method.name).train()
        policy.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
        save_json(folder / "curves.json", [known(row) for row in trainer.curves])

    given = [given for given in (folder_of_scorer, folder_of_mask, heldout) if given is not None]
    code = [rollouts, rounds, online, appo, preference, masking, *masking.CODE, rewards, truth, winning]
    fields = (*SAMPLED, BETA[method.trainer], "online_learning_rate")
    return stage(
        method.trainer,
        build,
        key=run.key(*fields, method=asdict(method), **masking.key(method)),
        sources=[*DATA, *SCORING, *code, *own_code(method)],
        inputs=[*inputs_of(folder_of_sft), prefs, *given],
        root=run.root,
    )
