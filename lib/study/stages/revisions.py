"""Rejected answers, revised: as labelled tokens (tlcr's discriminator, FIGA) and as synthetic pairs (the same
information for other methods). Needs the SFT model's tokenizer and the preference pairs.

`Method.revisions` says who revises.
"""

from dataclasses import asdict
from pathlib import Path

from datasets import load_from_disk

from densereward.labels import clauses, labeling, revision
from densereward.seeding import derive
from densereward.text.models import load_causal_lm
from study.cache import Artifact, save_json
from study.sources import DATA
from study.stages.preferences import SPLITS
from testbed import revise


def reviser(run, kind: str, **settings) -> revision.Reviser:
    """The reviser that a row of `methods.py` names: "oracle" (testbed only; `error`), "clauses" (text alone), or "llm"
    (`model`, behind the endpoint that the environment names; `template`, the text of another prompt; replies are kept
    in `runs/replies.sqlite`).

    ValueError for an unknown one, and for the oracle on another dataset than the testbed."""
    if kind == "clauses":
        return clauses.clause_reviser(**settings)
    if kind == "llm":
        from densereward.labels import llm, revision_prompt

        prompt = {"template": settings.pop("template")} if "template" in settings else {}
        return revision_prompt.llm_reviser(llm.Chat(cache=run.root / "replies.sqlite", **settings), **prompt)
    if kind != "oracle":
        raise ValueError(f"unknown reviser {kind!r}; choose oracle, clauses or llm")
    if not run.testbed:
        raise ValueError(f"the oracle cannot revise {run.dataset}: it knows the testbed only; choose clauses")
    return revise.oracle_reviser(derive(run.seed, "reviser"), **settings)


def revisions(run) -> Artifact:
    """Token labels and synthetic pairs of each split (`labelled/`, `pairs/`), and a report of what was dropped."""
    p, asked, asks = run.profile, run.row.revisions, []
    if asked["kind"] == "llm":
        from densereward.labels import llm, replies, revision_prompt

        asks = [llm, replies, revision_prompt]  # another prompt makes other revisions

    def build(folder: Path) -> None:
        _, tokenizer = load_causal_lm(run.sft)
        kind = {name: x for name, x in asked.items() if name != "eos"}
        made, reports, eos = reviser(run, **kind), {}, asked.get("eos", True)
        for name in SPLITS:
            rows = load_from_disk(run.preferences.path / name)
            workers = 8 if asked["kind"] == "llm" else 1
            found = revision.revise_rows(made, revision.conversations(rows, tokenizer), workers)
            labelled, report = labeling.labelled(rows, found, tokenizer, p.max_completion_length, eos)
            labelled.save_to_disk(folder / "labelled" / name)
            pairs, _ = labeling.synthetic_pairs(rows, found, tokenizer, p.max_completion_length)
            pairs.save_to_disk(folder / "pairs" / name)
            reports[name] = {"revisions": revision.totals(found), "labels": asdict(report)}
        save_json(folder / "report.json", reports)

    sources = [*DATA, clauses, labeling, revision, revise, *asks]
    key = run.key("max_completion_length", revisions=asked)
    return run.stage("revisions", build, key, sources, [run.sft, run.preferences])


def synthetic(run) -> Artifact:
    """Preference data whose training pairs are (revised, rejected): what tlcr's PPO_synthetic learns from. Held-out
    pairs stay the labelled ones."""

    def build(folder: Path) -> None:
        for name in SPLITS:
            made = run.revisions.path / "pairs" if name == SPLITS[0] else run.preferences.path
            load_from_disk(made / name).save_to_disk(folder / name)

    return run.stage("synthetic", build, run.key(), DATA, [run.preferences, run.revisions])
