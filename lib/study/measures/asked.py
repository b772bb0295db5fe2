"""A language model behind an endpoint as reviser and as judge of real text: how many of its replies are of use, and how
often it is right. For whoever wants to know a model before paying it for a whole run.

    transformers serve runs/models/smollm2 --device cpu --dtype float32 --host 127.0.0.1 --port 8001
    export OPENAI_BASE_URL=http://127.0.0.1:8001/v1 OPENAI_API_KEY=none
    python -m study.measures.asked --model runs/models/smollm2 --dataset FOLDER_OF_HH_RLHF --llmbar FOLDER_OF_LLMBAR

Each question is asked once. The judges are adaptive-mask's (JSON) and MT-Bench's of pairs (a label behind reasons), in
both orders, on a set of LLMBar's, whose labels are known. Texts are short ones, so that a small model on a processor
is done in minutes; to qualify a judge of one's own before it is trusted, add

    --items 134 --longest 100000 --tokens 1024 --set Adversarial_Neighbor

The record holds counts, and no text.

Book: judging.md
"""

import json
import time
from pathlib import Path
from typing import Annotated

import scipy
import typer

from densereward.labels import labeling, revision, revision_prompt
from densereward.labels.llm import Chat
from densereward.progress import progress
from densereward.seeding import rng
from densereward.text import data
from study import command_line
from study.measures import judges, verdicts
from study.records import ROOT, git_state, provenance, write_record

RECORDS = ROOT / "data" / "results" / "asked.jsonl"
PAIRS, ITEMS, CHARACTERS = 24, 15, 900  # revisions, items judged, the longest texts of one in all
REVISION, VERDICT = 320, 128  # tokens of a reply
SET = "Natural"


def share(count: int, n: int) -> list[float]:
    """[share, low, high] with Wilson's 95% interval; [] of none."""
    if not n:
        return []
    interval = scipy.stats.binomtest(count, n).proportion_ci(method="wilson")
    return [count / n, float(interval.low), float(interval.high)]


def revisions(chat: Chat, pairs: list[dict]) -> dict:
    """What became of TLCR's request for each pair: counts by outcome, the usable share, and of the usable the words of
    the rejected answers, those that the revision takes out, and how many are the preferred answer word for word."""
    made = revision.revise_rows(revision_prompt.llm_reviser(chat, attempts=1), pairs, chat.concurrency)
    found = revision.totals(made) | {"words": 0, "taken_out": 0, "preferred_copied": 0}
    for pair, one in zip(pairs, made):
        if one.text is not None:
            texts = [text.split() for text in (pair["rejected"][0]["content"], one.text)]
            number = {word: i for i, word in enumerate(dict.fromkeys(texts[0] + texts[1]))}
            labels, _ = labeling.edit_labels(*([number[word] for word in text] for text in texts))
            found["words"] += len(labels)
            found["taken_out"] += int((labels == labeling.NEGATIVE).sum())
            found["preferred_copied"] += texts[1] == pair["chosen"][0]["content"].split()
    return found | {"usable": share(found["revised"], found["read"])}


def by_adaptive_mask(chat: Chat, item: dict) -> list[tuple]:
    """[(winner, outcome)] of an item with its answers in order and turned around: "model_1" is its first answer."""
    one, other, rows = item["output_1"], item["output_2"], []
    for a, b, winners in ((one, other, ("model_1", "model_2")), (other, one, ("model_2", "model_1"))):
        told = judges.adaptive_mask(chat, item["input"], a, b)
        rows.append((dict(zip("AB", winners)).get(told["winner"]), told["outcome"]))
    return rows


def by_mt_bench(chat: Chat, item: dict) -> list[tuple]:
    """As `by_adaptive_mask`; "tie" is a verdict too."""
    question = {"question_id": "item", "category": "any", "turns": [item["input"], ""]}
    answers = ((item[f"output_{i}"], "") for i in (1, 2))
    return [(row["winner"], row["outcome"]) for row in judges.mt_bench_pair(chat, question, 1, *answers)]


JUDGES = {"adaptive-mask": by_adaptive_mask, "MT-Bench, pairs": by_mt_bench}


def judged(chat: Chat, name: str, items: list[dict]) -> dict:
    """A judge of JUDGES on labelled items, both orders: counts by outcome, of verdicts read and right, shares with
    intervals, and how far the order decides (`verdicts.position_bias`, `verdicts.agreement`)."""
    rows = [JUDGES[name](chat, item) for item in progress(f"verdicts, {name}", items)]  # [N][2]
    first, second = ([row[i][0] for row in rows] for i in (0, 1))
    bias = verdicts.position_bias(first, second)
    picks = [[{"model_1": "1", "model_2": "2"}.get(x) for x in side] for side in (first, second)]
    labels = [str(item["label"]) for item in items]
    picked = [pick == label for side in picks for pick, label in zip(side, labels) if pick]
    shown_first = picks[0].count("1") + picks[1].count("2")
    faults = judges.faults({"outcome": outcome} for row in rows for _, outcome in row)
    return faults | {
        "judge": name,
        "items": len(items),
        "picked": len(picked),
        "right": share(sum(picked), len(picked)),
        "shown_first": share(shown_first, len(picked)),
        "right_of_all": list(verdicts.agreement(*picks, labels)["average"]),
        "position": {x: bias[x] for x in ("pairs", "unreadable", "same", "reversed", "to_first", "tie_in_one")},
    }


def short(rows: list[dict], texts, most: int, seed: int, longest: int = CHARACTERS) -> list[dict]:
    """The first `most` rows, in an order drawn by `seed`, whose `texts` have at most `longest` characters together."""
    order = rng(seed, "asked").permutation(len(rows))
    return [rows[i] for i in order if sum(map(len, texts(rows[i]))) <= longest][:most]


def words(item: dict) -> list[str]:
    """The texts of an item of LLMBar."""
    return [item[name] for name in ("input", "output_1", "output_2")]


def main(
    model: Annotated[str, typer.Option(help="as the endpoint of OPENAI_BASE_URL names it")],
    dataset: Annotated[Path, typer.Option(help="preference pairs, HH-RLHF's folder")],
    llmbar: Annotated[Path, typer.Option(help="LLMBar's folder, with Natural.dataset.json and the others")],
    seed: Annotated[int, typer.Option(help="which pairs and items")] = 0,
    out: Annotated[Path, typer.Option(help="records file")] = RECORDS,
    cache: Annotated[Path, typer.Option(help="replies, each paid once")] = ROOT / "runs" / "replies.sqlite",
    items: Annotated[int, typer.Option(min=1, help="how many items are judged, at most")] = ITEMS,
    of: Annotated[str, typer.Option("--set", help="which of LLMBar's sets: Natural, Adversarial_Manual, ...")] = SET,
    longest: Annotated[int, typer.Option(help="characters of an item's three texts, at most")] = CHARACTERS,
    tokens: Annotated[int, typer.Option(help="of a verdict, at most")] = VERDICT,
) -> None:
    """Ask, and append one record."""
    with command_line.asking():
        helpful = dataset / "helpful-base"
        every = data.read_pairs(helpful if helpful.is_dir() else dataset)[0]
        labelled = json.loads((llmbar / f"{of}.dataset.json").read_text())
        if not (labelled := short(labelled, words, items, seed, longest)):
            raise ValueError(f"no item of {of} has at most {longest} characters; give a larger --longest")
    sides = ("prompt", "chosen", "rejected")
    pairs = short(every, lambda row: [m["content"] for side in sides for m in row[side]], PAIRS, seed)
    chats = [Chat(model, cache, concurrency=1, temperature=0, max_tokens=n) for n in (REVISION, tokens)]
    git_state()  # of what asks, not of what lies here when the last reply has come
    begun, seconds = time.perf_counter(), []
    found = {"revisions": revisions(chats[0], pairs)}
    seconds.append(time.perf_counter() - begun)
    found["verdicts"] = [judged(chats[1], name, labelled) for name in JUDGES]
    seconds.append(time.perf_counter() - begun - seconds[0])
    limits = {"set": of, "longest": longest, "verdict_tokens": tokens}
    record = {"kind": "asked", "model": Path(model).name, "seed": seed, **limits, **found}
    for name, chat, took in zip(("revisions", "verdicts"), chats, seconds):
        record[f"{name}_spent"] = {"seconds": round(took, 1), **chat.budget.spent, "counts": dict(chat.counts)}
    write_record(out, record | {"provenance": provenance(seed, "cpu", begun)})


app = command_line.command(main)

if __name__ == "__main__":
    app()
