"""What only the testbed can tell: true returns of rollouts, how much of the truth a reward model has, oracle rewards,
span credit.

All of it is measured beside training. The exceptions are the oracle controls, which train on the truth or mask by it,
and say so in their name.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset

from densereward.progress import progress
from densereward.reward.dense import segment_ids, token_scores
from densereward.reward.recipe import Recipe
from densereward.reward.rewards import interpolate
from densereward.reward.segments import reads_entropies, segment_ends
from densereward.seeding import generator, rng
from densereward.text import sampling
from densereward.text.offsets import token_offsets
from densereward.text.tokens import collate_prompt_completion, tokenize_prompt, tokenize_responses
from testbed import build, oracle
from testbed.world import World


def text_of(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True)


def texts(tokenizer, rows: Dataset) -> list[dict]:
    """Preference rows as conversations again, from their token ids (what was truncated stays truncated)."""
    return [
        {"prompt": [{"role": "user", "content": text_of(tokenizer, row["prompt_ids"])}]}
        | {
            side: [{"role": "assistant", "content": text_of(tokenizer, row[f"{side}_completion_ids"])}]
            for side in ("chosen", "rejected")
        }
        for row in rows
    ]


def scorer_metrics(
    name: str, scorer, method: Recipe, model, tokenizer, sets: dict, margins: np.ndarray, world: World, seed: int
) -> dict:
    """Levels and gate of a reward model on the split `name`: style-only level, label ceiling, accuracy against the true
    order, flip rate, and whether the label accuracy covers half of the way from style to ceiling (the gate)."""
    rows = texts(tokenizer, sets[name])
    gaps = [
        oracle.true_return(p, r["chosen"][0]["content"], world.returns)
        - oracle.true_return(p, r["rejected"][0]["content"], world.returns)
        for r in rows
        for p in [r["prompt"][0]["content"]]
    ]
    train = texts(tokenizer, sets["preference"].select(range(min(4_000, len(sets["preference"])))))
    style, ceiling = build.style_level(train, rows), build.ceiling(world, rows)
    accuracy = float(np.mean((np.sign(margins) + 1) / 2))
    decided = np.abs(gaps) > 1e-9
    right = (margins > 0)[decided] == (np.array(gaps) > 0)[decided]
    return {
        f"style_{name}": style,
        f"ceiling_{name}": ceiling,
        f"truth_{name}": float(np.mean(right)),
        f"gate_{name}": (style + ceiling) / 2,
        f"passes_{name}": bool(accuracy >= (style + ceiling) / 2),
        **{f"{what}_{name}": x for what, x in drop_rates(scorer, method, model, tokenizer, rows, seed).items()},
    }


@torch.no_grad()
def drop_rates(
    scorer, method: Recipe, model, tokenizer, rows: list[dict], seed: int, limit: int = 500
) -> dict[str, float | None]:
    """How often the score of a response drops when one correct item of it is exchanged for a wrong one ("flip"), and
    when its first correct item is said once more, right behind itself ("repeat"), all else kept."""
    draw, pairs, at = rng(seed, "flip"), [], {"flip": [], "repeat": []}
    for row in rows[:limit]:
        prompt, text = row["prompt"][0]["content"], row["chosen"][0]["content"]
        changed = {"flip": build.swap_items(prompt, text, 1, draw, only=("correct",))}
        if spans := [s for s in oracle.parse(prompt, text)[:-1] if s.kind == "correct"]:
            where = spans[0].end
            changed["repeat"] = f"{text[:where]}, {spans[0].item}{text[where:]}"
        before = len(pairs)
        pairs.append((row["prompt"], text))
        for name, other in changed.items():
            if other != text:
                at[name] += [before, len(pairs)]
                pairs.append((row["prompt"], other))
    scores = response_scores(scorer, method, model, tokenizer, pairs, seed)
    return {name: _drops(scores[np.array(which, dtype=int)]) for name, which in at.items()}


def _drops(scores: np.ndarray) -> float | None:
    """How often the second score of a pair is lower than the first; None without a pair."""
    return float((scores[::2] > scores[1::2]).mean()) if len(scores) else None


@torch.no_grad()
def response_scores(
    scorer, method: Recipe, model, tokenizer, pairs: list[tuple[list[dict], str]], seed: int
) -> np.ndarray:
    """e(x, y) of (prompt messages, response text) pairs, [N]."""
    scorer.eval()
    prompts = [tokenize_prompt(tokenizer, prompt) for prompt, _ in pairs]
    replies = tokenize_responses(tokenizer, [text for _, text in pairs])
    out, draw = np.zeros(len(pairs), dtype=np.float32), generator(seed, "segments", method.name)
    order = np.argsort([len(ids) for ids in replies], kind="stable")
    for take in progress("scores, batches", np.split(order, range(64, len(order), 64))) if pairs else ():
        if reads_entropies(method.segmentation["kind"]):
            batch = sampling.batch_of(model, tokenizer, [prompts[i] for i in take], [replies[i] for i in take])
        else:  # without a pass of the SFT model
            rows = [{"prompt_ids": prompts[i], "completion_ids": replies[i]} for i in take]
            batch = collate_prompt_completion(rows, tokenizer.pad_token_id)
            batch = {name: x.to(scorer.device) for name, x in batch.items()}
        ids = segment_ids(method.segmentation, batch, tokenizer, draw)
        out[take] = scorer.aggregate(token_scores(scorer, batch), segment_ends(ids)).cpu().numpy()
    return out


def metrics(returns: str) -> list:
    """What PPO's curves record of every rollout batch, by TRL's reward-function interface; never trained on."""

    def measure(name: str, key: str):
        def metric(prompts, completions, **unused) -> list[float]:
            pairs = zip(prompts, completions, strict=True)
            rows = (oracle.summary(p[-1]["content"], c[0]["content"])[key] for p, c in pairs)
            return [None if np.isnan(value) else float(value) for value in rows]

        metric.__name__ = name
        return metric

    names = {"true_return": f"return_{returns}", "fact_accuracy": "fact_accuracy", "repetition": "repetition"}
    return [measure(name, key) for name, key in names.items()]


class Spans(NamedTuple):
    """Spans of a batch of responses: the span of each token, `ids` [B, T], -1 on padding; the `credits` of the spans,
    [B, N], 0 beyond a response's last; the token that decides each (`oracle.deciding_tokens`), `deciding` [B, N]; and
    what the oracle read, `parsed`."""

    ids: torch.Tensor
    credits: torch.Tensor
    deciding: torch.Tensor
    parsed: list[list[oracle.Span]]


def spans_of(tokenizer, prompts: list[str], completions: list[list[int]], returns: str = "additive") -> Spans:
    """The spans of responses given as token ids; their credits are what `returns` adds up, where it prices them."""
    parsed, ids, deciding = [], [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        text, offsets = token_offsets(tokenizer, completion)
        parsed.append(oracle.parse(prompt, text))
        ids.append(torch.from_numpy(oracle.token_spans(parsed[-1], offsets)))
        deciding.append(torch.from_numpy(oracle.deciding_tokens(parsed[-1], offsets)))
    price = oracle.PRICES.get(returns)
    credits = [torch.tensor([oracle.credit(s, price) for s in spans]) for spans in parsed]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    return Spans(pad(ids, padding_value=-1), pad(credits), pad(deciding), parsed)


def return_deviation(tokenizer, rows: Dataset, returns: str, limit: int = 2_000) -> float:
    """Standard deviation of the true returns of preference answers: the unit in which the oracle pays."""
    conversations = texts(tokenizer, rows.select(range(min(limit, len(rows)))))
    pairs = [
        (r["prompt"][0]["content"], r[side][0]["content"]) for r in conversations for side in ("chosen", "rejected")
    ]
    return float(np.std([oracle.true_return(prompt, text, returns) for prompt, text in pairs], ddof=1))


def oracle_rewards(method: Recipe, tokenizer, returns: str, unit: float, draw: torch.Generator, noise: float = 0.0):
    """The reward function of the oracle controls: each span's true credit plus noise of deviation `noise`, a fresh draw
    per rollout, divided by `unit`, so that its returns are on the scale of z-scored ones. What a return that is no sum
    of credits has beyond their sum, and what only the end of an answer decides, is paid at the last token.

    Dense: a span's draw is paid at the token that decides it, or spread over the span's tokens as `interpolation` says.
    Sequence: the sum of the same draws, at the last token: the same information. Random: `draw`."""

    def rewards(batch: dict) -> torch.Tensor:
        mask = batch["completion_mask"]
        lengths = mask.sum(1).tolist()
        completions = [ids[: int(n)] for ids, n in zip(batch["completion_ids"].tolist(), lengths, strict=True)]
        prompts = [text_of(tokenizer, ids) for ids in batch["prompt_ids"].tolist()]
        ids, credits, deciding, parsed = spans_of(tokenizer, prompts, completions, returns)
        ids = torch.nn.functional.pad(ids, (0, mask.size(1) - ids.size(1)), value=-1)
        last = ids.max(1, keepdim=True).values
        total = [oracle.RETURNS[returns](s, sum(oracle.ask(p).values())) for p, s in zip(prompts, parsed, strict=True)]
        rest = torch.tensor(total)[:, None].to(credits.dtype) - credits.sum(1, keepdim=True)  # [B, 1]
        held = torch.arange(credits.size(1)) <= last  # [B, N]
        drawn = noise * torch.randn(credits.shape, generator=draw) * held
        if method.segmentation["kind"] == "spans" and method.interpolation == "decided":
            ending = torch.tensor([[s[-1].ending] for s in parsed])  # [B, 1]
            own = credits.scatter_add(1, last, -ending) + drawn
            paid = torch.zeros(ids.shape).scatter_add(1, deciding, own)
            final = mask.sum(1, keepdim=True).cpu() - 1
            return (paid.scatter_add(1, final, ending + rest) / unit).to(mask.device)
        noisy = (credits.scatter_add(1, last, rest) + drawn) / unit
        if method.segmentation["kind"] == "bandit":
            ids, noisy = torch.where(mask.cpu().bool(), 0, -1), noisy.sum(1, keepdim=True)
        return interpolate(noisy, ids, method.interpolation).to(mask.device)

    return rewards


def boundaries(method: Recipe, batch: dict, spans: torch.Tensor, tokenizer, seed: int) -> dict[str, float]:
    """How a segmentation's starts meet those of true spans [B, T], the first token of a response not counted.

    Precision and recall count a start on a span's first token or the one behind it: a span begins, by convention, with
    the joint before it (", "), which a model foresees better than the word that follows; `exact_...` count the first
    token only. Segment length in tokens."""
    ids = segment_ids(method.segmentation, batch, tokenizer, generator(seed, "segments", method.name)).cpu()
    real, pad = spans[:, 1:] >= 0, torch.nn.functional.pad
    cut, true = ((x[:, 1:] != x[:, :-1]) & real for x in (ids, spans))
    found = {"segment_length": float((spans >= 0).sum() / (cut.sum() + len(spans)))}
    for name, near_true, near_cut in (("", true | pad(true, (1, -1)), cut | pad(cut, (-1, 1))), ("exact_", true, cut)):
        found[f"boundary_{name}precision"] = float((cut & near_true).sum() / cut.sum().clamp(min=1))
        found[f"boundary_{name}recall"] = float((true & near_cut).sum() / true.sum().clamp(min=1))
    return found
