"""Does a finer reward make a policy-gradient estimate less noisy? segment-ppo's Appendix B, measured.

Rollouts of one policy, the SFT model, are paid in several ways, each scaled so that totals have deviation 1. For each
dense reward there is a control: the same total, paid at the last token. Where the dense reward is causal, each token's
a function of the tokens up to it, both have the same expected gradient, and what differs is noise. `oracle-dense` is
causal: it pays a span where it is decided. The learned ones are not, so their expected gradients differ too
(`expected_gradient.py`): `segment` spreads the score of a segment's last token over those before it, and the normaliser
of `segment` and `token` reads how many segments an answer has in the end. Measured are the variance of the reward to
go, token by token, and the trace of the covariance of the gradient of one response, beside the length of its mean.
Lambda is 1.

Left out: a critic (the committed models hold none), the KL term, clipping; PPO's first update from the SFT model is
this estimate, but for the critic.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from densereward.seeding import derive, generator, rng
from densereward.text import sampling
from densereward.text.logprobs import completion_forward
from densereward.training.ppo import gae
from study.measures.answer_rewards import Payer, pay
from study.measures.constants import estimate, resamples
from study.methods import METHODS
from study.run import Run
from study.summary import interval_text, label
from study.words import AT_END
from testbed import truth

BASELINES = {  # what is subtracted from the reward to go
    "constant": "its mean over all tokens, as whitening does",
    "position": "its mean over the responses at the same token",
}
LIMIT = 2**31  # bytes of gradients held at a time


def rollouts(run: Run, model, tokenizer, pairs: Dataset, n: int) -> dict[str, torch.Tensor]:
    """The batch of n responses sampled from `model`, the SFT model, to the prompts of tokenised pairs, in turn. Random:
    `run.seed`."""
    prompts = [pairs["prompt_ids"][i % len(pairs)] for i in range(n)]
    made = sampling.sample(model, tokenizer, prompts, run.profile.max_completion_length, derive(run.seed, "variance"))
    return sampling.batch_of(model, tokenizer, prompts, made)


def streams(run: Run, payers: dict[str, Payer], batch: dict, tokenizer) -> dict[str, torch.Tensor]:
    """Rewards [B, T] of a batch by name, all with totals of deviation 1: each payer's, on the testbed the oracle's per
    span, and behind each that is dense the same totals paid at the end. Raises ValueError where totals do not vary."""
    paid = pay(payers, batch, tokenizer)[0]
    if run.testbed:
        row, returns = METHODS["oracle-dense"], run.profile.world.returns
        paid["oracle-dense"] = truth.oracle_rewards(row, tokenizer, returns, 1.0, generator(run.seed), row.noise)(batch)
    mask, found = batch["completion_mask"], {}
    for name, rewards in paid.items():
        unit = (rewards * mask).sum(1).std()
        if not unit > 0:
            raise ValueError(f"{name}: the totals of {len(mask)} responses do not vary; sample more of them")
        found[name] = rewards * mask / unit
        if name not in payers or payers[name].row.segmentation["kind"] != "bandit":
            found[name + AT_END] = at_end(found[name], mask)
    return found


def at_end(rewards: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The same totals, all of them at the last real token: [B, T]."""
    last = mask.sum(1, keepdim=True).long() - 1
    return torch.zeros_like(rewards).scatter(1, last, (rewards * mask).sum(1, keepdim=True))


def advantages(rewards: torch.Tensor, mask: torch.Tensor, baseline: str) -> torch.Tensor:
    """Rewards to go [B, T], each token's own among them, less one of BASELINES; zero on padding."""
    to_go = gae(rewards, torch.zeros_like(rewards), mask, 1.0, 1.0)[0]
    mask = mask.to(rewards.dtype)
    if baseline == "position":
        mean = (to_go * mask).sum(0) / mask.sum(0).clamp(min=1)
    else:
        mean = (to_go * mask).sum() / mask.sum()
    return (to_go - mean) * mask


def per_token(found: dict[str, torch.Tensor], mask: torch.Tensor, draw: np.random.Generator, least: int = 30):
    """Variance of the reward to go at each token index that `least` responses reach: method, token, variance, low, high
    (95% bootstrap over responses); and the same over all tokens: method, variance, low, high. Two frames. Random:
    `draw`."""
    weights, held = resamples(len(mask), draw), mask.double().cpu().numpy()
    often, profile, overall = held.sum(0) >= least, [], []
    for name, rewards in found.items():
        squares = advantages(rewards, mask, "position").double().cpu().numpy() ** 2
        with np.errstate(invalid="ignore"):  # a resample may hold no response that is so long
            at = (weights @ squares)[:, often] / (weights @ held - 1)[:, often]
        low, high = np.nanquantile(at[1:], (0.025, 0.975), axis=0)
        columns = {"method": name, "token": np.flatnonzero(often) + 1, "variance": at[0], "low": low, "high": high}
        profile.append(pd.DataFrame(columns))
        overall.append({"method": name, **_named("variance", (weights @ squares.sum(1)) / (weights @ held.sum(1)))})
    return pd.concat(profile, ignore_index=True), pd.DataFrame(overall)


def by_return(run: Run, batch: dict, tokenizer) -> pd.DataFrame:
    """A line per return of the testbed, a sum over spans and the whole alone: the variance of the reward to go of the
    truth paid in time and of the same totals at the end, both with totals of deviation 1, over a batch of responses.
    Random: the bootstrap (`run.seed`)."""
    rows = []
    for returns in ("additive", "whole"):
        world = replace(run.profile.world, returns=returns)
        found = streams(replace(run, profile=replace(run.profile, world=world)), {}, batch, tokenizer)
        told = per_token(found, batch["completion_mask"], rng(run.seed, "by return"))[1].set_index("method")
        texts = [interval_text(*row) for row in told.to_numpy()]
        heads = {"oracle-dense": "paid in time", f"oracle-dense{AT_END}": "at the end"}
        rows.append({"return": returns} | {heads[name]: text for name, text in zip(told.index, texts)})
    return pd.DataFrame(rows)


def fits(model, n: int) -> bool:
    """Whether n gradients of all parameters fit into LIMIT."""
    return 4 * n * sum(p.numel() for p in model.parameters() if p.requires_grad) <= LIMIT


def gram(model, batch: dict, weights: torch.Tensor) -> np.ndarray:
    """Inner products [B, B] of the responses' gradients of sum_t weights_t log pi(y_t), over all parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = torch.empty(len(weights), sum(p.numel() for p in parameters), device=weights.device)
    for i, row in enumerate(rows):
        prompt, answer = (batch[f"{s}_ids"][i][batch[f"{s}_mask"][i].bool()] for s in ("prompt", "completion"))
        ids = torch.cat([prompt, answer])[None]
        logps = completion_forward(model, ids, torch.ones_like(ids), len(answer))["log_probs"][0]
        parts = torch.autograd.grad(logps @ weights[i, : len(answer)], parameters, materialize_grads=True)
        torch.cat([part.flatten() for part in parts], out=row)
    return (rows @ rows.T).double().cpu().numpy()


def gradients(grams: dict[str, np.ndarray], draw: np.random.Generator) -> pd.DataFrame:
    """Of each method's Gram matrix [n, n]: `trace` of the covariance of one response's gradient, `signal`, the squared
    length of the mean gradient (no bias from its own noise, so it may be negative), `snr` = signal / trace, and `ratio`
    of the trace to that of the same totals paid at the end, and `gain`, snr less that of `bandit`; each with _low and
    _high (95% bootstrap over responses, the same resamples for all). Random: `draw`."""
    weights, found = resamples(len(next(iter(grams.values()))), draw), {}
    n, pairs = weights.sum(1), weights.sum(1) ** 2 - (weights**2).sum(1)
    for name, g in grams.items():
        products = np.einsum("ri,ij,rj->r", weights, g, weights, optimize=True)
        products -= weights**2 @ np.diag(g)
        signal = products / pairs  # over pairs of different responses
        found[name] = weights @ np.diag(g) / n - signal, signal
    rows = []
    for name, (trace, signal) in found.items():
        row = {"method": name, **_named("trace", trace), **_named("signal", signal)}
        row |= _named("snr", signal / trace)
        if "bandit" in found and not name.endswith(AT_END) and name != "bandit":
            row |= _named("gain", signal / trace - found["bandit"][1] / found["bandit"][0])
        if name + AT_END in found:
            row |= _named("ratio", trace / found[name + AT_END][0])
        rows.append(row)
    return pd.DataFrame(rows)


def look(method: str) -> str:
    """How figures and tables print a stream of rewards."""
    name = method.removesuffix(AT_END)
    return label(name) + method.removeprefix(name)


def table(overall: pd.DataFrame, noise: pd.DataFrame) -> pd.DataFrame:
    """`per_token` and `gradients` (of one baseline) as text, a row per stream."""
    columns = {
        "variance": ("variance of the reward to go", 2),
        "trace": ("trace of the gradient's covariance", 0),
        "ratio": ("times that of the same totals at the end", 2),
        "snr": ("signal to noise (thousandths)", 1),
        "gain": ("more than the bandit's (thousandths)", 1),
    }
    noise = noise.assign(**{c: 1_000 * noise[c] for c in noise.columns if c.startswith(("snr", "gain"))})
    rows = []
    for _, row in overall.merge(noise, on="method").iterrows():
        cells = {text: (row[[c, f"{c}_low", f"{c}_high"]], digits) for c, (text, digits) in columns.items() if c in row}
        texts = {text: interval_text(*x, digits) if x.notna().all() else None for text, (x, digits) in cells.items()}
        rows.append({"reward": look(row["method"])} | texts)
    return pd.DataFrame(rows)


def sentence(noise: pd.DataFrame, name: str) -> str:
    """What became of Appendix B's argument for one dense method, from `gradients`."""
    row = noise[noise.method == name].iloc[0]
    less = "less" if row.ratio_high < 1 else "more" if row.ratio_low > 1 else "neither clearly less nor more"
    text = (
        f"{label(name)}: {less} noise than the same totals paid at the end, {row.ratio:.2f} [{row.ratio_low:.2f}, "
        f"{row.ratio_high:.2f}] times the trace of the gradient's covariance."
    )
    if "gain" not in noise or np.isnan(row.get("gain", np.nan)):
        return text
    better = "above" if row.gain_low > 0 else "below" if row.gain_high < 0 else "not told apart from"
    return f"{text} Its signal to noise is {better} that of the bandit reward."


def _named(name: str, values: np.ndarray) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate(values)))
