"""Scorers on a frozen trunk: what the lower layers of a model make of each token is computed once, and only the layers
above learn.

The layers above are a transformer of their own whose embedding table holds the cached states: the id of a token is its
place in the cache. So the trainer, the collator and the margins of `reward_model.py` serve as they are, and epochs cost
what the upper layers cost. Attention is causal and positions are relative, so that nothing else of the lower layers is
needed; `whole` puts a trained top back below a language model's own embeddings.

Left out: other architectures than Llama's.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from densereward.progress import progress
from densereward.reward import dense
from densereward.seeding import derive, seed_everything
from densereward.text import sampling
from densereward.text.models import TokenScorer, TokenScorerConfig, scorer_from
from densereward.training import reward_model
from densereward.training.reward_model import SIDES
from study.cache import stage
from study.measures.constants import estimate, resamples

CHUNK = 50  # pairs that are read at a time


@torch.no_grad()
def cached(model, tokenizer, prompts: list, completions: list, top: int, batch_size: int = 16):
    """(states [N, D], rows): what the last `top` layers of a causal LM are given, for every token of every answer, and
    a Dataset with a row per answer: prompt_ids, completion_ids (places among the states), entropies, logps (nats) of
    the completion's T tokens. `prompts` and `completions` are token ids."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(completions[i]))
    states, rows, at = [], [{} for _ in prompts], 0

    def keep(_layer, given):
        nonlocal at
        for i, row in zip(take, given[0]):  # [L, D]: rows are moved to the left
            prompt, length = len(prompts[i]), len(prompts[i]) + len(completions[i])
            states.append(row[:length].clone())
            rows[i] |= {"prompt_ids": range(at, at + prompt), "completion_ids": range(at + prompt, at + length)}
            at += length

    hook = model.model.layers[-top].register_forward_pre_hook(keep)
    try:
        for start in progress("answers read, batches", range(0, len(order), batch_size)):
            take = order[start : start + batch_size]
            batch = sampling.batch_of(model, tokenizer, [prompts[i] for i in take], [completions[i] for i in take])
            for i, entropies, logps in zip(take, batch["ref_entropies"].tolist(), batch["ref_logps"].tolist()):
                length = len(completions[i])
                rows[i] |= {"entropies": entropies[:length], "logps": logps[:length]}
    finally:
        hook.remove()
    rows = [{name: list(x) for name, x in row.items()} for row in rows]
    return torch.cat(states), Dataset.from_list(rows)


def read_pairs(model, tokenizer, folder: Path, pairs: Dataset, top: int, root: Path) -> tuple[torch.Tensor, Dataset]:
    """`cached` of both answers of pairs, chosen and rejected in turns; kept below `root`, CHUNK pairs at a
    time, so that what is stopped goes on where it was."""
    states, rows, at = [], [], 0
    for start in progress("chunks of pairs", range(0, len(pairs), CHUNK)):
        part = pairs.select(range(start, min(start + CHUNK, len(pairs))))
        prompts = [ids for ids in part["prompt_ids"] for _ in SIDES]
        completions = [row[f"{side}_completion_ids"] for row in part for side in SIDES]

        def build(place: Path, prompts=prompts, completions=completions) -> None:
            states, rows = cached(model, tokenizer, prompts, completions, top)
            save_file({"states": states}, place / "states.safetensors")
            rows.save_to_disk(place / "rows")

        key = {"prompts": prompts, "completions": completions, "top": top}
        code, needs = [cached, sampling], [folder / "hashes.json"]
        made = stage("states", build, key=key, sources=code, inputs=needs, root=root)
        states.append(load_file(made.path / "states.safetensors")["states"])
        for row in Dataset.load_from_disk(str(made.path / "rows")):
            rows.append(row | {name: [i + at for i in row[name]] for name in ("prompt_ids", "completion_ids")})
        at += len(states[-1])
    return torch.cat(states), Dataset.from_list(rows)


def pairs(rows: Dataset) -> Dataset:
    """Rows of `cached`, chosen and rejected in turns, as pairs that `reward_model.with_segments` takes."""
    columns = rows[:]
    made = {"prompt_ids": columns["prompt_ids"][::2]}
    for i, side in enumerate(SIDES):
        made |= {f"{side}_{name}": columns[name][i::2] for name in ("completion_ids", "entropies")}
    return Dataset.from_dict(made)


def upper(model, states: torch.Tensor, top: int, **settings) -> TokenScorer:
    """A scorer of the last `top` layers of a causal LM, over cached states, which do not learn. Random: the head, by
    torch's global state."""
    pad = model.config.pad_token_id
    config = model.config.to_dict() | {"num_hidden_layers": top, "vocab_size": pad + 1}
    net = TokenScorer(TokenScorerConfig(config, pad_token_id=pad, **settings))
    net.backbone.layers.load_state_dict(model.model.layers[-top:].state_dict())
    net.backbone.norm.load_state_dict(model.model.norm.state_dict())
    net.backbone.embed_tokens = torch.nn.Embedding.from_pretrained(states)
    return net


def whole(model, net: TokenScorer) -> TokenScorer:
    """The scorer of a causal LM whose upper layers and head are those of `upper`'s `net`: it takes token ids."""
    full = scorer_from(model, aggregate=net.config.aggregate, scale=net.config.scale)
    full.backbone.layers[-len(net.backbone.layers) :].load_state_dict(net.backbone.layers.state_dict())
    full.backbone.norm.load_state_dict(net.backbone.norm.state_dict())
    full.head.load_state_dict(net.head.state_dict())
    return full


def trained(model, tokenizer, states, top: int, train: Dataset, heldout: Dataset, row, p, seed: int):
    """(scorer over cached states, curve of held-out accuracy) of a row of `methods.py`, with a profile's settings: one
    epoch over `reward_model.with_segments` rows. Random: head and order (seed)."""
    seed_everything(derive(seed, "scorer"))
    net = upper(model, states, top, aggregate=row.aggregate, scale=p.rm_scale)
    with tempfile.TemporaryDirectory() as folder:
        curve = reward_model.train_reward_model(
            net, tokenizer, train, heldout, Path(folder), derive(seed, "scorer"), p.rm_batch, p.rm_learning_rate
        )
    return net.eval(), curve


@torch.no_grad()
def scores(net, rows: Dataset, pad_id: int, batch_size: int = 32) -> np.ndarray:
    """The score of both answers of each row of `reward_model.with_segments`, [N, 2]."""
    batches = (rows[i : i + batch_size] for i in range(0, len(rows), batch_size))
    rowwise = ([dict(zip(b, values)) for values in zip(*b.values())] for b in batches)
    found = [net(**reward_model.collate(b, pad_id)).logits[:, 0].view(2, -1).T for b in rowwise]
    return torch.cat(found).numpy()


def swapped(rows: Dataset, swap: np.ndarray) -> Dataset:
    """Pairs whose sides change places where `swap` [N] says so."""
    columns = rows[:]
    for name in ("completion_ids", "entropies", "segment_ids"):
        sides = [f"{side}_{name}" for side in SIDES]
        both = [(b, a) if s else (a, b) for a, b, s in zip(*(columns[side] for side in sides), swap)]
        columns |= dict(zip(sides, map(list, zip(*both))))
    return Dataset.from_dict(columns)


def gap(net, full, few: Dataset, real: Dataset, row, tokenizer, seed: int) -> float:
    """The largest difference between a scorer's margins over cached states and over token ids."""
    pad, of = tokenizer.pad_token_id, (reward_model.with_segments(x, row, tokenizer, seed) for x in (few, real))
    ours, theirs = (reward_model.margins(n, x, pad) for n, x in zip((net, full), of))
    return float(np.abs(ours - theirs).max())


def accuracy(margin: np.ndarray, draw: np.random.Generator) -> dict:
    """(value, low, high) of the share of margins [N] above zero, a tie counted half, 95% bootstrap over pairs, and
    whether each is."""
    right = (np.sign(margin) + 1) / 2
    return {"accuracy": estimate(resamples(len(right), draw) @ right / len(right)), "right": right.tolist()}


@torch.no_grad()
def strip(tokenizer, net, row, normaliser, pairs: Dataset, i: int) -> dict:
    """What a row pays the chosen answer of pair i, token by token, with its segments."""
    batch = reward_model.answers([pairs[i]], "chosen", tokenizer)
    ids = dense.segment_ids(row.segmentation, batch, tokenizer)
    paid = dense.reward_function(row, net, normaliser, tokenizer)(batch)[0]
    return {"segments": ids[0].tolist(), "rewards": [round(x, 5) for x in paid.tolist()]}
