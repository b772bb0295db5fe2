"""Who pays in time: of each segmentation, the share of credit that is paid at or after the token that decides it.

Measured on answers of the SFT model to test prompts, whose spans and credits the testbed knows. Nothing here trains.
"""

from dataclasses import replace

import pandas as pd
import torch

from densereward.reward import dense
from densereward.reward.segments import start_rate
from densereward.seeding import derive, generator
from densereward.text import sampling, tokens
from densereward.text.models import load_causal_lm, to_device
from study.measures.credit import causal_share
from study.methods import METHODS
from study.run import Run
from testbed import truth

CUT = ("bandit", "sentence", "random", "token", *(f"ngram-{n}" for n in (2, 5, 10, 20)))  # rows whose cuts are measured
CUT += ("cutoff-1.5", "segment", "cutoff-2", "cutoff-2.25", "oracle-dense-even")
HOW = {"even": "split evenly", "repeat": "repeated", "none": "at the last token"}


@torch.no_grad()
def answers(run: Run, n: int) -> tuple[dict, truth.Spans, object]:
    """(batch as `dense.segment_ids` takes it, spans, tokenizer) of n answers of the SFT model to test prompts. Random:
    `run.seed`."""
    model, tokenizer = load_causal_lm(run.sft)
    model = to_device(model).eval()
    said = run.splits(test=n)["test"]["prompt"][:]
    prompts = [tokens.tokenize_prompt(tokenizer, c)[-run.profile.max_prompt_length :] for c in said]
    length = run.profile.max_completion_length
    made = sampling.sample(model, tokenizer, prompts, length, derive(run.seed, "instrument"))
    batch = {name: x.cpu() for name, x in sampling.batch_of(model, tokenizer, prompts, made).items()}
    return batch, truth.spans_of(tokenizer, [c[-1]["content"] for c in said], made), tokenizer


def shares(batch: dict, spans: truth.Spans, tokenizer, seed: int) -> pd.DataFrame:
    """Of the credit of these answers, the share that each segmentation of `CUT` pays in time (`credit.causal_share`),
    by each way to spread it (`HOW`); `items`, of items' credit alone, split evenly; `begins`, the share of credit that
    is decided at the first token of a segment; `tokens` per segment. Random cuts come as often as `segment`'s, drawn
    from `seed`."""
    item = [[float(s.item is not None) for s in parsed] for parsed in spans.parsed]
    items = spans.credits * torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in item], batch_first=True)
    rate, rows = start_rate(dense.segment_ids(METHODS["segment"].segmentation, batch, tokenizer)), []
    for name in CUT:
        row = METHODS[name]
        if name == "random":
            row = replace(row, segmentation={"kind": "random", "rate": rate})
        cut = spans.ids
        if row.segmentation["kind"] != "spans":
            cut = dense.segment_ids(row.segmentation, batch, tokenizer, generator(seed, "segments", name))
        inside = cut.gather(1, spans.deciding)
        first = (cut != torch.nn.functional.pad(cut, (1, 0), value=-1)[:, :-1]).gather(1, spans.deciding)
        weights = spans.credits.abs() * (inside >= 0)
        rows.append(
            {"method": name, "segmentation": _cut_label(row)}
            | {"tokens": float((cut >= 0).sum() / (cut.max(1).values + 1).sum())}
            | {"begins": float((first * weights).sum() / weights.sum())}
            | {how: causal_share(cut, spans.deciding, spans.credits, how) for how in HOW}
            | {"items": causal_share(cut, spans.deciding, items, "even")}
        )
    return pd.DataFrame(rows)


def _cut_label(row) -> str:
    kind = row.segmentation["kind"]
    if kind == "entropy":
        return f"Entropy above {row.segmentation['cutoff']:g} nats"
    return "True spans" if kind == "spans" else row.label
