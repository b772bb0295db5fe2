"""Sampling completions, and reading them back as batches. Temperature 1, no truncation of the distribution (segment-ppo
Appendix D).

Left out: vLLM, beam search. Greedy decoding makes small models loop, so nothing here is evaluated with it.
"""

import torch

from densereward.logprobs import logprobs_and_entropy
from densereward.tokens import pad_batch

PLAIN = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}  # the model's own distribution
GREEDY = {"do_sample": False}


@torch.no_grad()
def continued(model, tokenizer, prefixes: list[list[int]], max_new_tokens: int, **settings) -> list[list[int]]:
    """One continuation per prefix of token ids, as one batch, EOS included where it was reached; `settings` are those
    of `generate`. Random: torch's global generator, where they sample."""
    ids, mask = pad_batch(prefixes, tokenizer.pad_token_id, "left")
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    found = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=eos,
        **settings,
    )
    rows = found[:, ids.size(1) :].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


@torch.no_grad()
def sample(
    model, tokenizer, prefixes: list[list[int]], max_new_tokens: int, seed: int, batch_size: int = 256
) -> list[list[int]]:
    """One sampled continuation per prefix of token ids, EOS included where it was reached, in the order given.

    Random: reseeds torch's global generator (the one that `generate` draws from) inside a fork, so nothing outside is
    touched. Prefixes are batched by length."""
    order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
    out: list[list[int]] = [[] for _ in prefixes]
    training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            new = continued(model, tokenizer, [prefixes[i] for i in rows], max_new_tokens, **PLAIN)
            for i, row in zip(rows, new, strict=True):
                out[i] = row
    model.train(training)
    return out


@torch.no_grad()
def batch_of(model, tokenizer, prompts: list[list[int]], completions: list[list[int]]) -> dict[str, torch.Tensor]:
    """The batch that reward functions take: prompt_ids, prompt_mask [B, P], completion_ids, completion_mask [B, T], and
    ref_logps, ref_entropies [B, T] (nats) of `model`, the SFT model. Raises ValueError for an empty completion (its
    row)."""
    empty = [i for i, ids in enumerate(completions) if not ids]
    if empty:
        raise ValueError(f"row {empty[0]}: the completion has no token; leave it out, or give it an EOS")
    prompt_ids, prompt_mask = pad_batch(prompts, tokenizer.pad_token_id, "left")
    completion_ids, completion_mask = pad_batch(completions, tokenizer.pad_token_id)
    batch = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
    }
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    logps, entropies = logprobs_and_entropy(
        model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        completion_ids.size(1),
    )
    return {**batch, "ref_logps": logps, "ref_entropies": entropies}
