"""A round of online learning: answers of policy and reference, scored; of each prompt's, the best and the worst.

Follows adaptive-mask Section 4.1 and Appendix B: half of a prompt's answers come from the policy and half from the
reference, sampled at temperature .95 from the 100 likeliest tokens within a nucleus of .99. How it makes pairs of them
is not said: here the pair is the best and the worst by the sequence reward. A prompt whose best and worst score or read
alike teaches nothing, and is counted as tied.

KL, length and returns in `curves` are those of the policy's own answers, hence at the temperature above. Left out:
several processes, vLLM.

Book: adaptive_masks.md
"""

import time
from collections.abc import Callable, Iterator
from itertools import cycle

import torch
from datasets import Dataset

from densereward.reward.masks import Masked
from densereward.text.sampling import batch_of, continued, ends
from densereward.text.tokens import pad_batch, tokenize_prompt
from densereward.training.appo import good, shares

SAMPLING = {"do_sample": True, "temperature": 0.95, "top_p": 0.99, "top_k": 100}  # Appendix B
ANSWERS = 8  # per prompt, Appendix B


@torch.no_grad()
def sample_answers(model, tokenizer, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """One answer to each prompt, as token ids with EOS where it was reached. Random: torch's global generator."""
    training = model.training
    model.eval()
    found = continued(model, tokenizer, prompts, max_new_tokens, **SAMPLING)
    model.train(training)
    return found


@torch.no_grad()
def answer_logprobs(model, tokenizer, prompts: list[list[int]], answers: list[list[int]]) -> torch.Tensor:
    """Log-probability of each answer, [B] (nats, temperature 1), of a model that a TRL trainer gave its fused head."""
    ids, mask = pad_batch([p + a for p, a in zip(prompts, answers, strict=True)], tokenizer.pad_token_id)
    starts = torch.tensor([len(p) for p in prompts])[:, None]
    labels = ids.masked_fill((mask == 0) | (torch.arange(ids.size(1)) < starts), -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return model(**{name: x.to(model.device) for name, x in batch.items()}, fused_lm_head=True).log_probs.sum(1)


def best_and_worst(scores: torch.Tensor, answers: list[list[list[int]]]) -> tuple[list[int], list[int], list[bool]]:
    """(best, worst, tied) of each prompt's answers, by scores [P, K]; the first of equals. Tied: these two score alike,
    or are one answer."""
    best, worst = scores.argmax(1).tolist(), scores.argmin(1).tolist()
    tied = (scores.amax(1) == scores.amin(1)).tolist()
    return best, worst, [t or row[b] == row[w] for t, row, b, w in zip(tied, answers, best, worst, strict=True)]


class Rounds:
    """Call it with the policy: (rows to learn from, a row of curves).

    `pay` is batch -> rewards [B, T], whose sum scores a response; `decide` a `mask.Decider` or None; `metrics` TRL
    reward functions, never learnt from. `prompts` are taken in order, `size` a round, again from the start where they
    run out. `own` of ANSWERS to a prompt are the policy's, the others the reference's. A row: prompt_ids, chosen_ids,
    rejected_ids and, with a mask, chosen_mask, rejected_mask. ValueError for an `own` that is not 1 to ANSWERS."""

    def __init__(
        self,
        reference,
        tokenizer,
        prompts: Dataset,
        pay: Callable,
        metrics,
        size: int,
        max_length: int,
        decide,
        own: int = ANSWERS // 2,  # Appendix B
    ):
        if not 1 <= own <= ANSWERS:
            raise ValueError(f"own is {own}: of {ANSWERS} answers to a prompt give the policy 1 to {ANSWERS}")
        self.reference, self.tokenizer, self.pay, self.metrics = reference, tokenizer, pay, metrics
        self.size, self.max_length, self.decide, self.own = size, max_length, decide, own
        self.prompts: Iterator[dict] = cycle(prompts)

    @torch.no_grad()
    def __call__(self, policy) -> tuple[list[dict], dict]:
        started = time.perf_counter()
        conversations = [next(self.prompts)["prompt"] for _ in range(self.size)]
        ids = [tokenize_prompt(self.tokenizer, conversation) for conversation in conversations]
        n, rest = self.own, ANSWERS - self.own
        asked, again = ([prompt for prompt in ids for _ in range(k)] for k in (n, rest))
        own = sample_answers(policy, self.tokenizer, asked, self.max_length)
        theirs = sample_answers(self.reference, self.tokenizer, again, self.max_length) if rest else []
        answers = [own[i * n :][:n] + theirs[i * rest :][:rest] for i in range(self.size)]  # [P][K]
        sampled = time.perf_counter()
        batch = batch_of(
            self.reference,
            self.tokenizer,
            [p for p in ids for _ in range(ANSWERS)],
            [a for row in answers for a in row],
        )
        scores = self.pay(batch).sum(1).view(self.size, ANSWERS)  # [P, K]
        best, worst, tied = best_and_worst(scores, answers)
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        chosen[torch.arange(self.size), best] = True
        found = self.decide and self.decide(batch, chosen.flatten())  # of all answers: b is a mean of all
        rows = [
            {"prompt_ids": ids[i], **self._sides(answers[i], i * ANSWERS, best[i], worst[i], found)}
            for i in range(self.size)
            if not tied[i]
        ]
        row = self._measured(policy, conversations, asked, own, batch, scores)
        row |= {"responses": batch["completion_mask"].size(0), "tokens": int(batch["completion_mask"].sum())}
        row |= {"pairs": len(rows), "tied": sum(tied), "best_from_policy": sum(b < n for b in best) / self.size}
        for side, of, picked in (("chosen", "preferred", best), ("rejected", "rejected", worst)) if found else ():
            places = [i * ANSWERS + k for i, k in enumerate(picked) if not tied[i]]
            row |= shares(Masked(*(x[places] for x in found)), batch["completion_mask"][places], f"_{side}")
            row[f"good_{of}"] = good(found, batch["completion_mask"], places)
        row |= {"seconds_generate": sampled - started, "seconds_score": time.perf_counter() - sampled}
        return rows, row

    @staticmethod
    def _sides(answers: list[list[int]], start: int, best: int, worst: int, found: Masked | None) -> dict:
        sides = {"chosen": best, "rejected": worst}
        row = {f"{side}_ids": answers[k] for side, k in sides.items()}
        if found is None:
            return row
        kept = {f"{side}_mask": found.mask[start + k, : len(answers[k])].long().tolist() for side, k in sides.items()}
        return row | kept

    def _measured(self, policy, conversations, asked, own, batch, scores) -> dict:
        """Means over the policy's own answers."""
        mask = batch["completion_mask"]
        ref = (batch["ref_logps"] * mask).sum(1).view(self.size, ANSWERS)[:, : self.own].flatten()
        texts = self.tokenizer.batch_decode(own, skip_special_tokens=True)
        said = [[{"role": "assistant", "content": text}] for text in texts]
        told = [conversation for conversation in conversations for _ in range(self.own)]
        row = {
            "proxy_reward": scores[:, : self.own].mean().item(),
            "spread": (scores.amax(1) - scores.amin(1)).mean().item(),
        }
        row["kl"] = (answer_logprobs(policy, self.tokenizer, asked, own) - ref).mean().item()
        row["length"] = sum(map(len, own)) / len(own)
        over = ends(policy, self.tokenizer)
        row["truncated"] = sum(a[-1] not in over for a in own) / len(own)
        for metric in self.metrics:
            values = [x for x in metric(prompts=told, completions=said, completion_ids=own) if x is not None]
            row[metric.__name__] = sum(values) / len(values) if values else float("nan")
        return row
