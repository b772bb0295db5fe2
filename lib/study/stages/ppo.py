"""PPO on the row's rewards; APPO where there is a mask, on macro actions where the row's options name them. Needs the
SFT model, pairs, scorer, and what decides a mask."""

from dataclasses import asdict
from pathlib import Path

from transformers import TrainerCallback

from densereward.reward import rewards, shaping
from densereward.seeding import derive, seed_everything
from densereward.text.models import load_causal_lm, scorer_from, to_device
from densereward.training import appo, macro, padding, ppo, settings
from study.cache import Artifact, save_json
from study.records import known
from study.sources import DATA, SCORING, own_code
from study.stages import mask, prompts, reward, watched
from testbed import truth

FIELDS = (*prompts.FIELDS, "critic_learning_rate", "lam", "critic_warmup")


def train(run) -> Artifact:
    """Policy, critic after its warm-up, curves, normaliser. Random: rollouts, prompt order (seed)."""
    p, method = run.profile, run.method
    metrics = watched.metrics(run)

    def build_policy(folder: Path) -> None:
        policy, tokenizer = load_causal_lm(run.sft, run.dtype)
        reference, _ = load_causal_lm(run.sft, run.dtype)
        seed_everything(derive(run.seed, "ppo"))
        critic = run.adapted(scorer_from(policy))
        policy = run.adapted(policy)
        paid, net = reward.fitted(run, folder, tokenizer)
        decide = mask.decider(run, tokenizer, folder)
        options = {"lam": p.lam} | method.options
        actions = options.pop("macro", None)
        fields = settings.common(folder, policy, derive(run.seed, "ppo") % 2**31) | prompts.sizes(p)
        fields |= {
            "critic_learning_rate": p.critic_learning_rate,
            "kl_coef": p.kl_coef,
            "value_clip": method.value_clip,
            "critic_warmup_steps": p.critic_warmup,
        }
        args = ppo.DensePPOConfig(**fields | options | run.further("policy"))
        make, further = (appo.MaskedPPOTrainer, {"decide": decide}) if decide else (ppo.DensePPOTrainer, {})
        if actions:
            make, further = macro.MacroPPOTrainer, {"segmentation": actions}
        trainer = make(
            policy,
            reward_fn=reward.shaped(run, paid, net, tokenizer),
            ref_model=to_device(reference),
            critic=critic,
            args=args,
            train_dataset=prompts.prompts(run, tokenizer),
            processing_class=tokenizer,
            metrics=metrics,
            **further,
        )
        trainer.add_callback(SaveCritic(folder, trainer))
        settings.watched(trainer, method.name).train()
        trainer.save_model(folder / "policy")
        save_json(folder / "curves.json", [known(row) for row in trainer.curves])

    code = [prompts, reward, shaping, ppo, padding, rewards, truth, watched, *own_code(method)]
    code += [appo, mask, *mask.CODE] if run.mask else []
    code += [macro] if "macro" in method.options else []
    needs = [run.sft, run.pairs, run.scorer, reward.advisor(run), *mask.needs(run), run.heldout]
    key = run.key(*FIELDS, trl="policy", method=asdict(method), **mask.key(run))
    return run.stage("ppo", build_policy, key, [*DATA, *SCORING, *code], needs)


class SaveCritic(TrainerCallback):
    """Keeps the critic as it is after its warm-up, when the policy is still the SFT model: what credit fidelity is
    measured with."""

    def __init__(self, folder: Path, trainer: ppo.DensePPOTrainer):
        self.folder, self.trainer = folder / "critic", trainer

    def on_train_begin(self, args, state, control, **kwargs):
        settings.save(self.trainer, self.folder, "critic")

    def on_step_end(self, args, state, control, **kwargs):
        if not self.trainer.warm and state.global_step % args.updates_per_rollout == 0:
            settings.save(self.trainer, self.folder, "critic")
