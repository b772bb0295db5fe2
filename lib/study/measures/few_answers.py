"""A few answers close up: what notebooks need to show segments, scores and rewards token by token, on any dataset."""

from dataclasses import replace

import pandas as pd
import torch
from datasets import Dataset, load_from_disk

from densereward.reward import dense
from densereward.seeding import derive, generator
from densereward.text import sampling
from densereward.text.models import TokenScorer, load_causal_lm, to_device
from densereward.text.tokens import tokenize_prompt
from densereward.training import reward_model
from study.methods import METHODS, Method, entropy
from study.run import Run
from study.stages.preferences import entropies
from study.stages.scorer import calibration_scores, segment_length
from testbed.truth import text_of


def answers(run: Run, n: int, shortest: int = 16, longest: int = 64) -> Dataset:
    """The first n test pairs whose chosen answer has `shortest` to `longest` tokens, with entropies; others where those
    are too few."""
    rows = load_from_disk(entropies(run, run.preferences).path / "test")
    lengths = [len(ids) for ids in rows["chosen_completion_ids"]]
    return rows.select(sorted(range(len(rows)), key=lambda i: not shortest <= lengths[i] <= longest)[:n])


def batch(tokenizer, rows: Dataset) -> dict[str, torch.Tensor]:
    """The chosen answers of tokenised pairs with the entropies stored beside them, as `dense.segment_ids` takes
    them."""
    return reward_model.answers(rows.to_list(), "chosen", tokenizer)


def sampled(run: Run, n: int) -> list[tuple[str, str]]:
    """(last user turn, answer sampled from the run's policy) for n test prompts. Random: `run.seed`."""
    model, tokenizer = load_causal_lm(run.policy.path / "policy" if run.policy else run.sft)
    conversations = run.splits(test=n)["test"]["prompt"][:]
    prompts = [tokenize_prompt(tokenizer, c)[-run.profile.max_prompt_length :] for c in conversations]
    made = sampling.sample(
        to_device(model), tokenizer, prompts, run.profile.max_completion_length, derive(run.seed, "closeup")
    )
    return [(c[-1]["content"], text_of(tokenizer, ids)) for c, ids in zip(conversations, made)]


def entropy_at(cutoff: float) -> Method:
    name = f"cut-off {cutoff:g}"
    return replace(METHODS["segment"], name=name, label=f"Entropy, {name} nats", segmentation=entropy(cutoff))


def segmentations(run: Run, cutoff: float, n: int) -> list[Method]:
    """Every kind of segmentation as a method: bandit, token, sentence, n-gram, random (cut as often as `segment`),
    entropy."""
    row = METHODS["segment"]
    return [
        METHODS["bandit"],
        METHODS["token"],
        replace(row, name="sentence", label="Sentence", segmentation={"kind": "sentence"}),
        replace(row, name="ngram", label=f"n-gram, n = {n}", segmentation={"kind": "ngram", "n": n}),
        run.of("random").method,
        replace(row, label=f"Entropy, cut-off {cutoff:g} nats", segmentation=entropy(cutoff)),
    ]


def segment_lengths(run: Run, tokenizer, rows: Dataset, methods: list[Method]) -> pd.DataFrame:
    """Mean tokens per segment of both responses of tokenised pairs, under each method."""
    return pd.DataFrame(
        [
            {
                "method": m.label,
                **m.segmentation,
                "segment_length": segment_length(reward_model.with_segments(rows, m, tokenizer, run.seed)),
            }
            for m in methods
        ]
    )


def accuracies(runs: list[Run]) -> pd.DataFrame:
    """What `stages.scorer` measured on test pairs, a row per run; what only the testbed knows is left out
    elsewhere."""
    columns = {
        "pairs": "pairs",
        "segment_length": "tokens per segment",
        "accuracy_test": "label accuracy",
        "accuracy_test_se": "its se over pairs",
        "style_test": "style only",
        "gate_test": "gate",
        "ceiling_test": "ceiling",
        "truth_test": "accuracy on truth",
        "flip_test": "flip rate",
        "passes_validation": "passes the gate (validation)",
    }
    names = {r.row.name: {c: r.metrics[k] for k, c in columns.items() if k in r.metrics} for r in runs}
    return pd.DataFrame([{"method": name} | found for name, found in names.items()])


def fit(run: Run) -> tuple:
    """(scores [B, S], mask, normaliser): a scorer's calibration scores and what is fitted on them."""
    scores, lengths = calibration_scores(run)
    return scores, lengths > 0, dense.fitted(run.method, scores, lengths)


@torch.no_grad()
def dense_rewards(run: Run, normaliser, batch: dict, tokenizer):
    """(rewards [B, T], segment ids [B, T]) of a batch under a run's row, as PPO would be given them."""
    net, row = to_device(TokenScorer.from_pretrained(run.scorer, dtype=torch.float32)), run.method
    batch = {name: tensor.to(net.device) for name, tensor in batch.items()}
    ids, again = (generator(run.seed, "segments", row.name) for _ in range(2))  # the same random cuts twice
    cut = dense.segment_ids(row.segmentation, batch, tokenizer, ids)
    return dense.reward_function(row, net, normaliser, tokenizer, again)(batch).cpu(), cut.cpu()


def measuring(run: Run) -> Run:
    """The same run with as many pairs as the study calibrates normalisers on and more to test on, where scorers are
    committed, so that more pairs cost no training."""
    return replace(run, profile=replace(run.profile, pairs=2_000, heldout_pairs=250)) if run.committed else run


def fresh(run: Run) -> Run:
    """The same run without committed models: what it needs is trained."""
    return replace(run, profile=replace(run.profile, committed_models=None))
