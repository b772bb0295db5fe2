"""Conversations to token ids, padded batches. Lengths are cut as in segment-ppo Appendix D.

Texts are characters: a special token that one spells out is read as its letters, in prompts as in replies, so that no
text opens or closes a turn. Whether prompt and reply together are what the chat template renders is looked at once per
template, and per row where a template is not this project's own; where they differ, a warning says how.

Left out: packing, images, tools.

Book: segmentation.md
"""

import os
import re
import warnings
from collections.abc import Iterable
from datetime import date
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from densereward.progress import progress
from densereward.text.data import Report, table

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TODAY = date(2024, 7, 26)  # what templates that write a date are told: Llama 3.1's own where it knows of no clock
PROBE = [{"role": "user", "content": "name three animals please"}, {"role": "assistant", "content": "fox owl cat."}]


class _Known(NamedTuple):
    """What is read off a tokenizer and its chat template once: patterns of its special tokens, with those that swallow
    spaces beside them (`spelt`), and of the latter alone where they are not special (`greedy`), either None without
    any; whether a word reads alike behind a special token and at the start; what differs at the reply's border."""

    key: tuple
    spelt: re.Pattern | None
    greedy: re.Pattern | None
    joined: bool
    differs: str | None


_KNOWN: WeakKeyDictionary = WeakKeyDictionary()


def _known(tokenizer: PreTrainedTokenizerBase) -> _Known:
    key = (str(tokenizer.chat_template), tokenizer.eos_token, len(tokenizer))
    found = _KNOWN.get(tokenizer)
    if found is None or found.key != key:
        added = [token for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1]
        greedy = [token for token in added if (token.lstrip or token.rstrip) and not token.special]
        spelt = _any_of([token for token in added if token.special] + greedy)
        behind = _encoded(tokenizer, f"{tokenizer.eos_token}a")[1:] if tokenizer.eos_token else None
        found = _Known(key, spelt, _any_of(greedy), behind in (None, _encoded(tokenizer, "a")), None)
        _KNOWN[tokenizer] = found  # the check of the border asks again
        _KNOWN[tokenizer] = found = found._replace(differs=_differs(tokenizer))
    return found


def _any_of(added: list) -> re.Pattern | None:
    words = sorted((token.content for token in added), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words))) if words else None


def _encoded(tokenizer, text: str, **settings) -> list[int]:
    return tokenizer(text, add_special_tokens=False, **settings)["input_ids"] if text else []


def without_clock(template: str) -> str:
    """A chat template that writes TODAY where it would write today's date, which made other tokens every day. Raises
    ValueError where it computes a date's format."""
    asked = 0 if "macro strftime_now(" in template else template.count("strftime_now(")
    if not asked:
        return template
    formats = re.findall(r"strftime_now\(\s*(['\"])((?:(?!\1).)*)\1\s*\)", template)
    if len(formats) != asked:
        raise ValueError("the chat template writes today's date, in a format that it computes: write a fixed date")
    said = {said: TODAY.strftime(said) for _, said in formats}
    return f"{{%- macro strftime_now(said) -%}}{{{{ {said!r}[said] }}}}{{%- endmacro -%}}{template}"


def rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict], prompt: bool = False, **settings):
    """A conversation as the chat template writes it, as text; as a `prompt` up to where the reply starts. The same on
    every day. Raises ValueError where the template cannot render it."""
    template = tokenizer.chat_template
    if isinstance(template, str) and "strftime_now(" in template:
        settings["chat_template"] = without_clock(template)
    settings = {"tokenize": False, "return_dict": False} | settings
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, **settings)
    except Exception as problem:  # a template is a program, which may fail in any way
        roles, why = ", ".join(message["role"] for message in messages), " ".join(str(problem).split())
        raise ValueError(f"the chat template refuses the roles {roles} ({why:.120}); use another template") from problem


def turn_end(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The special token with which the chat template ends a reply; None where it writes none, or no such turn."""
    try:
        _, reply, tail = rendered(tokenizer, PROBE).rpartition(PROBE[-1]["content"])
    except ValueError:
        return None
    spelt = _known(tokenizer).spelt
    found = spelt.search(tail) if spelt and reply else None
    return found[0] if found else None


def refuse_deaf(tokenizer: PreTrainedTokenizerBase) -> None:
    """ValueError where the chat template leaves out what a prompt or a reply says."""
    whole = rendered(tokenizer, PROBE)
    for message in PROBE:
        if message["content"] not in whole:
            said = f"the chat template leaves out what the {message['role']} says"
            raise ValueError(f"{said}; write {{{{ message['content'] }}}} into it, or use another template")


def border(tokenizer: PreTrainedTokenizerBase, prompt: list[dict], reply: str) -> str | None:
    """How the chat template renders a reply to a prompt, where that is not the rendered prompt, the reply and EOS; None
    where it is."""
    whole = rendered(tokenizer, [*prompt, {"role": "assistant", "content": reply}])
    ours = rendered(tokenizer, prompt, True) + reply + str(tokenizer.eos_token)
    if whole.startswith(ours):
        return None
    at = max(0, len(os.path.commonprefix([whole, ours])) - 12)
    return f"it renders ...{whole[at : at + 40]!r}, where prompt and reply read ...{ours[at : at + 40]!r}"


def _differs(tokenizer) -> str | None:
    """What a warning says of a chat template, None where prompt ids and reply ids together are what it renders."""
    if tokenizer.chat_template is None or tokenizer.eos_token is None:
        return None
    mend = "policies learn the latter; mend the template, so that a reply begins where the prompt ends, and EOS ends it"
    try:
        if how := border(tokenizer, PROBE[:1], PROBE[1]["content"]):
            return f"the chat template does not join a reply to its prompt: {how}; {mend}"
        whole = _encoded(tokenizer, rendered(tokenizer, PROBE))
    except ValueError:
        return None  # it is refused, or not, where a real conversation is rendered
    ours = _prompt_ids(tokenizer, PROBE[:1]) + tokenize_responses(tokenizer, [PROBE[1]["content"]])[0]
    if whole[: len(ours)] == ours:
        return None
    at = next(i for i, (a, b) in enumerate(zip([*whole, None], ours)) if a != b)
    theirs, read = (tokenizer.convert_ids_to_tokens(ids[max(0, at - 2) : at + 4]) for ids in (whole, ours))
    return f"the chat template's tokens are not those of prompt and reply: {theirs}, and apart {read}; {mend}"


def spells(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text spells a special token out."""
    spelt = _known(tokenizer).spelt
    return spelt is not None and spelt.search(text) is not None


def _characters(tokenizer, text: str) -> list[int]:
    """Ids of a text as it reads behind a special token, with special tokens spelt out in it as characters."""
    known = _known(tokenizer)
    if known.greedy and (found := known.greedy.search(text)):  # what no setting splits is read in two parts
        cut = found.start() + 1
        return _characters(tokenizer, text[:cut]) + _characters(tokenizer, text[cut:])
    if known.joined:
        return _encoded(tokenizer, text, split_special_tokens=True)
    # SentencePiece models put a space before the first word of a text, and none behind a line break
    before, ids = (_encoded(tokenizer, part, split_special_tokens=True) for part in ("\n", f"\n{text}"))
    joined = ids[: len(before)] == before
    return ids[len(before) :] if joined else _encoded(tokenizer, text, split_special_tokens=True)


def tokenize_prompt(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> list[int]:
    """Ids of a prompt up to where the reply starts, the messages' texts as characters. Raises ValueError where the chat
    template cannot render it; warns where it does not join replies to prompts."""
    known = _known(tokenizer)
    if known.differs:
        warnings.warn(known.differs, stacklevel=1)
    return _prompt_ids(tokenizer, messages)


def _prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    if not any(spells(tokenizer, message["content"]) for message in messages):
        return rendered(tokenizer, messages, True, tokenize=True)
    # a mark inside every special token that a text spells; those without are the template's own
    said, spelt = "".join(message["content"] for message in messages), _known(tokenizer).spelt
    mark = next(c for c in map(chr, range(0xE000, 0xF900)) if c not in said)
    guarded = [
        message | {"content": spelt.sub(lambda found: found[0][0] + mark + found[0][1:], message["content"])}
        for message in messages
    ]
    ids: list[int] = []
    plain, strip = "", {token.content: token.rstrip for token in tokenizer.added_tokens_decoder.values()}
    pieces = re.split(f"({spelt.pattern})", rendered(tokenizer, guarded, True))  # text, special token, text, ...
    for before, piece in zip(["", *pieces], pieces):
        if mark not in piece:
            plain += piece
            continue
        ids, plain = ids + _encoded(tokenizer, plain), ""
        piece = piece.replace(mark, "")
        ids += _characters(tokenizer, piece.lstrip() if strip.get(before) else piece)
    return ids + _encoded(tokenizer, plain)


def tokenize_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a reply as it reads behind a prompt, then EOS, which is nowhere else.

    EOS is the tokenizer's `eos_token`, for Phi-3 "<|end|>" (segment-ppo Appendix E); `models.load_causal_lm` sets it to
    what ends a turn. Raises ValueError for a tokenizer without.
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
    for i, text in enumerate(texts):
        if spells(tokenizer, text):
            rows[i] = _characters(tokenizer, text)
    return [[*ids, eos] for ids in rows]


def _count_texts(report: Report, tokenizer, prompt: list[dict], replies: list[str]) -> None:
    """Counts what of a conversation is not what it looks like: texts that spell special tokens, replies that the chat
    template renders otherwise."""
    texts = [*(message["content"] for message in prompt), *replies]
    report.special_spelt += sum(spells(tokenizer, text) for text in texts)
    if tokenizer.chat_template != CHAT_TEMPLATE:  # which writes every text as it is
        report.border_differs += any(border(tokenizer, prompt, reply) for reply in replies)


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
        _count_texts(report, tokenizer, row["prompt"], [row[side][0]["content"] for side in ("chosen", "rejected")])
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
        _count_texts(report, tokenizer, row["prompt"], [row["completion"][0]["content"]])
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


def joined(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts and completions of a batch side by side: ids and mask, both [B, P + T]."""
    return tuple(torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
