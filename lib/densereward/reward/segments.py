"""Boundaries: which tokens of a completion start a segment, and what follows from it.

Follows segment-ppo: entropy with a cut-off (Section 2.2), sentence splitters (Section 4.2), n-grams (Section 4.3 a),
bandit and token level (Appendix D); random boundaries are a control that no paper has. Completions are right-padded and
padding is in no segment. A boundary function names what it needs of `mask`, `completion_ids`, `entropies`, `tokenizer`,
`generator`, and its own parameters, and returns bool [B, T]. To add one: a function, and `BOUNDARIES["name"] = it`.

EOS. "paper": EOS is a token like any other, so the last segment holds it and is scored there. "released": the last
segment ends at the token before EOS and EOS is in no segment (id -1), for every kind but bandit; a completion which is
only EOS keeps it as its one segment. A truncated completion has no EOS and is the same under both.

Leaves out: the released code's minimum segment length (it is 1), and that its cut-off 1000 keeps EOS as bandit does.

Book: segmentation.md
"""

import inspect
import re

import numpy as np
import torch
import torch.nn.functional as F

from densereward.text.offsets import token_offsets

# segment-ppo Section 4.2 lists . ! ? \n ; ... , : } "and/or their foreign language equivalents": the full-width forms
SPLITTERS = ".!?\n;,:}…" + "。．！？；，：｝、｡､"
_SPLITTER_RUN = re.compile(f"[{re.escape(SPLITTERS)}]+")


def bandit(mask):
    """One segment, the whole completion: starts [B, T] from mask [B, T]. segment-ppo Appendix D (its cut-off 1000)."""
    return _starts(torch.zeros_like(mask, dtype=torch.bool), mask)


def token(mask):
    """Every token is a segment: starts [B, T] from mask [B, T]. segment-ppo Appendix D (its cut-off 0)."""
    return _starts(torch.ones_like(mask, dtype=torch.bool), mask)


def ngram(mask, n: int):
    """Every n-th token starts a segment: starts [B, T]. ValueError unless n >= 1. segment-ppo Section 4.3 (a)."""
    if int(n) != n or n < 1:
        raise ValueError(f"n-gram: n is {n!r}; give a whole number of tokens, 1 or more")
    every = torch.arange(mask.shape[1], device=mask.device) % int(n) == 0
    return _starts(every.expand(mask.shape), mask)


def random(mask, rate: float, generator: torch.Generator):
    """Each token after the first starts a segment with probability `rate`: starts [B, T]. A control, in no paper.

    `start_rate` of another segmentation is the rate that matches it. One number is drawn per real token, row by row, so
    padding does not change the draw. ValueError unless 0 <= rate <= 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"random boundaries: rate is {rate!r}; give the share of tokens that start a segment, 0 to 1")
    real = _real(mask)
    draws = torch.rand(int(real.sum()), generator=generator, device=generator.device)
    return _starts(torch.zeros_like(real).masked_scatter(real, (draws < rate).to(real.device)), mask)


def entropy(entropies, mask, cutoff: float):
    """Token t starts a segment where entropies[:, t] > cutoff (nats, float32): starts [B, T]. segment-ppo Section 2.2.

    entropies [B, T]: of the distribution that predicts token t. ValueError: a negative cut-off, entropies of another
    shape than mask or of half precision, an entropy of a real token that is not finite.
    """
    if not cutoff >= 0:
        raise ValueError(f"entropy cut-off is {cutoff!r}; give nats, 0 or more")
    if entropies.shape != mask.shape:
        raise ValueError(f"entropies are {list(entropies.shape)}, mask is {list(mask.shape)}; give one per token")
    if entropies.dtype in (torch.bfloat16, torch.float16):
        raise ValueError(f"entropies are {entropies.dtype}; compute them in float32, cut-offs are decided there")
    _refuse(_real(mask) & ~entropies.isfinite(), "an entropy is not finite; look for NaN in the model's output")
    entropies = entropies.float()
    return _starts(entropies > entropies.new_tensor(cutoff), mask)


def sentence(completion_ids, mask, tokenizer):
    """The token after a splitter starts a segment: starts [B, T] from ids and mask [B, T]. segment-ppo Section 4.2.

    A run of splitters ('...', '?!') is one end, also across tokens. The segment ends with the token that holds the
    run's last character, even in a number ('3.14') or amid a token. Nothing starts where no text is left: a final EOS
    joins the last segment.
    """
    real = _real(mask)
    starts = np.zeros(real.shape, dtype=bool)
    lengths = real.sum(1).tolist()
    for row, (ids, length) in enumerate(zip(completion_ids.tolist(), lengths, strict=True)):
        text, offsets = token_offsets(tokenizer, ids[:length])
        ends = np.array([end for _, end in offsets])
        runs = [run.end() for run in _SPLITTER_RUN.finditer(text)]
        last = np.searchsorted(ends, runs)  # the first token that reaches the end of the run
        starts[row, last[ends[last] < len(text)] + 1] = True
    return _starts(torch.from_numpy(starts).to(real.device), mask)


BOUNDARIES = {
    "bandit": bandit,
    "token": token,
    "ngram": ngram,
    "random": random,
    "sentence": sentence,
    "entropy": entropy,
}
BATCH = ("mask", "completion_ids", "entropies", "tokenizer", "generator")  # what every boundary function is offered


def reads_entropies(kind: str) -> bool:
    """Whether a key of BOUNDARIES cuts by the SFT model's entropies: one pass of it that others need not pay. False for
    what is none, such as the truth's spans."""
    return kind in BOUNDARIES and "entropies" in inspect.signature(BOUNDARIES[kind]).parameters


def segment(kind, *, mask, eos="paper", **inputs):
    """Segment ids [B, T] of a batch, by a row of the methods table: `segment(**row, mask=mask, entropies=...)`.

    The row is {"kind": a key of BOUNDARIES, its parameters, optionally "eos": "paper" | "released"}; `inputs` are these
    parameters and what BATCH lists, of which the boundary function gets what it names. "released" needs completion_ids
    and the tokenizer. ValueError: an unknown kind or parameter, a missing input, a boundary
    function that does not return bool [B, T].
    """
    choose("segmentation", kind, BOUNDARIES)
    if eos not in ("paper", "released"):
        raise ValueError(f"eos is {eos!r}; choose paper or released")
    inputs = {name: value for name, value in inputs.items() if value is not None}
    if eos == "released" and kind != "bandit":
        eos_token_id = getattr(inputs.get("tokenizer"), "eos_token_id", None)
        if eos_token_id is None or "completion_ids" not in inputs:
            raise ValueError("eos 'released' needs completion_ids and a tokenizer that has an eos_token_id")
        mask = without_eos(inputs["completion_ids"], mask, eos_token_id)
    inputs["mask"] = mask
    wanted = inspect.signature(BOUNDARIES[kind]).parameters
    if unknown := [name for name in inputs if name not in wanted and name not in BATCH]:
        raise ValueError(f"segmentation {kind!r} has no parameter {unknown[0]!r}; it takes {', '.join(wanted)}")
    if missing := [name for name, p in wanted.items() if p.default is p.empty and name not in inputs]:
        raise ValueError(f"segmentation {kind!r} needs {missing[0]!r}; it takes {', '.join(wanted)}")
    starts = BOUNDARIES[kind](**{name: inputs[name] for name in wanted if name in inputs})
    if starts.shape != mask.shape or starts.dtype != torch.bool:
        raise ValueError(
            f"segmentation {kind!r} gave {starts.dtype} {list(starts.shape)}; return bool {list(mask.shape)}"
        )
    return segment_ids(starts, mask)


def without_eos(completion_ids, mask, eos_token_id: int | list[int]):
    """Real tokens without a final EOS, bool [B, T]: what segments may hold in the released code.

    A completion which is only EOS keeps it. Use the result as the `mask` of a boundary function and of `segment_ids`.
    """
    real = _real(mask)
    last = real & ~F.pad(real[:, 1:], (0, 1))
    eos = torch.as_tensor(eos_token_id, device=completion_ids.device)
    drop = last & torch.isin(completion_ids, eos)
    drop[:, 0] = False
    return real & ~drop


def segment_ids(starts, mask):
    """Number of each token's segment, from 0, and -1 on padding: long [B, T] from starts and mask [B, T].

    ValueError where a row has no real token, or has one after padding.
    """
    return torch.where(_real(mask), _starts(starts, mask).long().cumsum(1) - 1, -1)


def segment_ends(segment_ids):
    """Whether a token is the last of its segment: bool [B, T]."""
    return (segment_ids >= 0) & (segment_ids != F.pad(segment_ids[:, 1:], (0, 1), value=-1))


def segment_lengths(segment_ids):
    """Tokens in each segment, 0 beyond a row's last segment: long [B, S], S the most segments of any row."""
    count = int(segment_ids.max()) + 1
    lengths = segment_ids.new_zeros(segment_ids.shape[0], count + 1)
    return lengths.scatter_add(1, segment_ids + 1, torch.ones_like(segment_ids))[:, 1:]


def at_ends(token_scores, segment_ids):
    """Scores [B, S], token_scores [B, T] at each segment's last token and zero beyond; and their mask, bool [B, S].

    Differentiable. segment-ppo Section 2.2. ValueError where the shapes differ (scores of prompt and completion, say).
    """
    if token_scores.shape != segment_ids.shape:
        raise ValueError(
            f"token scores are {list(token_scores.shape)}, segment ids {list(segment_ids.shape)}; "
            "give the scores of the completion's tokens only"
        )
    lengths = segment_lengths(segment_ids)
    segment_mask = lengths > 0
    return token_scores.gather(1, lengths.cumsum(1) - 1).masked_fill(~segment_mask, 0), segment_mask


def spread(scores, segment_ids):
    """Each token's segment's score, zero where it has none: [B, T] from scores [B, S] and segment_ids [B, T]."""
    return scores.gather(1, segment_ids.clamp(min=0)).masked_fill(segment_ids < 0, 0)


def start_rate(segment_ids) -> float:
    """Share of the tokens after the first of their row that start a segment: the `rate` of a matching `random`."""
    later_starts = segment_ids.max(1).values.sum()
    later_tokens = (segment_ids >= 0).sum() - segment_ids.shape[0]
    return float(later_starts / later_tokens.clamp(min=1))


def choose(what, name, known):
    """ValueError where a name is none of those known."""
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(known)}")


def _starts(starts, mask):
    """Starts [B, T] with the first token always one, and padding never."""
    starts = starts & _real(mask)
    starts[:, 0] = True
    return starts


def _real(mask):
    """mask as bool [B, T]; ValueError where a row is empty or not right-padded."""
    real = mask.bool()
    _refuse(~real.any(1, keepdim=True), "the completion is empty; drop the record or keep its EOS")
    _refuse(real[:, 1:] & ~real[:, :-1], "a real token follows padding; pad completions on the right")
    return real


def _refuse(bad, why):
    rows = bad.any(1)
    if rows.any():
        raise ValueError(f"row {int(rows.nonzero()[0])}: {why}")
