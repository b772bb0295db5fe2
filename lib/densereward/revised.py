"""The stages that a reviser adds, each cached under `runs/`: revisions of the rejected answers, and what is trained on
them.

    preferences ----> revisions ----> labelled tokens ----> discriminator      (tlcr)
                          \\---------> synthetic pairs ----> reward model       (the same information, other methods)

`Method.revisions` says who revises. Held-out levels are those of every scorer, on labelled preference pairs that no
reviser saw; what only a discriminator has (accuracy per token, calibration) is measured on revisions of the held-out
answers.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from datasets import load_from_disk

from densereward import clauses, labeling, pipeline, revision
from densereward.methods import Method
from densereward.models import load_causal_lm
from densereward.pipeline import DATA, SCORING, Run, inputs_of, to_device
from densereward.seeding import derive, seed_everything
from densereward.stages import Artifact, load_json, save_json, stage
from densereward.testbed import revise, truth
from densereward.training import discriminator as D
from densereward.training import epoch, reward_model

SPLITS = ("preference", "validation", "test")


def reviser(run: Run, kind: str, **settings) -> revision.Reviser:
    """The reviser that a row of `methods.py` names: "oracle" (testbed only; `error`), "clauses" (text alone), or "llm"
    (`model`, behind the endpoint that the environment names; `template`, the text of another prompt; replies are kept
    in `runs/replies.sqlite`).

    ValueError for an unknown one, and for the oracle on another dataset than the testbed."""
    if kind == "clauses":
        return clauses.clause_reviser(**settings)
    if kind == "llm":
        from densereward import llm, revision_prompt  # they need the extra `judge`

        prompt = {"template": settings.pop("template")} if "template" in settings else {}
        return revision_prompt.llm_reviser(llm.Chat(cache=run.root / "replies.sqlite", **settings), **prompt)
    if kind != "oracle":
        raise ValueError(f"unknown reviser {kind!r}; choose oracle, clauses or llm")
    if not run.testbed:
        raise ValueError(f"the oracle cannot revise {run.dataset}: it knows the testbed only; choose clauses")
    return revise.oracle_reviser(derive(run.seed, "reviser"), **settings)


def revisions(run: Run, method: Method, folder_of_sft: Path, prefs: Artifact) -> Artifact:
    """Token labels and synthetic pairs of each split (`labelled/`, `pairs/`), and a report of what was dropped."""
    p, asks = run.profile, []
    if method.revisions["kind"] == "llm":
        from densereward import llm, revision_prompt

        asks = [llm, revision_prompt]  # another prompt makes other revisions

    def build(folder: Path) -> None:
        _, tokenizer = load_causal_lm(folder_of_sft)
        kind = {name: x for name, x in method.revisions.items() if name != "eos"}
        made, reports, eos = reviser(run, **kind), {}, method.revisions.get("eos", True)
        for name in SPLITS:
            rows = load_from_disk(prefs.path / name)
            workers = 8 if method.revisions["kind"] == "llm" else 1
            found = revision.revise_rows(made, revision.conversations(rows, tokenizer), workers)
            labelled, report = labeling.labelled(rows, found, tokenizer, p.max_completion_length, eos)
            labelled.save_to_disk(folder / "labelled" / name)
            pairs, _ = labeling.synthetic_pairs(rows, found, tokenizer, p.max_completion_length)
            pairs.save_to_disk(folder / "pairs" / name)
            reports[name] = {"revisions": revision.totals(found), "labels": asdict(report)}
        save_json(folder / "report.json", reports)

    return stage(
        "revisions",
        build,
        key=run.key("max_completion_length", revisions=method.revisions),
        sources=[*DATA, clauses, labeling, revision, revise, *asks],
        inputs=[*inputs_of(folder_of_sft), prefs],
        root=run.root,
    )


def synthetic(run: Run, method: Method, folder_of_sft: Path, prefs: Artifact) -> Artifact:
    """Preference data whose training pairs are (revised, rejected): what tlcr's PPO_synthetic learns from. Held-out
    pairs stay the labelled ones."""
    made = revisions(run, method, folder_of_sft, prefs)

    def build(folder: Path) -> None:
        model, tokenizer = load_causal_lm(folder_of_sft)
        pairs = load_from_disk(made.path / "pairs" / "preference")
        pipeline.with_entropies(to_device(model).eval(), tokenizer, pairs).save_to_disk(folder / "preference")
        for name in SPLITS[1:]:
            load_from_disk(prefs.path / name).save_to_disk(folder / name)

    return stage(
        "synthetic",
        build,
        key=run.key(),
        sources=[*DATA, *SCORING],
        inputs=[*inputs_of(folder_of_sft), prefs, made],
        root=run.root,
    )


def discriminator(run: Run, method: Method, folder_of_sft: Path, prefs: Artifact) -> tuple[Path, dict]:
    """(folder of the discriminator, its metrics): those of every scorer, with the sum of its log-odds as the score of a
    response, and tlcr's accuracy per token and calibration."""
    if folder := pipeline.committed_scorer(run, method):
        return folder, load_json(folder / "metrics.json")
    made, p = revisions(run, method, folder_of_sft, prefs), run.profile
    tokens = replace(method, segmentation={"kind": "token"}, trained_with=None)

    def build(folder: Path) -> None:
        model, tokenizer = load_causal_lm(folder_of_sft)
        seed_everything(derive(run.seed, "discriminator"))
        net = to_device(D.from_policy(model))
        train = load_from_disk(made.path / "labelled" / "preference")
        curve = D.train_discriminator(net, tokenizer, train, p, folder, derive(run.seed, "discriminator") % 2**31)
        metrics = {"curve": curve, "pairs": len(train) // 2, "segment_length": 1.0}
        metrics["revisions"] = load_json(made.path / "report.json")
        pad = tokenizer.pad_token_id
        for name in SPLITS[1:]:
            found = D.discriminator_metrics(*D.probabilities(net, load_from_disk(made.path / "labelled" / name), pad))
            metrics |= {f"{key}_{name}": value for key, value in found.items()}
        sets = {
            name: reward_model.with_segments(load_from_disk(prefs.path / name), tokens, tokenizer, run.seed)
            for name in SPLITS
        }
        as_scorer = D.as_scorer(net)
        for name in SPLITS[1:]:
            margin = reward_model.margins(as_scorer, sets[name], pad)
            metrics[f"accuracy_{name}"] = float(np.mean((np.sign(margin) + 1) / 2))
            metrics[f"accuracy_{name}_se"] = float(np.std(margin > 0) / len(margin) ** 0.5)
            if run.testbed:
                metrics |= truth.scorer_metrics(name, as_scorer, tokens, model, tokenizer, sets, margin, run)
        save_json(folder / "metrics.json", metrics)

    artifact = stage(
        "discriminator",
        build,
        key=run.key("rm_batch", "rm_learning_rate"),
        sources=[*DATA, *SCORING, D, epoch, reward_model, truth],
        inputs=[*inputs_of(folder_of_sft), prefs, made],
        root=run.root,
    )
    return artifact.path, load_json(artifact.path / "metrics.json")


def scorer(run: Run, method: Method, folder_of_sft: Path, prefs: Artifact) -> tuple[Path, dict]:
    """(folder, metrics) of the scorer that the row names: a discriminator, or a Bradley-Terry model of labelled or
    synthetic pairs."""
    if method.scorer == "discriminator":
        return discriminator(run, method, folder_of_sft, prefs)
    given = synthetic(run, method, folder_of_sft, prefs) if method.revisions else prefs
    return pipeline.scorer(run, method, folder_of_sft, given)
