"""What a row pays: its scorer's scores, normalised and spread over the tokens, and what `Method.shaping` makes of
them. Needs the SFT model's tokenizer, the pairs (for what normalisers are fitted on) and the scorer."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from datasets import load_from_disk

from densereward.reward import dense, rewards, shaping
from densereward.seeding import generator
from densereward.text.models import load_causal_lm, to_device
from densereward.text.tokens import pad_batch, tokenize_prompt
from study.cache import Artifact, load_json, save_json
from study.stages import scorer
from testbed import truth


def fitted(run, folder: Path, tokenizer) -> tuple[Callable[[dict], torch.Tensor], torch.nn.Module | None]:
    """(batch -> rewards [B, T], the scorer it reads): of the row, before `Method.shaping`. What it was fitted with is
    saved in `folder`: normaliser.json, or an oracle's unit.json. Random: a row's noise, rewards, segments (seed)."""
    if run.row.scorer in ("none", "random"):
        pass
    elif run.row.scorer == "oracle":
        rows = load_from_disk(run.preferences.path / "preference")
        save_json(folder / "unit.json", truth.return_deviation(tokenizer, rows, run.profile.world.returns))
    else:
        scores, lengths = scorer.calibration_scores(run)
        save_json(folder / "normaliser.json", asdict(dense.fitted(run.method, scores, lengths)))
    return saved(run, folder, tokenizer)


def saved(run, folder: Path, tokenizer, *names: str) -> tuple[Callable[[dict], torch.Tensor], torch.nn.Module | None]:
    """`fitted`, with what training saved in `folder`. `names` tell further streams of noise apart."""
    if run.row.scorer == "none":  # all that is paid is `Method.shaping`'s
        return lambda batch: torch.zeros_like(batch["ref_logps"]), None
    if run.row.scorer == "random":
        return by_chance(generator(run.seed, "random rewards", *names)), None
    if run.row.scorer == "oracle":
        unit, draw = load_json(folder / "unit.json"), generator(run.seed, "oracle noise", *names)
        return truth.oracle_rewards(run.row, tokenizer, run.profile.world.returns, unit, draw, run.row.noise), None
    normaliser = rewards.Normaliser(**load_json(folder / "normaliser.json"))
    net = scorer.loaded(run)
    draw = generator(run.seed, "segments", run.row.name)
    return dense.reward_function(run.method, net, normaliser, tokenizer, draw), net


def by_chance(draw: torch.Generator) -> Callable[[dict], torch.Tensor]:
    """Rewards [B, T] that say nothing: a normal draw for each token, and totals that deviate by 1, like any row's."""

    def rewards(batch: dict) -> torch.Tensor:
        mask = batch["completion_mask"]
        drawn = torch.randn(mask.shape, generator=draw).to(mask.device)
        return drawn * mask / mask.sum(1, keepdim=True).clamp(min=1).sqrt()

    return rewards


def advisor(run) -> Artifact | None:
    """The policy, DPO's or a teacher's, whose log-ratios the row's rewards hold, or None."""
    return run.of(run.row.advised_by).policy if run.row.advised_by else None


def shaped(run, reward_fn: Callable, net, tokenizer=None) -> Callable:
    """The reward function with what `Method.shaping` makes of it; `net` is the scorer that `reward_fn` reads.
    A teacher's log-ratios weigh what the trainer's KL to the SFT model does: together they are the KL to the teacher.
    ValueError for an unknown kind, and for attention without a scorer."""
    kind = run.row.shaping["kind"]
    settings = {name: x for name, x in run.row.shaping.items() if name != "kind"}
    if kind == "none":
        return reward_fn
    if kind in ("rto", "teacher"):
        policy = to_device(load_causal_lm(advisor(run).path / "policy")[0])
        return shaping.by_log_ratios(reward_fn, policy, settings.get("beta", run.profile.kl_coef))
    if kind == "attention" and net is not None:
        return shaping.by_attention(reward_fn, net, **settings)
    if kind == "pool":
        return shaping.by_segments(reward_fn, tokenizer=tokenizer, **settings)
    raise ValueError(
        f"shaping {kind!r} of method {run.row.name!r}: choose none, rto, teacher, pool, or attention (with a scorer)"
    )


def per_response(reward_fn: Callable[[dict], torch.Tensor], tokenizer, longest: int = 0) -> Callable:
    """A reward function in TRL's sense, `proxy_reward`: the total that `reward_fn` pays each response, from
    conversational prompts (their last `longest` tokens; 0: all) and the responses' token ids. For rows that need no
    entropies of the SFT model."""

    @torch.no_grad()
    def proxy_reward(prompts, completion_ids, **unused) -> list[float]:
        ids, pad = [tokenize_prompt(tokenizer, prompt)[-longest:] for prompt in prompts], tokenizer.pad_token_id
        sides = {"prompt": pad_batch(ids, pad, "left"), "completion": pad_batch(completion_ids, pad)}
        batch = {
            f"{side}_{what}": to_device(x) for side, pair in sides.items() for what, x in zip(("ids", "mask"), pair)
        }
        return reward_fn(batch).sum(1).tolist()

    return proxy_reward
