"""True advantages by Monte Carlo: how much better off an answer is after a span than before it, under the policy that
wrote it."""

import numpy as np
import torch

from densereward.seeding import derive
from densereward.text import sampling
from densereward.text.tokens import tokenize_prompt
from testbed import oracle, truth
from testbed import world as w
from testbed.build import messages


def monte_carlo(
    model,
    tokenizer,
    prompts: list[str],
    completions: list[list[int]],
    samples: int,
    max_length: int,
    seed: int,
    returns: str = "additive",
) -> dict:
    """Span ids [B, T], credits, deciding tokens and Monte Carlo advantages [B, N] of sampled answers, with the mean
    standard error of a value.

    V of a prefix is the mean true return of `samples` continuations by `model`; V of a finished answer is its true
    return. An advantage V(after) - V(before) holds the span's own credit and what it does to the rest of the answer.
    Random: `seed`."""
    ids, credits, deciding, parsed = truth.spans_of(tokenizer, prompts, completions, returns)
    prefixes, where = [], []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        prompt_ids = tokenize_prompt(tokenizer, messages(prompt))
        for span in range(len(parsed[row])):  # before each span; the value after one is the value before the next
            length = int(((ids[row] >= 0) & (ids[row] < span)).sum())
            prefixes += [prompt_ids + completion[:length]] * samples
            where += [(row, span, length)] * samples
    tails = sampling.sample(model, tokenizer, prefixes, max_length, derive(seed, "monte carlo"))
    values = np.full((len(prompts), credits.size(1) + 1), np.nan)
    totals: dict[tuple[int, int], list[float]] = {}
    for (row, span, length), tail in zip(where, tails, strict=True):
        text = truth.text_of(tokenizer, (completions[row][:length] + tail)[:max_length])
        totals.setdefault((row, span), []).append(oracle.true_return(prompts[row], text, returns))
    for (row, span), drawn in totals.items():
        values[row, span] = np.mean(drawn)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        values[row, len(parsed[row])] = oracle.true_return(prompt, truth.text_of(tokenizer, completion), returns)
    error = (
        float(np.mean([np.std(drawn, ddof=1) / len(drawn) ** 0.5 for drawn in totals.values()]))
        if samples > 1
        else None
    )
    advantages = torch.from_numpy(np.nan_to_num(values[:, 1:] - values[:, :-1])).float()
    return {"span_ids": ids, "credits": credits, "deciding": deciding, "advantages": advantages, "value_se": error}


def is_held_out(prompt: str) -> bool:
    """Whether a prompt asks for a combination that only the test split has."""
    return any(w.held_out(*part) for part in oracle.ask(prompt).items())
