"""Policies that learn from fixed pairs: DPO and KTO on preference pairs, masked where the row has a mask; FIGA on
revisions. Needs the SFT model, and the pairs or the revisions."""

from pathlib import Path

from datasets import load_from_disk

from densereward.labels import labeling
from densereward.seeding import derive, seed_everything
from densereward.text.models import load_causal_lm, to_device
from densereward.training import figa, kto, labelled, preference, settings
from study.cache import Artifact, save_json
from study.sources import DATA, SCORING
from study.stages import mask, prompts


def on_pairs(run) -> Artifact:
    """DPO, or KTO, on the preference pairs that reward models learn from: policy, curve of its loss, what the mask
    left. Random: the order (seed)."""
    p, trainer = run.profile, run.row.trainer

    def build_on_pairs(folder: Path) -> None:
        (model, tokenizer), (reference, _) = (load_causal_lm(run.sft, run.dtype) for _ in range(2))
        pairs = load_from_disk(run.pairs.path / "preference")
        if decide := mask.decider(run, tokenizer, folder):
            pairs, counts = mask.mask_dataset(pairs, decide, tokenizer, run.seed)
            save_json(folder / "mask.json", counts)
        train, seed = kto.train_kto if trainer == "kto" else preference.train_dpo, derive(run.seed, "dpo") % 2**31
        given = (folder / "policy", seed, p.rm_batch, p.dpo_learning_rate, p.dpo_beta)
        seed_everything(seed)
        model = run.adapted(model)
        curve = train(model, reference, tokenizer, pairs, *given, **run.further("policy"))
        saved(tokenizer, folder, curve)

    code = [kto if trainer == "kto" else preference, settings, saved]
    code += [prompts, *SCORING, mask, *mask.CODE] if run.mask else []
    key = run.key("pairs", "rm_batch", "dpo_beta", "dpo_learning_rate", trl="policy", **mask.key(run))
    needs = [run.sft, run.pairs, *mask.needs(run)]
    return run.stage(trainer, build_on_pairs, key, [*DATA, *code], needs)


def on_revisions(run) -> Artifact:
    """FIGA on the labelled tokens of the row's reviser: policy, curve of its loss. Random: the order (seed)."""
    p = run.profile

    def build_figa(folder: Path) -> None:
        model, tokenizer = load_causal_lm(run.sft, run.dtype)
        rows, seed = load_from_disk(run.revisions.path / "labelled" / "preference"), derive(run.seed, "figa") % 2**31
        seed_everything(seed)
        model = run.adapted(model)
        size, rate = 2 * p.rm_batch, p.dpo_learning_rate
        further = run.row.options | run.further("policy")
        curve = figa.train_figa(to_device(model), tokenizer, rows, folder / "policy", seed, size, rate, **further)
        saved(tokenizer, folder, curve)

    key, code = (
        run.key("rm_batch", "dpo_learning_rate", trl="policy", options=run.row.options),
        [labeling, labelled, figa, saved],
    )
    return run.stage("figa", build_figa, key, [*DATA, *SCORING, *code], [run.sft, run.preferences, run.revisions])


def saved(tokenizer, folder: Path, curve: list[dict]) -> None:
    tokenizer.save_pretrained(folder / "policy")
    save_json(folder / "curve.json", curve)
