"""What would break: a response scored or updated as something else because of its neighbours in a micro-batch."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densereward.text.logprobs import attach_critic, completion_forward, fused_head
from densereward.text.models import build_tokenizer, scorer_from, tiny_llama
from densereward.training.padding import by_length, forward_by_length, sizes, trimmed

TOKENIZER = build_tokenizer(["the cat sat on the mat", "a dog and a cat"], 280)


def batch_of(prompts: list[int], completions: list[int], seed: int = 0) -> dict:
    """Left-padded prompts and right-padded completions of the lengths given; column 0 of `row` names each row."""
    torch.manual_seed(seed)
    p, t = max(prompts) + 1, max(completions) + 2  # columns in which every row is padding
    prompt_mask = (torch.arange(p) >= p - torch.tensor(prompts)[:, None]).long()
    mask = (torch.arange(t) < torch.tensor(completions)[:, None]).long()
    ids = torch.randint(4, 200, (len(prompts), p + t))
    return {
        "prompt_ids": ids[:, :p] * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": ids[:, p:] * mask,
        "completion_mask": mask,
        "advantages": torch.randn(len(prompts), t) * mask,
        "row": torch.arange(len(prompts)),
        "num_items_in_batch": mask.sum(),
    }


def split(batch: dict, parts: int) -> list[dict]:
    rows = {name: x.chunk(parts) if x.dim() else [x] * parts for name, x in batch.items()}
    return [{name: x[i] for name, x in rows.items()} for i in range(parts)]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_response_scores_the_same_whatever_is_beside_it(size):
    torch.manual_seed(0)
    model = fused_head(tiny_llama(TOKENIZER, 32, 2))
    attach_critic(model, scorer_from(tiny_llama(TOKENIZER, 32, 2)))
    torch.nn.init.normal_(model.critic.head.weight)
    batch = batch_of([3, 1, 5, 2, 2, 4, 1], [4, 9, 1, 12, 2, 2, 7])
    ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
    real = batch["completion_mask"].bool()
    whole = completion_forward(model, ids, mask, real.size(1))
    sorted_ = forward_by_length(model, ids, mask, real.size(1), size)
    assert whole.keys() == sorted_.keys() == {"log_probs", "entropy", "token_values"}
    for name, x in whole.items():
        assert sorted_[name].shape == real.shape and x[real].std() > 0
        torch.testing.assert_close(sorted_[name][real], x[real], atol=1e-5, rtol=1e-5, msg=name)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 12)), min_size=12, max_size=12),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.booleans(),
)
def test_every_update_keeps_its_rows_and_every_row_its_tokens(lengths, accumulated, even):
    batch = batch_of(*map(list, zip(*lengths, strict=True)))
    before = split(batch, 6)
    after = by_length(before, accumulated, even)
    assert len(after) == 6 and (not even or all(len(made["row"]) == 2 for made in after))
    size = math.gcd(accumulated, 6)
    for start in range(0, 6, size):
        rows = [torch.cat([b["row"] for b in made[start : start + size]]) for made in (before, after)]
        assert sorted(rows[0].tolist()) == sorted(rows[1].tolist())
        found = torch.cat([b["prompt_mask"].sum(1) + b["completion_mask"].sum(1) for b in after[start : start + size]])
        assert (found.diff() >= 0).all()
    for made in after:
        real, prompt = made["completion_mask"].bool(), made["prompt_mask"].bool()
        assert real.any(0).all() and prompt.any(0).all() and made["num_items_in_batch"] == batch["num_items_in_batch"]
        for i, row in enumerate(made["row"].tolist()):
            for name in ("completion_ids", "advantages"):
                expected = batch[name][row][batch["completion_mask"][row].bool()]
                assert torch.equal(made[name][i][real[i]], expected)
            assert torch.equal(
                made["prompt_ids"][i][prompt[i]], batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
            )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=4, max_size=8), st.integers(1, 4))
def test_passes_are_cut_where_the_fewest_tokens_are_computed(lengths, parts):
    """Against every way to cut; and equal lengths must not pile up in one pass, which might not fit the memory."""
    lengths, rows = np.array(sorted(lengths)), len(lengths)
    limit = -(-rows // parts) * lengths[-1]

    def areas(cuts):
        ends = [0, *cuts, rows]
        return [(b - a) * lengths[b - 1] for a, b in zip(ends, ends[1:])]

    every = (areas(cuts) for cuts in itertools.combinations(range(1, rows), parts - 1))
    found = sizes(lengths, parts)
    assert sum(found) == rows and len(found) == parts and min(found) > 0
    taken = areas(np.cumsum(found)[:-1])
    assert max(taken) <= limit and sum(taken) == min(sum(a) for a in every if max(a) <= limit)


def test_prompts_and_completions_of_equal_width_are_told_apart():
    batch = batch_of([2, 3], [1, 2])  # both 4 columns wide
    made = trimmed(batch)
    assert made["prompt_ids"].tolist() == batch["prompt_ids"][:, 1:].tolist()
    assert made["completion_ids"].tolist() == batch["completion_ids"][:, :2].tolist()
