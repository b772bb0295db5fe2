"""The last training stage: a row of `methods.py` and its scorer in, a policy with its curves out; PPO or DPO. Other
trainers are in `baselines.py`."""

from dataclasses import asdict
from pathlib import Path

from datasets import load_from_disk
from transformers import TrainerCallback

from densereward import masking, rewards, rollouts, shaping, winning
from densereward.methods import METHODS, Method
from densereward.models import load_causal_lm, scorer_from
from densereward.pipeline import DATA, SCORING, Run, inputs_of, known, own_code, to_device
from densereward.seeding import derive, seed_everything
from densereward.stages import Artifact, save_json, stage
from densereward.testbed import truth
from densereward.training import appo, kto, padding, ppo, preference, settings


def train_policy(
    run: Run, method: Method, folder_of_sft: Path, prefs: Artifact, folder_of_scorer: Path | None
) -> Artifact:
    """PPO, or APPO where there is a mask, by one row of `methods.py`: policy, critic after its warm-up, curves,
    normaliser. Random: rollouts, prompt order (seed)."""
    p, advisor = run.profile, dpo_policy(run, method, folder_of_sft, prefs)
    folder_of_mask = masking.scorer(run, method, folder_of_sft, prefs)
    watched, heldout = winning.metrics(run, folder_of_sft), winning.heldout_scorer(run, folder_of_sft)

    def build_policy(folder: Path) -> None:
        policy, tokenizer = load_causal_lm(folder_of_sft)
        reference, _ = load_causal_lm(folder_of_sft)
        seed_everything(derive(run.seed, "ppo"))
        critic = scorer_from(policy)
        paid, net = rollouts.reward(run, method, folder_of_sft, prefs, folder_of_scorer, tokenizer, folder)
        decide = masking.decider(run, method, folder_of_sft, prefs, folder_of_mask, tokenizer, folder)
        args = ppo.DensePPOConfig(
            **settings.common(folder, policy, derive(run.seed, "ppo") % 2**31),
            **rollouts.sizes(p),
            critic_learning_rate=p.critic_learning_rate,
            kl_coef=p.kl_coef,
            lam=p.lam,
            value_clip=method.value_clip,
            critic_warmup_steps=p.critic_warmup,
            **method.options,
        )
        make, further = (appo.MaskedPPOTrainer, {"decide": decide}) if decide else (ppo.DensePPOTrainer, {})
        trainer = make(
            policy,
            reward_fn=shaped(method, paid, net, advisor, tokenizer),
            ref_model=to_device(reference),
            critic=critic,
            args=args,
            train_dataset=rollouts.prompts(run, tokenizer),
            processing_class=tokenizer,
            metrics=watched,
            **further,
        )
        trainer.add_callback(SaveCritic(folder, trainer))
        settings.watched(trainer, method.name).train()
        trainer.save_model(folder / "policy")
        save_json(folder / "curves.json", [known(row) for row in trainer.curves])

    given = [given for given in (folder_of_scorer, advisor, folder_of_mask, heldout) if given is not None]
    masked = [appo, masking, *masking.CODE] if method.mask else []
    fields = (*rollouts.FIELDS, "critic_learning_rate", "lam", "critic_warmup")
    return stage(
        "ppo",
        build_policy,
        key=run.key(*fields, method=asdict(method), **masking.key(method)),
        sources=[
            *DATA,
            *SCORING,
            *(rollouts, shaping, shaped, ppo, padding, rewards, truth, winning),
            *own_code(method),
            *masked,
        ],
        inputs=[*inputs_of(folder_of_sft), prefs, *given],
        root=run.root,
    )


def train_on_pairs(run: Run, folder_of_sft: Path, prefs: Artifact, method: Method = METHODS["dpo"]) -> Artifact:
    """DPO, or KTO, on the preference pairs that reward models learn from, masked where the row has a mask: policy,
    curve of its loss, what the mask left. Random: the order (seed)."""
    p, folder_of_mask = run.profile, masking.scorer(run, method, folder_of_sft, prefs)

    def build_on_pairs(folder: Path) -> None:
        (model, tokenizer), (reference, _) = load_causal_lm(folder_of_sft), load_causal_lm(folder_of_sft)
        pairs = load_from_disk(prefs.path / "preference")
        if decide := masking.decider(run, method, folder_of_sft, prefs, folder_of_mask, tokenizer, folder):
            pairs, counts = masking.mask_dataset(pairs, decide, tokenizer, run.seed)
            save_json(folder / "mask.json", counts)
        train = kto.train_kto if method.trainer == "kto" else preference.train_dpo
        curve = train(model, reference, tokenizer, pairs, p, folder, derive(run.seed, "dpo") % 2**31)
        model.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
        save_json(folder / "curve.json", curve)

    masked = [rollouts, *SCORING, masking, *masking.CODE] if method.mask else []
    code = [kto] if method.trainer == "kto" else [preference]
    return stage(
        method.trainer,
        build_on_pairs,
        key=run.key("pairs", "rm_batch", "dpo_beta", "dpo_learning_rate", **masking.key(method)),
        sources=[*DATA, *code, settings, *masked],
        inputs=[*inputs_of(folder_of_sft), prefs, *([folder_of_mask] if folder_of_mask else [])],
        root=run.root,
    )


def dpo_policy(run: Run, method: Method, folder_of_sft: Path, prefs: Artifact) -> Artifact | None:
    """The DPO policy whose log-ratios the row's rewards hold (RTO), or None."""
    return train_on_pairs(run, folder_of_sft, prefs) if method.shaping["kind"] == "rto" else None


def shaped(method: Method, reward_fn, net, advisor: Artifact | None, tokenizer=None):
    """The reward function with what `method.shaping` makes of it; `net` is the scorer that `reward_fn` reads, `advisor`
    of `dpo_policy`. ValueError for an unknown kind, and for attention without a scorer."""
    kind = method.shaping["kind"]
    settings = {name: x for name, x in method.shaping.items() if name != "kind"}
    if kind == "none":
        return reward_fn
    if kind == "rto":
        policy = to_device(load_causal_lm(advisor.path / "policy")[0])
        return shaping.by_log_ratios(reward_fn, policy, **settings)
    if kind == "attention" and net is not None:
        return shaping.by_attention(reward_fn, net, **settings)
    if kind == "pool":
        return shaping.by_segments(reward_fn, tokenizer=tokenizer, **settings)
    raise ValueError(
        f"shaping {kind!r} of method {method.name!r}: choose none, rto, pool, or attention (with a scorer)"
    )


class SaveCritic(TrainerCallback):
    """Keeps the critic as it is after its warm-up, when the policy is still the SFT model: what credit fidelity is
    measured with."""

    def __init__(self, folder: Path, trainer: ppo.DensePPOTrainer):
        self.folder, self.trainer = folder / "critic", trainer

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        model.critic.save_pretrained(self.folder)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if not self.trainer.warm and state.global_step % args.updates_per_rollout == 0:
            model.critic.save_pretrained(self.folder)
