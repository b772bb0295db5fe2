"""A real pretrained model through the pipeline: SmolLM2-135M-Instruct (`pretrained.py`) on people's preference pairs.

    python -m study.measures.smollm2 --dataset FOLDER_OF_HH_RLHF      writes data/results/smollm2/pipeline.jsonl
    python -m study.measures.smollm2 --dataset FOLDER --thousand      data/results/smollm2-1000/scorers.jsonl

Where entropy cuts, what edits label, reward models of three granularities on a frozen trunk, which answers they pick,
what they pay a few answers, and some rounds of segment PPO. One seed, half a thousand pairs: it shows that the stages
take a real model and what they measure of it, and compares no methods. What every record must show was written down
before it was made (`report/smollm2.py`). Pairs are those whose prompt and both answers fit the profile's lengths, so
that nothing is cut; of HH-RLHF's folder, those on helpfulness. Of these 559 are there to learn from; within the limits
of THOUSAND there are enough for a thousand, on which the reward models alone are measured again.

Left out: fine-tuning before preferences; whatever needs the true credit, which nobody knows of real text.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from datasets import Dataset

from densereward.labels import clauses, labeling, revision
from densereward.progress import progress
from densereward.reward import dense, segments
from densereward.seeding import derive, generator, rng, seed_everything
from densereward.text import data, sampling
from densereward.text.models import load_causal_lm
from densereward.text.tokens import tokenize_pairs, tokenize_prompt
from densereward.training import reward_model, settings
from densereward.training.ppo import DensePPOConfig, DensePPOTrainer
from study import command_line
from study.measures import cuts, frozen_trunk
from study.methods import METHODS
from study.pretrained import FOLDER
from study.profiles import profile
from study.records import ROOT, provenance, write_record
from study.stages.prompts import sizes
from study.stages.scorer import scores_of

CUTOFFS = (1.5, 1.75, 2.0, 2.25)  # nats: those of segment-ppo Figure 3
ROWS = ("bandit", "segment", "token")
TOP = 2  # layers that learn, of 30
PROMPTS, ANSWERS, SAMPLED = 30, 8, 48  # best of n: prompts, answers to each, their longest in tokens
STRIPS = 3
RECORDS = ROOT / "data" / "results" / "smollm2" / "pipeline.jsonl"
THOUSAND = {"pairs": 1000, "max_prompt_length": 192, "max_completion_length": 144}
OF_THOUSAND = ROOT / "data" / "results" / "smollm2-1000" / "scorers.jsonl"
UNCUT = 10_000  # tokens: longer than anything


def read(folder: Path, tokenizer, p, seed: int) -> tuple[dict[str, Dataset], list[dict], Dataset]:
    """(tokenised pairs by part "train" and "heldout", the latter's texts, prompts for sampling) of preference data."""
    helpful = sorted(folder.glob("helpful-*")) or [folder]
    parts = data.splits([pair for path in helpful for pair in data.read_pairs(path)[0]], seed)
    fits, texts = {}, []
    for name, splits, most in (
        ("train", ("preference",), p.pairs),
        ("heldout", ("validation", "test"), p.heldout_pairs),
    ):
        rows = [row for split in splits for row in parts[split]]
        found = tokenize_pairs(({**row, "at": i} for i, row in enumerate(rows)), tokenizer, UNCUT, UNCUT)[0]
        fit = [
            i
            for i, row in enumerate(found)
            if len(row["prompt_ids"]) <= p.max_prompt_length and _longest(row) <= p.max_completion_length
        ]
        fits[name] = data.table(found.select(fit[:most]).to_list(), name)
        texts = [rows[i] for i in fits[name]["at"]]
    asked = [row for row in parts["ppo"] if len(tokenize_prompt(tokenizer, row["prompt"])) <= p.max_prompt_length]
    return fits, texts, data.table(asked, "prompts")


def _longest(row: dict) -> int:
    return max(len(row[f"{side}_completion_ids"]) for side in reward_model.SIDES)


def where_cut(tokenizer, completions: list, entropies: list, seed: int) -> dict[str, dict]:
    """`cuts.statistics` at each of CUTOFFS, and of as many random cuts as 1.75 nats make ("random")."""
    word, sentence = zip(*(cuts.starts(tokenizer, ids) for ids in progress("answers, texts", completions)))
    values, mask = cuts.padded(entropies)
    ids = {str(c): segments.segment("entropy", mask=mask, entropies=values, cutoff=c) for c in CUTOFFS}
    rate, draw = segments.start_rate(ids["1.75"]), generator(seed, "segments", "random")
    ids["random"] = segments.segment("random", mask=mask, rate=rate, generator=draw)
    lengths = mask.sum(1).tolist()
    return {
        name: cuts.statistics(
            [row[:n] for row, n in zip(of.tolist(), lengths)], word, sentence, rng(seed, "cuts", name)
        )
        for name, of in ids.items()
    }


def edits(tokenizer, pairs: Dataset, texts: list[dict], longest: int) -> dict:
    """Counts of TLCR's labels, of revisions by the chosen answer's clauses and by the chosen answer itself."""
    revisers = {
        "clauses": clauses.clause_reviser(),
        "chosen": lambda _, rejected, chosen: revision.checked(chosen, rejected),
    }
    found = {}
    for name, reviser in revisers.items():
        rows, report = labeling.labelled(pairs, revision.revise_rows(reviser, texts), tokenizer, longest)
        counts = vars(report).copy()
        of_rejected = np.concatenate([row["labels"] for row in rows if row["side"] == "rejected"])
        counts["rejected_tokens"] = len(of_rejected)
        counts["rejected_negative"] = int((of_rejected == labeling.NEGATIVE).sum())
        found[name] = counts
    return found


def ppo_rounds(folder: Path, tokenizer, scorer, normaliser, prompts: Dataset, p, seed: int) -> list[dict]:
    """Curves of `p.rounds` rounds of segment PPO, policy, reference and critic each a model of its own."""
    (policy, _), (reference, _) = load_causal_lm(folder), load_causal_lm(folder)
    seed_everything(derive(seed, "ppo"))
    critic = frozen_trunk.scorer_from(policy)
    with tempfile.TemporaryDirectory() as place:
        args = DensePPOConfig(
            **settings.common(Path(place), policy, derive(seed, "ppo")),
            **sizes(p),
            critic_learning_rate=p.critic_learning_rate,
            kl_coef=p.kl_coef,
            lam=p.lam,
            value_clip=METHODS["segment"].value_clip,
            critic_warmup_steps=p.critic_warmup,
        )
        trainer = DensePPOTrainer(
            policy,
            reward_fn=dense.reward_function(METHODS["segment"], scorer, normaliser, tokenizer),
            ref_model=reference,
            critic=critic,
            args=args,
            train_dataset=prompts,
            processing_class=tokenizer,
        )
        settings.watched(trainer, "segment PPO").train()
        return trainer.curves


def measured(
    dataset: Path, folder: Path, seed: int = 0, root: Path = ROOT / "runs", scorers_only: bool = False, **changes
) -> Iterator[dict]:
    """The records, one after the other, each with its provenance; with `scorers_only` those of the reward models and of
    what they read. `changes` are of profile smollm2's fields."""
    p = profile("smollm2", "real text", **changes)
    params = {"model": folder.name, "dataset": "HH-RLHF helpful test sets", "profile": p.to_dict(), "top": TOP}
    begun, tokens = time.perf_counter(), 0

    def record(kind: str, **found) -> dict:
        nonlocal begun, tokens
        made = {"kind": kind, "profile": p.name, "seed": seed, "params": params, **found}
        made["provenance"] = provenance(seed, "cpu", begun, tokens=tokens or None)
        begun, tokens = time.perf_counter(), 0
        return made

    model, tokenizer = load_causal_lm(folder)
    model.eval().requires_grad_(False)
    pad = tokenizer.pad_token_id
    fits, texts, prompts = read(dataset, tokenizer, p, seed)
    both = Dataset.from_list([*fits["train"], *fits["heldout"]])
    states, rows = frozen_trunk.read_pairs(model, tokenizer, folder, both, TOP, root)
    tokens = len(states)
    yield record("read", pairs={name: len(part) for name, part in fits.items()}, prompts=len(prompts))

    if not scorers_only:
        completions = [row[f"{side}_completion_ids"] for row in both for side in reward_model.SIDES]
        yield record("cuts", of="HH-RLHF answers", cuts=where_cut(tokenizer, completions, rows["entropies"], seed))
        yield record("edit labels", labels=edits(tokenizer, fits["heldout"], texts, p.max_completion_length))

    every, n = frozen_trunk.pairs(rows), len(fits["train"])
    nets, normalisers = {}, {}
    for name in (*ROWS, "shuffled"):
        row = METHODS["bandit" if name == "shuffled" else name]
        cut = reward_model.with_segments(every, row, tokenizer, seed)
        train, heldout = cut.select(range(n)), cut.select(range(n, len(cut)))
        if name == "shuffled":  # a control: labels by a coin
            train = frozen_trunk.swapped(train, rng(seed, "shuffled").random(n) < 0.5)
        nets[name], curve = frozen_trunk.trained(model, tokenizer, states, TOP, train, heldout, row, p, seed)
        margin, tokens = reward_model.margins(nets[name], heldout, pad), sum(reward_model.lengths(train))
        if name != "shuffled":
            normalisers[name] = dense.fitted(row, *scores_of(row, nets[name], every.select(range(n)), tokenizer, seed))
        own = frozen_trunk.accuracy(reward_model.margins(nets[name], train, pad), rng(seed, "accuracy"))["accuracy"]
        found = frozen_trunk.accuracy(margin, rng(seed, "accuracy")) | {"train": own, "curve": curve}
        yield record("reward model", row=name, **found)
    held = fits["heldout"]
    longer = [len(a) - len(b) for a, b in zip(held["chosen_completion_ids"], held["rejected_completion_ids"])]
    yield record("reward model", row="longer", **frozen_trunk.accuracy(np.array(longer), rng(seed, "accuracy")))
    if scorers_only:
        return

    full = {name: frozen_trunk.whole(model, nets[name]).eval() for name in ROWS}
    few = every.select(range(n, min(n + 8, len(every))))
    real = held.select(range(len(few)))
    for side in reward_model.SIDES:
        real = real.add_column(f"{side}_entropies", few[f"{side}_entropies"][:])
    gap = {name: frozen_trunk.gap(nets[name], full[name], few, real, METHODS[name], tokenizer, seed) for name in ROWS}
    yield record("whole model", gap=gap)

    lengths = [len(ids) for ids in held["chosen_completion_ids"]]
    for i in [i for i, length in enumerate(lengths) if 16 <= length <= 48][:STRIPS]:
        ids = held[i]["chosen_completion_ids"]
        paid = {m: frozen_trunk.strip(tokenizer, nets[m], METHODS[m], normalisers[m], every, n + i) for m in ROWS}
        text = {"prompt": texts[i]["prompt"][-1]["content"], "pieces": _pieces(tokenizer, ids)}
        yield record("strip", **text, entropies=[round(x, 4) for x in every[n + i]["chosen_entropies"]], paid=paid)

    asked = [tokenize_prompt(tokenizer, row["prompt"]) for row in prompts.select(range(min(PROMPTS, len(prompts))))]
    asked = [ids for ids in asked for _ in range(ANSWERS)]
    drawn = sampling.sample(model, tokenizer, asked, SAMPLED, derive(seed, "best of n"), batch_size=24)
    states, rows = frozen_trunk.cached(model, tokenizer, asked, drawn, TOP)
    tokens = sum(map(len, drawn))
    picked, given = {}, frozen_trunk.pairs(rows)
    for name in ROWS:
        nets[name].backbone.embed_tokens = torch.nn.Embedding.from_pretrained(states)
        cut = reward_model.with_segments(given, METHODS[name], tokenizer, seed)
        picked[name] = frozen_trunk.scores(nets[name], cut, pad).reshape(-1, ANSWERS).argmax(1).tolist()
    ended = [ids[-1] == tokenizer.eos_token_id for ids in drawn]
    yield record("best of n", picked=picked, lengths=[len(ids) for ids in drawn], ended=ended, answers=ANSWERS)
    yield record("cuts", of="its own answers", cuts=where_cut(tokenizer, drawn, rows["entropies"], seed))

    del nets, states
    short = replace(p, max_completion_length=min(32, p.max_completion_length))
    curves = ppo_rounds(folder, tokenizer, full["segment"], normalisers["segment"], prompts, short, seed)
    yield record("ppo", curves=curves, longest=short.max_completion_length)


def _pieces(tokenizer, ids: list[int]) -> list[str]:
    text, offsets = cuts.token_offsets(tokenizer, ids)
    return [text[a:b] or "∎" for a, b in offsets]


def main(
    dataset: Annotated[Path, typer.Option(help="HH-RLHF as released, or any preference pairs")],
    model: Annotated[Path, typer.Option(help="the folder that make smollm2 made")] = FOLDER,
    seed: Annotated[int, typer.Option(help="of splits, heads, samples", min=0)] = 0,
    thousand: Annotated[bool, typer.Option("--thousand", help="the reward models alone, on a thousand pairs")] = False,
    out: Annotated[Path | None, typer.Option(help="records file, which must not exist")] = None,
) -> None:
    """Measure everything, and write a record each (70 minutes in all on a busy machine, say the committed ones)."""
    torch.set_num_threads(1)
    out = out or (OF_THOUSAND if thousand else RECORDS)
    with command_line.asking():
        if out.exists():
            raise ValueError(f"{out} is there already; move it away, or give another --out")
        if not model.exists():
            raise ValueError(f"{model} does not exist; make it with: make smollm2")
    for record in measured(dataset, model, seed, scorers_only=thousand, **(THOUSAND if thousand else {})):
        if record["kind"] != "strip":  # it quotes the dataset: shown where it is measured, never written
            write_record(out, record)
        print(f"{record['kind']} {record.get('row', '')}: {record['provenance']['seconds']:.0f} s", flush=True)


app = command_line.command(main)

if __name__ == "__main__":
    app()
