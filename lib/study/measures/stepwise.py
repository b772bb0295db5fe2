"""A reward model used step by step: of n sampled next steps the best is kept, until the answer ends.

The other use that adaptive-mask Figure 2 makes of a process reward model: it supervises while an answer is made, where
best of n judges finished ones. Both sample n times the tokens of an answer. Ending an answer is a step like any other
(`testbed.steps`), so a scorer that sees only losses ahead ends it.

A step ends where the next joint of the testbed's world begins, or with the mark behind a greeting: form alone, no
truth. Left out: beams, look-ahead, and caches of the kept prefix.
"""

from collections.abc import Callable

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from densereward.reward import dense
from densereward.text import sampling
from densereward.text.models import TokenScorer
from densereward.text.tokens import pad_batch
from testbed import world as w
from testbed.gold_steps import steps

LONGEST = 24  # tokens of a step; no clause of the world is as long
JOINTS = {joint.strip() for joint in w.JOINTS}
MARKS = {greeting[-1] for greeting in w.GREETINGS}  # with one of them a greeting ends

# (numbers of the prompts, completions up to a step's last token) -> a score of that step each
Judge = Callable[[list[int], list[list[int]]], torch.Tensor]


def kinds(tokenizer, eos_ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens with which a step begins, tokens with which one ends, `eos_ids` among them), bool [V]."""
    words = [tokenizer.decode([i]).strip() for i in range(len(tokenizer))]
    begins = torch.tensor([word in JOINTS for word in words])
    ends = torch.tensor([word in MARKS for word in words])
    ends[[*eos_ids, tokenizer.pad_token_id]] = True
    return begins, ends


def step_length(new: torch.Tensor, begins: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """How many of each row's tokens [B, T] make its first step: up to the next joint, or with what ends a step. [B]"""
    ended = ends[new]
    joint = begins[new]
    joint[:, 0] = False  # a step's own
    stop = ended | joint
    first = stop.long().argmax(1)
    length = first + ended.gather(1, first[:, None])[:, 0]
    return torch.where(stop.any(1), length, new.size(1))


class _OneStep(StoppingCriteria):
    def __init__(self, width: int, begins: torch.Tensor, ends: torch.Tensor):
        self.width, self.begins, self.ends = width, begins, ends

    def __call__(self, input_ids, scores, **unused) -> torch.Tensor:
        last, first = input_ids[:, -1], input_ids.size(1) == self.width + 1
        return self.ends[last] if first else self.ends[last] | self.begins[last]


@torch.no_grad()
def next_steps(model, tokenizer, prefixes: list[list[int]], batch_size: int = 256) -> list[list[int]]:
    """A sampled next step of each prefix of token ids. Random: torch's global generator."""
    eos_ids, pad_id = sampling.ends(model, tokenizer), tokenizer.pad_token_id
    begins, ends = (x.to(model.device) for x in kinds(tokenizer, eos_ids))
    order, out = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i])), [[] for _ in prefixes]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask = pad_batch([prefixes[i] for i in rows], pad_id, "left")
        with sampling.plainly(model, eos_ids, pad_id):
            new = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                **sampling.PLAIN,
                max_new_tokens=LONGEST,
                stopping_criteria=StoppingCriteriaList([_OneStep(ids.size(1), begins, ends)]),
            )[:, ids.size(1) :]
        lengths = step_length(new, begins, ends).tolist()
        for i, step, length in zip(rows, new.tolist(), lengths, strict=True):
            out[i] = step[:length]
    return out


def search(model, tokenizer, prompt_ids: list[list[int]], judge: Judge, n: int, longest: int, seed: int):
    """An answer (token ids) to each prompt, made of the best of n sampled steps each time; among equal ones the first.
    At most `longest` tokens. Random: `seed`, inside a fork of torch's global generator."""
    answers, alive = [[] for _ in prompt_ids], list(range(len(prompt_ids)))
    eos_ids = sampling.ends(model, tokenizer)
    model.eval()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        while alive:
            which = [i for i in alive for _ in range(n)]
            found = next_steps(model, tokenizer, [prompt_ids[i] + answers[i] for i in which])
            made = [(answers[i] + step)[:longest] for i, step in zip(which, found, strict=True)]
            best = judge(which, made).view(len(alive), n).argmax(1).tolist()
            for row, (i, k) in enumerate(zip(alive, best, strict=True)):
                answers[i] = made[row * n + k]
            alive = [i for i in alive if answers[i][-1] not in eos_ids and len(answers[i]) < longest]
    return answers


def by_scorer(net: TokenScorer, tokenizer, prompt_ids: list[list[int]], batch_size: int = 256) -> Judge:
    """A step's score is what `net` says at its last token."""

    @torch.no_grad()
    def judge(which: list[int], made: list[list[int]]) -> torch.Tensor:
        found = []
        for start in range(0, len(made), batch_size):
            rows = slice(start, start + batch_size)
            prompts, prompt_mask = pad_batch([prompt_ids[i] for i in which[rows]], tokenizer.pad_token_id, "left")
            ids, mask = pad_batch(made[rows], tokenizer.pad_token_id)
            batch = {"prompt_ids": prompts, "prompt_mask": prompt_mask, "completion_ids": ids, "completion_mask": mask}
            scores = dense.token_scores(net, {name: x.to(net.device) for name, x in batch.items()}).cpu()
            found.append(scores.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0])
        return torch.cat(found)

    return judge


def by_oracle(tokenizer, prompts: list[str]) -> Judge:
    """A step's score is its true credit: how far this use could go."""

    def judge(which: list[int], made: list[list[int]]) -> torch.Tensor:
        whole = [ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id] for ids in made]
        found = steps(tokenizer, [prompts[i] for i in which], whole)
        last = torch.tensor([len(ids) - 1 - (ids is not own) for ids, own in zip(whole, made)])
        return found.credit.gather(1, last[:, None])[:, 0]

    return judge
