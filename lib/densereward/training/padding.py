"""Padding is not computed: rows of like length go through the model together, each pass as wide as its longest row.

Which rows an update sees, and its loss, stay the same up to rounding; only how they are grouped into micro-batches
changes. Widths are read on the host, once per rollout batch.
"""

import math

import torch

from densereward.logprobs import completion_forward


def trimmed(batch: dict) -> dict:
    """A batch of TRL's (left-padded prompts [B, P], right-padded completions and what belongs to them [B, T]) without
    the columns in which every row is padding."""
    prompt, completion = (int(batch[f"{part}_mask"].sum(1).max()) for part in ("prompt", "completion"))
    width = batch["completion_mask"].size(1)
    return {
        name: x[:, -prompt:]
        if name in ("prompt_ids", "prompt_mask")
        else x[:, :completion]
        if torch.is_tensor(x) and x.dim() > 1 and x.size(1) == width
        else x
        for name, x in batch.items()
    }


def by_length(batches: list[dict], accumulated: int) -> list[dict]:
    """The micro-batches of a rollout batch with the rows of each update, `accumulated` micro-batches, sorted by
    completion length, and trimmed: which rows an update sees does not change."""
    made, size = [], math.gcd(accumulated, len(batches))
    for start in range(0, len(batches), size):
        group = batches[start : start + size]
        rows = {name: torch.cat([b[name] for b in group]) for name, x in group[0].items() if _per_row(x)}
        order = rows["completion_mask"].sum(1).argsort(stable=True).chunk(len(group))
        made += [trimmed(b | {name: x[take] for name, x in rows.items()}) for b, take in zip(group, order, strict=True)]
    return made


def _per_row(x) -> bool:
    return torch.is_tensor(x) and x.dim() > 0


def forward_by_length(model, ids: torch.Tensor, mask: torch.Tensor, length: int, size: int) -> dict[str, torch.Tensor]:
    """`completion_forward` with rows sorted by completion length, `size` at a time, each pass trimmed to its longest;
    zero on the columns left out."""
    prompt = ids.size(1) - length
    batch = {"prompt_ids": ids[:, :prompt], "prompt_mask": mask[:, :prompt]}
    batch |= {"completion_ids": ids[:, prompt:], "completion_mask": mask[:, prompt:]}
    order = batch["completion_mask"].sum(1).argsort(stable=True)
    made = []
    for rows in order.split(size):
        part = trimmed({name: x[rows] for name, x in batch.items()})
        width = part["completion_mask"].size(1)
        both = (torch.cat([part[f"prompt_{name}"], part[f"completion_{name}"]], 1) for name in ("ids", "mask"))
        fields = completion_forward(model, *both, width)
        made.append({name: torch.nn.functional.pad(x, (0, length - width)) for name, x in fields.items()})
    back = order.argsort()
    return {name: torch.cat([fields[name] for fields in made])[back] for name in made[0]}
