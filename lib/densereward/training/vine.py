"""Monte Carlo values in place of a critic: a segment's advantage is what it changes in the value of going on.

Follows VinePPO (Kazemnejad et al. 2024, arXiv 2410.01679) and, in cutting where the model is unsure, SPO-chain (Guo et
al. 2025, arXiv 2505.23564): the value of a segment's start is the mean score of answers that the policy finishes from
there, the value behind the last segment is the answer's own score, and every token of a segment has the difference of
the two around it. Advantages are whitened, the loss is TRL's clipped one, and the KL to the reference stands in it, all
as in VinePPO's released settings (which finish each answer nine times).

What is finished is sampled beyond what other methods sample: `curves` count it.

Left out: SPO's mask of likely tokens and its trees; answers of one prompt beside each other.

Book: ppo.md
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from trl import GRPOTrainer

from densereward.reward.dense import segment_ids
from densereward.reward.segments import segment_lengths, spread
from densereward.training.counting import Referenced
from densereward.training.ppo import mean_over, whiten

ROWS = 256  # answers that are scored at once


def start_values(
    prompts: list[list[int]], answers: list[list[int]], ids: torch.Tensor, n: int, limit: int, finish: Callable, score
) -> torch.Tensor:
    """Values [B, S] of the starts of the segments of `ids` [B, T], 0 beyond a row's last.

    `finish` (prefixes of token ids) -> as many continuations; each start is given it `n` times in a row. `score` (rows,
    answers) -> the score of each answer, by the row of its prompt. Answers are cut at `limit` tokens."""
    lengths = segment_lengths(ids)
    starts = lengths.cumsum(1) - lengths
    where = [(i, s) for i, s in (lengths > 0).nonzero().tolist() for _ in range(n)]
    begun = [answers[i][: int(starts[i, s])] for i, s in where]
    tails = finish([prompts[i] + ids for (i, _), ids in zip(where, begun, strict=True)])
    ended = [(head + tail)[:limit] for head, tail in zip(begun, tails, strict=True)]
    scores = torch.tensor(score([i for i, _ in where], ended), dtype=torch.float32, device=ids.device)
    return torch.zeros(lengths.shape, device=ids.device).masked_scatter(lengths > 0, scores.view(-1, n).mean(1))


def differences(values: torch.Tensor, scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Advantages [B, T]: the value behind each token's segment less that at its start, of values [B, S], and scores [B]
    behind the last; zero in no segment."""
    last = (segment_lengths(ids) > 0).sum(1, keepdim=True) - 1
    behind = torch.nn.functional.pad(values[:, 1:], (0, 1)).scatter(1, last, scores[:, None].to(values.dtype))
    return spread(behind - values, ids)


class VineTrainer(Referenced, GRPOTrainer):
    """The first of `reward_funcs` is the reward, the others are metrics; one answer per prompt (`remax.ReMaxConfig`).

    `cuts` is a segmentation of `segments.segment`, none that is random; `continuations`, how often each segment's start
    is finished."""

    _name = "Vine"

    def __init__(self, model, *, cuts: dict, continuations: int, **trl):
        super().__init__(model, **trl)
        self.cuts, self.continuations = cuts, continuations

    def _generate(self, prompts):
        found = super()._generate(prompts)
        self.prompt_tokens = found[0]
        return found

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        found = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # of all processes
        first = self.accelerator.process_index * len(prompts)
        self.scores, self.asked, self.answers = found[first : first + len(prompts), 0], prompts, completion_ids_list
        return found

    def _finish(self, prefixes: list[list[int]]) -> list[list[int]]:
        started = time.perf_counter()
        tails, _ = self._generate_single_turn(prefixes, None, {}, 1)
        self.sampled(tails, time.perf_counter() - started)
        return tails

    def _score(self, rows: list[int], answers: list[list[int]]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            texts = self.processing_class.batch_decode(answers[part], skip_special_tokens=True)
            said = [[{"role": "assistant", "content": text}] for text in texts]
            told = [self.asked[i] for i in rows[part]]
            found += self.reward_funcs[0](prompts=told, completions=said, completion_ids=answers[part])
        return found

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        told, mask = self.with_reference(batch), batch["completion_mask"]
        ids = segment_ids(self.cuts, told, self.processing_class)
        limit = self.args.max_completion_length
        values = start_values(
            self.prompt_tokens, self.answers, ids, self.continuations, limit, self._finish, self._score
        )
        mean = partial(mean_over, self.accelerator)
        return batch | {"advantages": whiten(differences(values, self.scores, ids), mask, mean)}
