"""Conversations to token ids, padded batches. Lengths are cut as in segment-ppo Appendix D.

Left out: packing, images, tools.
"""

from collections.abc import Iterable

import jinja2
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from densereward.data import Report, table
from densereward.progress import progress


def tokenize_prompt(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> list[int]:
    """Ids of a prompt up to where the reply starts. Raises ValueError where the chat template cannot render it."""
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    except jinja2.TemplateError as problem:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(f"the chat template refuses the roles {roles} ({problem}); use another template") from problem


def tokenize_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a reply as it reads behind a prompt, then EOS, which is nowhere else.

    EOS is the tokenizer's `eos_token`, for Phi-3 to be set to "<|end|>" (segment-ppo Appendix E). Raises ValueError
    for a tokenizer without.
    """
    return tokenize_responses(tokenizer, [text])[0]


def tokenize_responses(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """`tokenize_response` of many texts, in one call of the tokenizer, which is several times faster."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ValueError("the tokenizer has no EOS token; set its eos_token to the one that ends a turn")
    if not texts:
        return []
    # read behind a special token: at the start of a text, SentencePiece models would put a space before the first word
    behind = [tokenizer.eos_token + text for text in texts]
    rows = [ids[1:] for ids in tokenizer(behind, add_special_tokens=False)["input_ids"]]
    for i, ids in enumerate(rows):
        if eos in ids:  # the reply spells EOS out: there it is characters like any others
            rows[i] = tokenizer(texts[i], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [[*ids, eos] for ids in rows]


def _check_limits(max_prompt_length: int, max_completion_length: int) -> None:
    if max_prompt_length < 1 or max_completion_length < 2:
        raise ValueError("a prompt needs max_prompt_length >= 1, a response and its EOS max_completion_length >= 2")


def tokenize_pairs(
    dataset: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_prompt_length: int, max_completion_length: int
) -> tuple[Dataset, Report]:
    """Pairs as prompt_ids, chosen_completion_ids, rejected_completion_ids, beside columns other than the texts.

    Prompts are cut on the left, responses on the right with EOS as the last token of what remains (segment-ppo
    Appendix D, which limits the whole, not the response). Lengths in tokens, EOS included. Raises ValueError where no
    pair is left.
    """
    _check_limits(max_prompt_length, max_completion_length)
    dataset, rows, report, prompts = list(dataset), [], Report(), {}
    sides = [
        tokenize_responses(tokenizer, [row[side][0]["content"] for row in dataset]) for side in ("chosen", "rejected")
    ]
    for row, *replies in progress("tokenised pairs", zip(dataset, *sides, strict=True), len(dataset)):
        said = str(row["prompt"])  # many pairs have one prompt
        if said not in prompts:
            prompts[said] = tokenize_prompt(tokenizer, row["prompt"])
        prompt = prompts[said]
        chosen, rejected = (
            ids[: max_completion_length - 1] + ids[-1:] if len(ids) > max_completion_length else ids for ids in replies
        )
        report.read += 1
        if chosen == rejected:
            report.same_tokens += 1
            continue
        report.kept += 1
        report.prompts_cut += len(prompt) > max_prompt_length
        report.responses_cut += sum(len(ids) > max_completion_length for ids in replies)
        further = {name: row[name] for name in row if name not in ("prompt", "chosen", "rejected")}
        ids = {
            "prompt_ids": prompt[-max_prompt_length:],
            "chosen_completion_ids": chosen,
            "rejected_completion_ids": rejected,
        }
        rows.append(further | ids)
    return table(rows, f"tokenised pairs ({report})"), report


def tokenize_sft(
    dataset: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_prompt_length: int, max_completion_length: int
) -> tuple[Dataset, Report]:
    """Rows of prompt and completion as TRL's input_ids and completion_mask; train with completion_only_loss=True.

    Cut like pairs, but a cut response stays without EOS: a policy should not learn to stop in mid-sentence.
    """
    _check_limits(max_prompt_length, max_completion_length)
    dataset, rows, report = list(dataset), [], Report()
    replies = tokenize_responses(tokenizer, [row["completion"][0]["content"] for row in dataset])
    for row, reply in progress("tokenised dialogues", zip(dataset, replies, strict=True), len(dataset)):
        prompt = tokenize_prompt(tokenizer, row["prompt"])
        report.prompts_cut += len(prompt) > max_prompt_length
        report.responses_cut += len(reply) > max_completion_length
        prompt, reply = prompt[-max_prompt_length:], reply[:max_completion_length]
        rows.append({"input_ids": prompt + reply, "completion_mask": [0] * len(prompt) + [1] * len(reply)})
    report.read = report.kept = len(rows)
    return table(rows, "sft"), report


def pad_batch(ids: list[list[int]], pad_id: int, side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids padded on one side, and their mask (1 = real): two long tensors [B, longest]."""
    rows = [torch.tensor(row, dtype=torch.long) for row in ids]
    masks = [torch.ones_like(row) for row in rows]
    return (
        pad_sequence(rows, batch_first=True, padding_value=pad_id, padding_side=side),
        pad_sequence(masks, batch_first=True, padding_side=side),
    )


def collate_prompt_completion(rows: list[dict], pad_id: int, column: str = "completion_ids") -> dict[str, torch.Tensor]:
    """prompt_ids, prompt_mask [B, P], padded left; completion_ids, completion_mask [B, T], `column`, padded right."""
    prompt_ids, prompt_mask = pad_batch([row["prompt_ids"] for row in rows], pad_id, "left")
    completion_ids, completion_mask = pad_batch([row[column] for row in rows], pad_id)
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    return dict(zip(names, (prompt_ids, prompt_mask, completion_ids, completion_mask)))
