"""Sampling completions, and reading them back as batches. Temperature 1, no truncation of the distribution (segment-ppo
Appendix D).

For small models `generate` costs several times what the model does. `decode` is a loop around the model's own forward:
equal prompts are read once, rows that reached EOS leave the batch, and a token is one uniform number looked up in the
cumulative distribution. It draws from the same distribution as `generate`, not the same tokens; greedy ones are equal.
Nothing is read of a model's generation_config.json but which tokens end an answer (`ends`, one rule for all who
sample): some come with penalties or truncations of their own. A model of `models.load_causal_lm` has the EOS alone.

Left out: vLLM, beam search, penalties, models whose state is not a cache of keys and values (Mamba). Greedy decoding
makes small models loop, so nothing here is evaluated with it.

Book: ppo.md
"""

import inspect
import os
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

import torch
from transformers import GenerationConfig, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.trainer import TRAINING_ARGS_NAME
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

from densereward.progress import progress
from densereward.text.adapters import weights_for
from densereward.text.logprobs import logprobs_and_entropy
from densereward.text.replay import cache_of, replayed
from densereward.text.tokens import collate_prompt_completion, joined, pad_batch, tokenize_prompt

PLAIN = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}  # the model's own distribution
GREEDY = {"do_sample": False}
COMPACT = 4  # finished rows are dropped when they are this part of the batch: each time copies the cache of the others
COMPACT_FIXED, LOOK = 4 / 3, 8  # where steps are replayed, which begins anew then; looked at once in so many tokens


def ends(model, tokenizer) -> list[int]:
    """The token ids that end an answer, wherever `model` is sampled from: the tokenizer's EOS, and what the model's
    generation config has beside it, as TRL's trainers take them."""
    further = model.generation_config.eos_token_id
    further = further if isinstance(further, list) else [further]
    return [tokenizer.eos_token_id, *(i for i in further if i not in (None, tokenizer.eos_token_id))]


@contextmanager
def plainly(model, eos_ids: list[int], pad_id: int):
    """`model.generate` inside it obeys its arguments alone: what they do not name, the model's generation config would
    fill in (penalties, min_p, suppressed tokens)."""
    kept = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=eos_ids, pad_token_id=pad_id)
    try:
        yield model
    finally:
        model.generation_config = kept


def drawn(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token [B] of each row of logits [B, V] at which the cumulative distribution passes `uniform` [B], in [0, 1).

    In double precision: a token's share of the unit interval is its probability, however large the vocabulary."""
    cumulative = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    at = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return at.clamp(max=logits.size(1) - 1)


@torch.no_grad()
def decode(
    model,
    prefixes: list[list[int]],
    max_new_tokens: int,
    eos_ids: list[int],
    pad_id: int,
    *,
    do_sample: bool,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[list[int]]:
    """One continuation per prefix of token ids, in order, up to the first of `eos_ids`, which it includes.

    Temperature, then `top_k` (0: all), then `top_p`, as `generate` applies them; without `do_sample` the likeliest
    token. Random: one uniform number per row and step off torch's global generator of the model's device, whatever is
    drawn. Raises ValueError for an empty prefix, for more tokens than a model with learned positions has, and where
    the model's logits are not finite."""
    if not all(prefixes):
        raise ValueError(f"prefix {[bool(p) for p in prefixes].index(False)} has no token to continue from")
    config = model.config.get_text_config()
    learned = getattr(config, "rope_parameters", None) is None  # positions have embeddings, and there are no more
    positions = getattr(config, "max_position_embeddings", None) if learned else None
    if positions is not None and max(map(len, prefixes), default=0) > positions:
        raise ValueError(f"a prefix is longer than the {positions} positions of the model: cut it")
    if not max_new_tokens:
        return [[] for _ in prefixes]
    warpers = [TemperatureLogitsWarper(temperature)] if temperature not in (None, 1.0) else []
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p not in (None, 1.0) else []
    device, rows = model.device, len(prefixes)
    number: dict[tuple, int] = {}
    which = torch.tensor([number.setdefault(tuple(p), len(number)) for p in prefixes], device=device)
    ids, mask = (x.to(device) for x in pad_batch([list(p) for p in number], pad_id, "left"))
    width = mask.size(1)
    cache, fixed = cache_of(model, width + max_new_tokens)
    forward, look = _forward(model), LOOK if fixed and positions is None else 1
    uniform = (torch.rand if do_sample else torch.empty)(rows, max_new_tokens, dtype=torch.float64, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)

    def chosen(logits, chance):  # [B, V], [B] -> [B]
        finite.logical_and_(logits.sum().isfinite())
        for warp in warpers if do_sample else ():
            logits = warp(None, logits)
        return drawn(logits, chance) if do_sample else logits.argmax(-1)

    def step(token, position, chance, mask):
        return chosen(forward(token[:, None], mask, position[:, None], cache), chance)

    step = replayed(step) if fixed else step
    logits = forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)  # [B, V]
    if len(number) < rows:
        cache.reorder_cache(which)
        mask, logits = mask[which], logits[which]
    position = mask.sum(1)  # [B], of the next token
    mask = torch.cat([mask, mask.new_ones(rows, max_new_tokens)], 1)
    found = torch.full((rows, max_new_tokens), pad_id, device=device)
    ends, alive = torch.tensor(eos_ids, device=device), torch.arange(rows, device=device)
    over, token = torch.zeros_like(alive, dtype=torch.bool), chosen(logits, uniform[:, 0])
    for t in progress("sampling, tokens", range(max_new_tokens)):
        found[alive, t] = token  # beyond EOS too, until the row is dropped
        if t == max_new_tokens - 1:
            break
        if (t + 1) % look == 0:
            over |= torch.isin(found[alive, t + 1 - look : t + 1], ends).any(1)
            finished = int(over.sum())
            if finished == len(over):
                break
            if finished * (COMPACT_FIXED if fixed else COMPACT) >= len(over):
                keep = (~over).nonzero()[:, 0]
                cache.reorder_cache(keep)
                alive, over, token, mask, position = (x[keep] for x in (alive, over, token, mask, position))
        if positions is not None and width + t >= positions:
            raise ValueError(
                f"an answer goes on beyond the {positions} positions of the model: lower max_new_tokens or cut prompts"
            )
        token = step(token, position, uniform[alive, t + 1], mask if fixed else mask[:, : width + t + 1])
        position = position + 1
    if not finite:
        raise ValueError("the model's logits are not finite: it has diverged, or its weights are broken")
    last = set(eos_ids)
    stops = ((next((i for i, token in enumerate(row) if token in last), len(row)), row) for row in found.tolist())
    return [row[: stop + 1] for stop, row in stops]


def _forward(model) -> Callable:
    """(ids [B, L], mask, positions [B, L], cache) -> logits of the last column, float32 [B, V]."""
    takes = inspect.signature(type(model).forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def forward(ids, mask, positions, cache):
        where = {"position_ids": positions} if "position_ids" in takes else {}
        made = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **where, **last)
        return made.logits[:, -1].float()

    return forward


def continued(model, tokenizer, prefixes: list[list[int]], max_new_tokens: int, **settings) -> list[list[int]]:
    """`decode` of one batch, up to any of `ends`."""
    return decode(model, prefixes, max_new_tokens, ends(model, tokenizer), tokenizer.pad_token_id, **settings)


class Decoding:
    """Mixin before TRL's GRPOTrainer or RLOOTrainer, which then samples with `decode`.

    TRL's own generation stays for vLLM, continuous batching, images, parameters sharded over processes (ZeRO-3, FSDP),
    and any generation setting that `decode` does not know; the model's generation config has no say there either.
    Prompts become the ids of `tokens.tokenize_prompt`. What is saved holds no pickle: TRL's training_args.bin is left
    out (a checkpoint to resume from still has the optimiser's state, as torch writes it)."""

    def __init__(self, *args, **trl):
        super().__init__(*args, **trl)
        if self.use_vllm:
            self.vllm_generation._iter_named_params = partial(weights_for, self.vllm_generation)

    def _tokenize_prompts(self, prompts):
        texts = all(isinstance(p, list) and all(isinstance(m["content"], str) for m in p) for p in prompts)
        further = [getattr(self, name, None) for name in ("tools", "environment_factories", "chat_template")]
        if not texts or any(further) or self.chat_template_kwargs:
            return super()._tokenize_prompts(prompts)
        return [tokenize_prompt(self.processing_class, prompt) for prompt in prompts], None, {}

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        arguments = os.path.join(output_dir or self.args.output_dir, TRAINING_ARGS_NAME)
        if os.path.exists(arguments):
            os.remove(arguments)

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *rest, **named):
        settings = self.own_settings()
        if images or multimodal_fields or settings is None:
            model = self.accelerator.unwrap_model(self.model)
            with plainly(model, self.eos_token_ids, self.processing_class.pad_token_id):
                return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *rest, **named)
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            found = decode(model, prompt_ids, pad_id=self.processing_class.pad_token_id, **settings)
        return (found, None) if isinstance(self, GRPOTrainer) else found  # GRPO's has log-probabilities beside it

    def own_settings(self) -> dict | None:
        """What `decode` is asked for in place of TRL's generation; None where it cannot."""
        sharded = self.is_fsdp_enabled or (
            self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3
        )
        if self.use_vllm or self.use_transformers_continuous_batching or sharded:
            return None
        given = {name: x for name, x in self.generation_kwargs.items() if name not in ("pad_token_id", "bos_token_id")}
        settings = {name: given.pop(name) for name in ("do_sample", "temperature", "top_k", "top_p", "max_new_tokens")}
        settings["eos_ids"] = given.pop("eos_token_id")
        neutral = {"min_p": (None, 0.0), "repetition_penalty": (None, 1.0), "cache_implementation": (None,)}
        return settings if all(x in neutral.get(name, ()) for name, x in given.items()) else None


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
        for start in progress("sampling, batches", range(0, len(order), batch_size)):
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
    rows = [{"prompt_ids": p, "completion_ids": c} for p, c in zip(prompts, completions, strict=True)]
    batch = {name: x.to(model.device) for name, x in collate_prompt_completion(rows, tokenizer.pad_token_id).items()}
    logps, entropies = logprobs_and_entropy(model, *joined(batch), batch["completion_ids"].size(1))
    return {**batch, "ref_logps": logps, "ref_entropies": entropies}
