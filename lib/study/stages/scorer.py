"""Who scores: a Bradley-Terry model of preference pairs (or of revised ones), or tlcr's discriminator of revised
tokens. Needs the SFT model, the pairs, and the revisions where the row has a reviser.

Held-out levels are those of every scorer, on labelled preference pairs that no reviser saw; what only a discriminator
has (accuracy per token, calibration) is measured on revisions of the held-out answers.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_from_disk

from densereward.progress import progress
from densereward.reward import dense, segments
from densereward.reward.implicit import LogRatioScorer
from densereward.seeding import derive, generator, seed_everything
from densereward.text import models
from densereward.text.models import TokenScorer, load_causal_lm, scorer_from, to_device
from densereward.training import discriminator as D
from densereward.training import labelled, reward_model
from study.cache import load_json, save_json
from study.methods import METHODS, Method
from study.sources import DATA, SCORING, own_code
from study.stages.preferences import SPLITS, to_cut
from study.stages.revisions import synthetic
from testbed import truth


def scorer(run) -> Path:
    """The folder of the row's scorer, with its `metrics.json`; a committed one where the run may use it."""
    row = replace(run.method, segmentation=run.method.trained_on, trained_with=None)
    if run.method.scorer == "discriminator":
        row = replace(row, segmentation={"kind": "token"})
    if folder := committed(run, row):
        return folder
    return (discriminator if row.scorer == "discriminator" else bradley_terry)(run, row)


def committed(run, row: Method) -> Path | None:
    """The folder of the committed scorer that was trained as this row's is, if this run may use it."""
    for folder in sorted(run.committed.glob("*/metrics.json")) if run.committed else ():
        theirs = METHODS[folder.parent.name]
        trained = (theirs.scorer, theirs.revisions, theirs.trained_on, theirs.aggregate)
        if trained == (row.scorer, row.revisions, row.segmentation, row.aggregate):
            return models.verified(folder.parent)
    return None


def bradley_terry(run, row: Method) -> Path:
    """A token scorer trained on pairs: its metrics are label accuracy on held-out pairs; on the testbed also truth,
    gate and flip rate."""
    p, pairs = run.profile, synthetic(run) if row.revisions else run.preferences
    pairs = to_cut(run, pairs, row.segmentation)  # not `run.pairs`: rows that are cut otherwise share a scorer
    fields = ("pairs", "rm_batch", "rm_learning_rate", "rm_scale")
    extra = {"segmentation": row.segmentation, "aggregate": row.aggregate}
    scale = p.rm_scale if row.aggregate == "mean" else 1.0  # a sum is on a larger scale as it is

    def build_scorer(folder: Path) -> None:
        model, tokenizer = load_causal_lm(run.sft, run.dtype)
        sets = cut(run, row, pairs.path, tokenizer)
        seed_everything(derive(run.seed, "scorer"))
        net = to_device(run.adapted(scorer_from(model, aggregate=row.aggregate, scale=scale)))
        seed = derive(run.seed, "scorer")
        train, held = sets["preference"], sets["validation"]
        given = (folder, seed % 2**31, p.rm_batch, p.rm_learning_rate)
        curve = reward_model.train_reward_model(net, tokenizer, train, held, *given, **run.further("scorer"))
        metrics = {"curve": curve, "pairs": len(train), "segment_length": segment_length(sets["test"])}
        save_json(folder / "metrics.json", metrics | levels(run, row, net, model, tokenizer, sets))

    sources = [*DATA, *SCORING, reward_model, truth, levels, *own_code(row)]
    return run.stage("scorer", build_scorer, run.key(*fields, trl="scorer", **extra), sources, [run.sft, pairs]).path


def discriminator(run, row: Method) -> Path:
    """tlcr's discriminator: its metrics are those of every scorer, with the sum of its log-odds as the score of a
    response, and tlcr's accuracy per token and calibration."""
    p, made = run.profile, run.revisions

    def build(folder: Path) -> None:
        model, tokenizer = load_causal_lm(run.sft, run.dtype)
        seed, pad = derive(run.seed, "discriminator"), tokenizer.pad_token_id
        seed_everything(seed)
        net = to_device(run.adapted(scorer_from(model, D.Discriminator, aggregate="sum")))
        train = load_from_disk(made.path / "labelled" / "preference")
        given = (folder, seed % 2**31, 2 * p.rm_batch, p.rm_learning_rate)
        curve = D.train_discriminator(net, tokenizer, train, *given, **run.further("scorer"))
        metrics = {"curve": curve, "pairs": len(train) // 2, "segment_length": 1.0}
        metrics["revisions"] = load_json(made.path / "report.json")
        for name in SPLITS[1:]:
            found = D.discriminator_metrics(*D.probabilities(net, load_from_disk(made.path / "labelled" / name), pad))
            metrics |= {f"{key}_{name}": value for key, value in found.items()}
        sets = cut(run, row, run.preferences.path, tokenizer)
        save_json(folder / "metrics.json", metrics | levels(run, row, D.as_scorer(net), model, tokenizer, sets))

    sources, needs = [*DATA, *SCORING, D, labelled, reward_model, truth, levels], [run.sft, run.preferences, made]
    return run.stage("discriminator", build, run.key("rm_batch", "rm_learning_rate", trl="scorer"), sources, needs).path


def cut(run, row: Method, folder: Path, tokenizer) -> dict[str, Dataset]:
    """The pairs of every split, cut as the row says. Random: a random segmentation (seed)."""
    return {n: reward_model.with_segments(load_from_disk(folder / n), row, tokenizer, run.seed) for n in SPLITS}


def levels(run, row: Method, net, model, tokenizer, sets: dict[str, Dataset]) -> dict:
    """Held-out label accuracy of a scorer with its standard error, and what only the testbed can tell."""
    found = {}
    for name in SPLITS[1:]:
        margin = reward_model.margins(net, sets[name], tokenizer.pad_token_id)
        found[f"accuracy_{name}"] = float(np.mean((np.sign(margin) + 1) / 2))
        found[f"accuracy_{name}_se"] = float(np.std(margin > 0) / len(margin) ** 0.5)
        if run.testbed:
            found |= truth.scorer_metrics(name, net, row, model, tokenizer, sets, margin, run.profile.world, run.seed)
    return found


def resolve(run) -> Method:
    """The row with what its segmentation leaves to the data resolved on the preference pairs
    (`reward_model.resolve`)."""
    row = run.row
    if "matched" not in map(str, row.segmentation.values()) and "length" not in row.segmentation:
        return row
    rows, tokenizer = load_from_disk(run.pairs.path / "preference"), load_causal_lm(run.sft)[1]
    return reward_model.resolve(row, rows, tokenizer, METHODS["segment"])


def segment_length(rows: Dataset) -> float:
    """Mean number of tokens per segment of the responses of `with_segments` rows."""
    ids = [row for side in reward_model.SIDES for row in rows[f"{side}_segment_ids"]]
    return sum(map(len, ids)) / sum(max(row) + 1 for row in ids)


def loaded(run) -> TokenScorer | LogRatioScorer:
    """What the row's scores are read from, on its device and in float32."""
    if run.row.scorer != "dpo":
        return to_device(TokenScorer.from_pretrained(run.scorer, dtype=run.dtype)).eval()
    policy = load_causal_lm(run.of("dpo").policy.path / "policy")[0]
    return to_device(LogRatioScorer(policy, load_causal_lm(run.sft)[0])).eval()


def calibration_scores(run, n: int = 2_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Segment scores and segment lengths (tokens, 0 beyond the last), both [2n, S], of both answers of the first n
    preference pairs, on the CPU: as the row's policy is paid for them but not yet normalised, what normalisers are
    fitted on (segment-ppo Appendix F). Random: a random segmentation (seed)."""
    tokenizer, rows = load_causal_lm(run.sft)[1], load_from_disk(run.pairs.path / "preference")
    return scores_of(run.method, loaded(run), rows.select(range(min(n, len(rows)))), tokenizer, run.seed)


@torch.no_grad()
def scores_of(method: Method, net: TokenScorer, pairs: Dataset, tokenizer, seed: int, batch_size: int = 64):
    """`calibration_scores` of given pairs and scorer: of the chosen answers, then of the rejected."""
    draw, found = generator(seed, "segments", method.name), {side: [] for side in reward_model.SIDES}
    order = np.argsort(reward_model.lengths(pairs), kind="stable")  # less padding
    for take in progress("scores, batches", np.split(order, range(batch_size, len(order), batch_size))):
        rows = pairs.select(take).to_list()
        for side in reward_model.SIDES:
            batch = {name: x.to(net.device) for name, x in reward_model.answers(rows, side, tokenizer).items()}
            ids = dense.segment_ids(method.segmentation, batch, tokenizer, draw)
            scores, _ = dense.segment_scores(method, net, batch, ids, None, tokenizer, draw)
            found[side].append((scores.cpu(), segments.segment_lengths(ids).cpu()))
    parts = [part for of in found.values() for part in of]
    width, back = max(scores.size(1) for scores, _ in parts), np.argsort(order)
    scores, lengths = (
        torch.cat([torch.nn.functional.pad(x, (0, width - x.size(1))) for x in part])[[*back, *(back + len(back))]]
        for part in zip(*parts, strict=True)
    )
    return scores, lengths
