"""Pieces by themselves: log-probabilities of many words, segments, edit labels, labels of many pairs, sampling.

Each is measured against the plain way to the same thing, written here as one would write it first, and both are
compared before any is timed. Log-probabilities and labels of many pairs have processes of their own, for their memory.
"""

import json
import sys
from collections.abc import Iterator
from unittest.mock import patch

import torch
import torch.nn.functional as F
from turns import CUDA, DEVICE, Baton, Child, in_turns, of, ratios, row, seconds

# --- log-probabilities and entropies ---------------------------------------------------------------------------------


def logprobs(
    turns: int = 3, words: int = 128_000, width: int = 128, batch: int = 4, length: int = 256, **more
) -> Iterator[dict]:
    """Ours against log_softmax over whole logits, of the same model and answers: to score, and to learn from."""
    for grad in (False, True):
        spec = {"words": words, "width": width, "batch": batch, "length": length, "grad": grad} | more
        ours, plain = in_turns(
            turns, *(Child("pieces.py", work="logprobs", plain=way, **spec) for way in (False, True))
        )
        a, b = ours[0]["logps"], plain[0]["logps"]
        assert abs(a - b) < 1e-3 * abs(b), f"the two disagree: {a} and {b}"
        name = f"log-probabilities of {words // 1000}k words, {'with gradients' if grad else 'to score'}"
        found = ratios(of(plain, "seconds"), of(ours, "seconds"))
        yield row(f"{name}: times as fast as whole logits", found, ("least", 1.0), sizes=spec)
        peaks = [max(of(rounds, "peak")) for rounds in (ours, plain)]
        found = ratios(*[[p] for p in peaks])
        yield row(f"{name}: peak memory over whole logits'", found, ("most", 0.15), peaks_mib=peaks)


def logprobs_round(spec: dict):
    from transformers import LlamaConfig, LlamaForCausalLM

    from densereward.text.logprobs import logprobs_and_entropy

    torch.manual_seed(0)
    sizes = {"hidden_size": spec["width"], "intermediate_size": 2 * spec["width"], "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=spec["words"], max_position_embeddings=4096, **sizes)).to(DEVICE)
    model = model.to(getattr(torch, spec.get("dtype", "float32")))
    length = spec["length"]
    ids = torch.randint(5, spec["words"], (spec["batch"], 16 + length), device=DEVICE)
    mask = torch.ones_like(ids)

    def plain():
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, -length - 1 : -1]
        logits = F.linear(hidden.float(), model.lm_head.weight.float())  # as ours: float32, whatever the model is
        logps = logits.log_softmax(-1)  # [B, T, V]
        entropies = -(logps.exp() * logps).sum(-1).detach()
        return logps.gather(2, ids[:, -length:, None])[..., 0], entropies

    def work():
        with torch.set_grad_enabled(spec["grad"]):
            logps, _ = plain() if spec["plain"] else logprobs_and_entropy(model, ids, mask, length)
            if spec["grad"]:
                logps.sum().backward()
                model.zero_grad()
        return {"logps": logps.sum().item()}

    return work


# --- segments --------------------------------------------------------------------------------------------------------


def segments(turns: int = 5, batch: int = 64, length: int = 1024) -> list[dict]:
    """Boundaries by entropy, scores at segments' ends, and an even split: against loops over rows and tokens."""
    from densereward.reward import rewards as R
    from densereward.reward import segments as S

    make = torch.Generator().manual_seed(0)
    entropies = 3 * torch.rand(batch, length, generator=make)
    scores = torch.randn(batch, length, generator=make)
    lengths = torch.randint(length // 2, length + 1, (batch, 1), generator=make)
    entropies, scores, lengths = (x.to(DEVICE) for x in (entropies, scores, lengths))
    mask = (torch.arange(length, device=DEVICE) < lengths).long()

    def ours():
        ids = S.segment("entropy", mask=mask, entropies=entropies, cutoff=1.75)
        return R.interpolate(S.at_ends(scores, ids)[0], ids, "even")

    def loops():
        found = torch.zeros(batch, length, device=DEVICE)
        for b in range(batch):
            starts = [t for t in range(length) if mask[b, t] and (t == 0 or entropies[b, t] > 1.75)]
            for start, end in zip(starts, [*starts[1:], int(mask[b].sum())]):
                for t in range(start, end):
                    found[b, t] = scores[b, end - 1] / (end - start)
        return found

    torch.testing.assert_close(ours(), loops())
    slow = [seconds(loops) for _ in range(min(turns, 3))]
    fast = [seconds(lambda: [ours() for _ in range(20)]) / 20 for _ in slow]
    sizes = {"batch": batch, "length": length}
    return [row("segments, pooled and spread: times as fast as loops", ratios(slow, fast), ("least", 100), sizes=sizes)]


# --- edit labels -----------------------------------------------------------------------------------------------------


def aligned(a: list[int], b: list[int]) -> int:
    """The least number of edits, by the textbook's table, which is then read back for labels of both sides."""
    table = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        line = [i]
        for j, y in enumerate(b, 1):
            line.append(min(table[-1][j] + 1, line[-1] + 1, table[-1][j - 1] + (x != y)))
        table.append(line)
    i, j, of_a, of_b = len(a), len(b), [0.5] * len(a), [0.5] * len(b)
    while i or j:
        if i and j and table[i][j] == table[i - 1][j - 1] + (a[i - 1] != b[j - 1]):
            i, j = i - 1, j - 1
            if a[i] != b[j]:
                of_a[i], of_b[j] = 0.0, 1.0
        elif i and table[i][j] == table[i - 1][j] + 1:
            i -= 1
            of_a[i] = 0.0
        else:
            j -= 1
            of_b[j] = 1.0
    return table[-1][-1]


def edits(turns: int = 5, length: int = 512) -> list[dict]:
    """Edit labels of two responses against alignment in Python; one token in five is edited."""
    import numpy as np
    from rapidfuzz.distance import Levenshtein

    from densereward.labels.labeling import edit_labels

    draw = np.random.default_rng(0)
    a = draw.integers(5, 700, length).tolist()
    b = [int(draw.integers(5, 700)) if draw.random() < 0.2 else x for x in a]
    assert aligned(a, b) == Levenshtein.distance(a, b)
    slow = [seconds(lambda: aligned(a, b)) for _ in range(turns)]
    fast = [seconds(lambda: [edit_labels(a, b) for _ in range(100)]) / 100 for _ in slow]
    found = ratios(slow, fast)
    return [row("edit labels: times as fast as alignment in Python", found, ("least", 100), sizes={"length": length})]


def labels(turns: int = 1, few: int = 10_000, many: int = 100_000) -> list[dict]:
    """Peak memory of `many` pairs' labels over that of `few`, made and written a thousand pairs at a time."""
    made = in_turns(turns, *(Child("pieces.py", work="labels", pairs=n, first=2) for n in (few, many)))
    peaks, rates = [max(of(r, "peak")) for r in made], [n / r[0]["seconds"] for n, r in zip((few, many), made)]
    further = {"peaks_mib": peaks, "pairs_per_second": rates, "sizes": {"few": few, "many": many}}
    name = f"labels of {many:,} pairs: peak memory over that of {few:,}"
    return [row(name, ratios([peaks[1]], [peaks[0]]), ("most", 1.1), **further)]


def labels_round(spec: dict):
    import tempfile
    from pathlib import Path

    from datasets import Dataset

    from densereward.labels.labeling import labelled
    from densereward.labels.revision import checked
    from densereward.text.models import load_causal_lm
    from densereward.text.tokens import tokenize_prompt, tokenize_response
    from study.profiles import models_folder, profile
    from testbed import build

    tokenizer = load_causal_lm(models_folder("cpu") / "sft")[1]
    pairs = build.load(profile("cpu").world, 0, 0.0, preference=1000)[0]["preference"].to_list()
    pairs = [(p["prompt"], *(p[side][0]["content"] for side in ("rejected", "chosen"))) for p in pairs]
    prompts = [tokenize_prompt(tokenizer, prompt) for prompt, *_ in pairs]
    rejected = [tokenize_response(tokenizer, text) for _, text, _ in pairs]
    counted = [spec["first"] * 1000]  # the round that is not counted is short

    def work():
        with tempfile.TemporaryDirectory() as folder:
            for start in range(0, counted[0], 1000):
                shift = start // 1000 % len(pairs)  # no two parts are the same
                revisions = [checked(pairs[(i + shift) % len(pairs)][2], pairs[i][1]) for i in range(len(pairs))]
                rows = Dataset.from_dict({"prompt_ids": prompts, "rejected_completion_ids": rejected})
                labelled(rows, revisions, tokenizer, 512)[0].to_parquet(Path(folder, f"{start}.parquet"))
        counted[0] = spec["pairs"]

    return work


# --- sampling --------------------------------------------------------------------------------------------------------


def sampling(
    turns: int = 7, rows: int = 64, each: int = 16, length: int = 128, model="cpu", static: bool = CUDA, **more
):
    """Our decode loop against transformers' `generate`, which TRL's trainers call, in tokens a second: of prompts, and
    of `each` continuations of `rows` / 4 prefixes. With `static`, full answers against `generate` with a static cache,
    compiled, and ours against ours on a cache that grows."""
    from ppo import made, prompts
    from transformers import DynamicCache

    from densereward.text import sampling as S
    from densereward.text.tokens import pad_batch, tokenize_prompt

    net, tokenizer = made(model)
    net = net.to(DEVICE, getattr(torch, more.get("dtype", "float32"))).eval()
    asked = [tokenize_prompt(tokenizer, p) for p in prompts(rows)]
    prefixes = [p for p in asked[: rows // 4] for _ in range(each)]
    taken, pad = {}, tokenizer.pad_token_id

    def generate(given, **cache):
        ids, mask = (x.to(DEVICE) for x in pad_batch(given, pad, "left"))
        fixed = {"min_new_tokens": length} if cache else {}  # a static cache has one shape
        settings = {"max_new_tokens": length, "pad_token_id": pad, "eos_token_id": tokenizer.eos_token_id}
        with torch.no_grad():
            found = net.generate(ids, attention_mask=mask, **settings, **S.PLAIN, **cache, **fixed)
        taken["tokens"] = int((found[:, ids.size(1) :] != pad).sum())

    def ours(given):
        taken["tokens"] = sum(map(len, S.continued(net, tokenizer, given, length, **S.PLAIN)))

    def rate(way, *given, **cache) -> float:
        spent = seconds(lambda: way(*given, **cache))
        return taken["tokens"] / spent

    sizes = {"rows": rows, "each": each, "length": length, "model": model}
    for name, given in {"prompts": asked, "continuations": prefixes}.items():
        rates = [(rate(ours, given), rate(generate, given)) for _ in range(turns + 1)][1:]
        yield row(f"sampling {len(given)} {name}: tokens a second over TRL's", ratios(*zip(*rates)), sizes=sizes)
    if not static:
        return

    def full(given):
        taken["tokens"] = sum(map(len, S.decode(net, given, length, [-1], pad, **S.PLAIN)))

    def growing(given):
        with patch.object(S, "cache_of", lambda model, tokens: (DynamicCache(config=model.config), False)):
            ours(given)

    compiled = {"cache_implementation": "static"}
    rates = [(rate(full, asked), rate(generate, asked, **compiled)) for _ in range(turns + 2)][2:]
    name = f"sampling {rows} prompts, full answers: tokens a second over a compiled static cache's"
    yield row(name, ratios(*zip(*rates)), sizes=sizes)
    rates = [(rate(ours, asked), rate(growing, asked)) for _ in range(turns + 1)][1:]
    name = f"sampling {rows} prompts: tokens a second over those of steps that are not replayed"
    yield row(name, ratios(*zip(*rates)), sizes=sizes)


if __name__ == "__main__":
    if not CUDA:
        torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    work = {"logprobs": logprobs_round, "labels": labels_round}[given["work"]](given)
    Baton().rounds(work)
