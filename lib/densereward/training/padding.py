"""Padding is not computed: rows of like length go through the model together, each pass as wide as its longest row.

Which rows an update sees, and its loss, stay the same up to rounding; only how they are grouped into micro-batches
changes. Widths are read on the host, once per rollout batch.

Book: ppo.md
"""

import math

import numpy as np
import torch

from densereward.text.logprobs import completion_forward


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


def sizes(lengths: np.ndarray, parts: int) -> list[int]:
    """How many of the rows with `lengths` [B], ascending, each of `parts` passes takes, in order, so that the fewest
    tokens are computed when a pass is as wide as its longest row. No pass is larger than one of equally many rows."""
    rows = np.arange(len(lengths) + 1)
    area = (rows - rows[:, None]) * np.append(0, lengths)  # [start, end]
    fits = (rows[:, None] < rows) & (area <= -(-len(lengths) // parts) * lengths[-1])
    area, best, starts = np.where(fits, area, np.inf), np.where(rows == 0, 0, np.inf), []
    for _ in range(parts):  # best [end]: of so many parts
        total = best[:, None] + area
        starts.append(total.argmin(0))
        best = total.min(0)
    ends = [len(lengths)]
    for start in reversed(starts):
        ends.append(int(start[ends[-1]]))
    return np.diff(ends[::-1]).tolist()


def by_length(batches: list[dict], accumulated: int, even: bool = False) -> list[dict]:
    """The micro-batches of a rollout batch with the rows of each update, `accumulated` micro-batches, sorted by length,
    and trimmed: which rows an update sees does not change. `even`: micro-batches keep their number of rows, for losses
    that are means over them; else it is that of `sizes`."""
    made, size = [], math.gcd(accumulated, len(batches))
    for start in range(0, len(batches), size):
        group = batches[start : start + size]
        rows = {name: torch.cat([b[name] for b in group]) for name, x in group[0].items() if _per_row(x)}
        order, lengths = _sorted(rows["prompt_mask"], rows["completion_mask"])
        order = order.chunk(size) if even else order.split(sizes(lengths, size))
        made += [trimmed(b | {name: x[take] for name, x in rows.items()}) for b, take in zip(group, order, strict=True)]
    return made


def _sorted(prompt_mask: torch.Tensor, completion_mask: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """(order [B] of rows by length, their lengths [B] in that order)."""
    lengths, order = (prompt_mask.sum(1) + completion_mask.sum(1)).sort(stable=True)
    return order, lengths.cpu().numpy()


def _per_row(x) -> bool:
    return torch.is_tensor(x) and x.dim() > 0


def forward_by_length(model, ids: torch.Tensor, mask: torch.Tensor, length: int, size: int) -> dict[str, torch.Tensor]:
    """`completion_forward` with rows sorted by length, as many passes as of `size` rows, each trimmed to its longest;
    zero on the columns left out."""
    prompt = ids.size(1) - length
    batch = {"prompt_ids": ids[:, :prompt], "prompt_mask": mask[:, :prompt]}
    batch |= {"completion_ids": ids[:, prompt:], "completion_mask": mask[:, prompt:]}
    order, lengths = _sorted(batch["prompt_mask"], batch["completion_mask"])
    made = []
    for rows in order.split(sizes(lengths, -(-len(lengths) // size))):
        part = trimmed({name: x[rows] for name, x in batch.items()})
        width = part["completion_mask"].size(1)
        both = (torch.cat([part[f"prompt_{name}"], part[f"completion_{name}"]], 1) for name in ("ids", "mask"))
        fields = completion_forward(model, *both, width)
        made.append({name: torch.nn.functional.pad(x, (0, length - width)) for name, x in fields.items()})
    back = order.argsort()
    return {name: torch.cat([fields[name] for fields in made])[back] for name in made[0]}
