"""What curves record beside training and no method learns from: the truth, a held-out proxy, and how often a policy's
answer beats the reference's, which adaptive-mask Figure 5 draws.

The held-out proxy is what one would choose a checkpoint by: the bandit's reward model trained on other pairs, the same
for all methods of a seed. On the testbed it is the next seed's; on text, which no seed draws anew, it is trained on
the pairs whose prompts PPO samples (`data.PARTS`'s `gold`), and nothing else judges there: the gold reward model.

The reference, the SFT model, answers every prompt of a seed's rollouts once, sampled as the policy is: trainers in
rounds have a temperature of their own (`rounds.SAMPLING`). So an untrained policy stands at one half, and what trains
alike is compared with the same answers. The judge is the true return: 1 for a higher one, a half for an equal one. The
paper's judge is a large model.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from densereward.progress import progress
from densereward.reward import dense, rewards
from densereward.seeding import derive
from densereward.text import sampling
from densereward.text.models import TokenScorer, load_causal_lm, to_device
from densereward.text.tokens import tokenize_prompt
from densereward.training import rounds
from study.cache import load_json, save_json
from study.methods import METHODS
from study.sources import DATA, SCORING
from study.stages import prompts
from study.stages.reward import per_response
from testbed import oracle, truth


def reference_returns(run, in_rounds: bool = False) -> dict[str, float]:
    """{prompt: true return of the SFT model's answer} of the prompts of a seed's rollouts, sampled as by PPO or as in
    rounds. Random: the answers (seed)."""
    p = run.profile

    def build_reference(folder: Path) -> None:
        model, tokenizer = load_causal_lm(run.sft)
        texts = list(dict.fromkeys(row["prompt"][-1]["content"] for row in prompts.prompts(run, tokenizer)))
        ids = [tokenize_prompt(tokenizer, [{"role": "user", "content": text}]) for text in texts]
        draw = derive(run.seed, "reference answers")
        sample = sampled_in_rounds if in_rounds else sampling.sample
        answers = sample(to_device(model).eval(), tokenizer, ids, p.max_completion_length, draw)
        pairs = zip(texts, (truth.text_of(tokenizer, a) for a in answers), strict=True)
        returns = {text: oracle.true_return(text, answer, p.world.returns) for text, answer in pairs}
        save_json(folder / "returns.json", returns)

    fields = ("rounds", "rollouts", "max_prompt_length", "max_completion_length")
    sources = [*DATA, *SCORING, prompts, truth, rounds, sampled_in_rounds]
    made = run.stage("reference", build_reference, run.key(*fields, in_rounds=in_rounds), sources, [run.sft])
    return load_json(made.path / "returns.json")


def sampled_in_rounds(
    model, tokenizer, prompts: list[list[int]], max_new_tokens: int, seed: int, size: int = 256
) -> list[list[int]]:
    """`rounds.sample_answers` of any number of prompts. Random: reseeds torch's global generator inside a fork."""
    answers = []
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in progress("reference answers, batches", range(0, len(prompts), size)):
            answers += rounds.sample_answers(model, tokenizer, prompts[start : start + size], max_new_tokens)
    return answers


def heldout_scorer(run) -> Path | None:
    """The folder of the held-out proxy, trained where it is not there yet; None for a profile without one."""
    if not run.profile.heldout_proxy:
        return None
    other = {"seed": run.seed + 1} if run.testbed else {"part": "gold"}
    return replace(run, row=METHODS["bandit"], **other).scorer


def heldout_proxy(folder: Path, tokenizer, longest: int = 0) -> Callable:
    """The score e(x, y) of the held-out proxy in `folder`, as a metric of TRL's; `longest` as in `per_response`."""
    net = to_device(TokenScorer.from_pretrained(folder, dtype=torch.float32))
    raw = rewards.Normaliser("none", 0.0, 0.0, 0.0, 1.0, unit=1 / net.config.scale)
    metric = per_response(dense.reward_function(METHODS["bandit"], net, raw, tokenizer), tokenizer, longest)
    metric.__name__ = "heldout_proxy"
    return metric


def metrics(run, in_rounds: bool = False) -> list[Callable]:
    """What curves record of every rollout batch, by TRL's reward-function interface, never trained on: `truth.metrics`,
    `heldout_proxy` where the profile has one, and `win_rate`. Without the testbed the second alone."""
    held = [heldout_proxy(run.heldout, load_causal_lm(run.sft)[1])] if run.heldout else []
    if not run.testbed:
        return held
    theirs, returns = reference_returns(run, in_rounds), run.profile.world.returns

    def win_rate(prompts, completions, **unused) -> list[float]:
        found = []
        for prompt, completion in zip(prompts, completions, strict=True):
            text = prompt[-1]["content"]
            gap = oracle.true_return(text, completion[0]["content"], returns) - theirs[text]
            found.append(0.5 if abs(gap) < 1e-9 else float(gap > 0))
        return found

    return [*truth.metrics(returns), *held, win_rate]
