"""Trains with every trainer of the library, two updates or more each: `train_each.py MODELS OUT NAME...`.

Started plainly it is the one-process run, under a launcher the distributed one. All rows are of one length, so that
batches of like lengths hold the same rows on one process and on two. What is sampled is replaced by answers that
depend on the prompt alone. Every model is made before the first trainer: once there are arguments of ZeRO-3,
transformers shares out whatever is loaded.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, set_seed

from densereward.reward.implicit import LogRatioScorer
from densereward.text.models import TokenScorer, scorer_from
from densereward.text.tokens import joined
from densereward.training import (
    appo,
    discriminator,
    figa,
    group,
    kto,
    macro,
    online,
    ppo,
    preference,
    reward_model,
    settings,
    sft,
    step_model,
)
from densereward.training.masked import COLUMNS
from study.stages.mask import Decider

models, out, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
tokenizer = AutoTokenizer.from_pretrained(f"{models}/policy")
draw = torch.Generator().manual_seed(0)
N, T, BATCH = 24, 6, 8
LOG = {"logging_strategy": "steps", "logging_steps": 1, "max_grad_norm": 1.0}


def ids(length: int) -> list[list[int]]:
    return torch.randint(5, 270, (N, length), generator=draw).tolist()


def load(name: str = "policy"):
    return AutoModelForCausalLM.from_pretrained(f"{models}/{name}")


halves = [[0, 0, 0, 1, 1, 1]] * N
pairs = {"prompt_ids": ids(4), "chosen_completion_ids": ids(T), "rejected_completion_ids": ids(T)}
cut = Dataset.from_dict(pairs | {f"{side}_segment_ids": halves for side in ("chosen", "rejected")})
some = Dataset.from_dict(pairs | {column: [[1, 0, 1, 1, 0, 1]] * N for column in COLUMNS})
answers = {"prompt_ids": pairs["prompt_ids"], "completion_ids": pairs["chosen_completion_ids"]}
labelled = Dataset.from_dict(answers | {"labels": [[1.0, 0.0, 0.5, 1.0, 0.0, 0.5]] * N})
stepped = Dataset.from_dict(answers | {"labels": [[step_model.NO_STEP, 1.0] * 3] * N})
tuned = Dataset.from_dict(
    {"input_ids": [p + c for p, c in zip(*answers.values())], "completion_mask": [[0] * 4 + [1] * T] * N}
)
given = {"seed": 0, "batch": BATCH, "learning_rate": 1e-3}


PLAIN = {
    "sft": (load, lambda net, **to: sft.train_sft(net, tokenizer, tuned, epochs=1, warmup_steps=0, **to, **LOG)),
    "reward_model": (
        lambda: scorer_from(load()),
        lambda net, **to: reward_model.train_reward_model(net, tokenizer, cut, cut, **to),
    ),
    "discriminator": (
        lambda: scorer_from(load(), discriminator.Discriminator, aggregate="sum"),
        lambda net, **to: discriminator.train_discriminator(net, tokenizer, labelled, **to, **LOG),
    ),
    "process": (
        lambda: scorer_from(load(), step_model.ProcessModel, aggregate="sum"),
        lambda net, **to: step_model.train_process(net, tokenizer, stepped, **to),
    ),
    "figa": (load, lambda net, **to: figa.train_figa(net, tokenizer, labelled, **to, **LOG)),
    "dpo": (load, lambda net, **to: on_pairs(preference.train_dpo, net, **to)),
    "masked": (load, lambda net, **to: on_pairs(preference.train_dpo, net, some, **to)),
    "kto": (load, lambda net, **to: on_pairs(kto.train_kto, net, **to)),
    "rs": (load, lambda net, **to: online.trainer_of("rs", net, net, tokenizer, None, {}, 0.1, False, answers)),
}


def on_pairs(train, net, rows=None, **to) -> list[dict]:
    return train(net, reference.pop(), tokenizer, rows or Dataset.from_dict(pairs), beta=0.1, **to, **LOG)


def reward(completions, completion_ids, **unused) -> list[float]:
    return [sum(answer) % 7 / 3 for answer in completion_ids]


def per_token(batch: dict) -> torch.Tensor:
    return (batch["completion_ids"] % 7 - 3.0) * batch["completion_mask"] / 300


def at_steps(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    steps = batch["completion_mask"].bool()
    return per_token(batch), steps


@torch.no_grad()
def log_ratio(batch: dict) -> torch.Tensor:
    """What the log-ratios of two frozen models pay, small beside what is learnt."""
    mask = batch["completion_mask"]
    return scorer.token_scores(*joined(batch))[:, -mask.size(1) :] * mask / 100


def sampling(name: str, policy, folder: Path) -> list:
    """Trainers that sample."""
    sizes = settings.batches(BATCH)
    shared = settings.common(folder, policy, 0) | LOG | sizes | {"steps_per_generation": 1, "max_completion_length": 9}
    shared |= {"max_steps": 4, "learning_rate": 1e-3, "num_iterations": 2}
    texts = [word * n for word in ("cat ", "dog ", "mat ", "on ") for n in (1, 2, 3, 4)]
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts])
    trl = {"train_dataset": rows, "processing_class": tokenizer}
    if name in PPO:
        make, further = PPO[name]
        # gradients below 1, as DeepSpeed clips policy and critic as one; Adam would make much of rounding in small ones
        shared |= {"optim": "sgd", "learning_rate": 0.05, "whiten_advantages": False}
        args = ppo.DensePPOConfig(**shared, critic_learning_rate=0.05, kl_coef=0.02)
        parts = {"ref_model": reference.pop(), "critic": critics.pop()}
        trainer = make(policy, args=args, **parts, **trl, **{"reward_fn": per_token, **further})
    else:
        kind = name.removeprefix("masked-")
        few = FEW.get(name, {"generations": 2})
        decide = Decider(per_token, {"baseline": "running mean"}) if name.startswith("masked-") else None
        paid = at_steps if kind.startswith("dense-") else reward
        trainer = group.trainer_of(kind, policy, paid, [], 0.1, shared, **few, decide=decide, **trl)

    calls = []

    def fixed(prompt_ids, *unused):
        calls.append(name == "remax" and len(calls) % 2)  # every second one is of greedy answers
        seen, made = {}, []
        for prompt in prompt_ids:
            seed = 1000 * sum(prompt) + seen.setdefault(tuple(prompt), 0) + 100 * calls[-1]
            seen[tuple(prompt)] += 1
            made.append(torch.randint(5, 270, (3 + seed % 7,), generator=torch.Generator().manual_seed(seed)).tolist())
        return made if name == "rloo" else (made, None)

    trainer._generate_single_turn = fixed
    trainer.train()
    settings.save(trainer, folder)
    return []


PPO = {  # masks whose baseline, and whose preferred answers, are by means over the answers of all processes
    "ppo": (ppo.DensePPOTrainer, {}),
    "appo": (
        appo.MaskedPPOTrainer,
        {"decide": Decider(per_token, {"baseline": "running mean", "preferred": "round"})},
    ),
    "macro": (macro.MacroPPOTrainer, {"segmentation": {"kind": "ngram", "n": 2}}),
    "implicit": (ppo.DensePPOTrainer, {"reward_fn": log_ratio}),
}
FEW = {"remax": {}, "vine": {"cuts": {"kind": "ngram", "n": 3}, "continuations": 2}}

losses: list[float] = []
train = Trainer.train


def logged(trainer, *given, **named):
    """Every trainer tells the loss of every update."""
    trainer.args.logging_strategy, trainer.args.logging_steps = "steps", 1
    done = train(trainer, *given, **named)
    losses[:] = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return done


Trainer.train = logged
made = {}
for name in names:
    set_seed(0)
    made[name] = PLAIN[name][0]() if name in PLAIN else load()
reference = [load("ref") for name in names if name in ("dpo", "masked", "kto", *PPO)]
critics = [TokenScorer.from_pretrained(f"{models}/critic") for name in names if name in PPO]
scorer = LogRatioScorer(load(), load("ref")).eval()
for name in names:
    set_seed(0)
    if name in PLAIN:
        curve = PLAIN[name][1](made[name], folder=out / name, **given)
    else:
        curve = sampling(name, made[name], out / name)
    for what, rows in {"curve": curve, "losses": losses}.items():
        (out / name / f"{what}.json").write_text(json.dumps(rows))
