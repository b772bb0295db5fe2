"""What verdicts that others published add up to, and what judging costs in tokens: the numbers of the book's page.

`data` is a folder with AlpacaEval's numbers, MT-Bench, Arena-Hard, LLMBar and GPT-2's tokenizer as their repositories
release them, file for file; nothing of them is kept but counts, means and intervals.
Nothing is asked and nothing is paid. Left out: AlpacaEval's instructions, which the folder has not.

    python -c "from study.measures.stored_verdicts import write; write('FOLDER')"

Book: judging.md
"""

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from densereward.labels.replies import Reply
from study.measures import judges
from study.measures.judge_prompts import PROMPTS
from study.measures.verdicts import agreement, mt_bench, position_bias
from study.measures.winrate import alpaca_preferences, length_controlled, win_rate
from study.records import ROOT, provenance, write_record

PHI = "mt_bench/phi3_stefanstud"
SETS = ("Natural", "Adversarial_Neighbor", "Adversarial_GPTInst", "Adversarial_GPTOut", "Adversarial_Manual")
PUBLISHED = {  # win rate, length-controlled win rate: tatsu-lab/alpaca_eval cd543a1
    "alpaca-7b": (2.5915, 5.8755),
    "phi-2-sft": (3.9776, 5.8538),
    "gpt-3.5-turbo-1106_verbose": (12.7632, 22.0009),
    "FuseChat-Llama-3.1-8B-Instruct": (63.3316, 65.3862),
}


def lines(path: Path) -> list[dict]:
    """The objects of a file with one a line, also as .gz."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(data: str | Path, path: str | Path = ROOT / "data" / "results" / "judging.jsonl") -> None:
    """Appends `measured` as one record with its provenance. Raises OSError where a file is missing."""
    started = time.perf_counter()
    found = measured(Path(data))
    write_record(Path(path), {"kind": "judging", **found, "provenance": provenance(None, "cpu", started)})


def measured(data: Path) -> dict[str, list[dict]]:
    """Tables by name, each a list of rows: win_rates, mt_bench, position, llmbar, cost."""
    single = lines(data / PHI / "model_judgment" / "gpt-4_single.jsonl.gz")
    pairs = lines(data / PHI / "model_judgment" / "gpt-4_pair.jsonl.gz")
    return {
        "win_rates": list(win_rates(data / "alpaca_eval_numbers")),
        "mt_bench": grades(data, single),
        "position": [position(pairs)],
        "llmbar": [known_labels(data / "llmbar", name) for name in SETS],
        "cost": list(cost(data, single, pairs)),
    }


def win_rates(folder: Path) -> Iterator[dict]:
    """AlpacaEval 2's two rates of each model of PUBLISHED, beside the published ones; per cent, errors in points."""
    rows, gamed = pd.read_csv(folder / "preferences_lengths.csv.gz"), pd.read_csv(folder / "df_gamed.csv.gz")
    for model, printed in PUBLISHED.items():
        own = rows[rows.model == model]
        preferences = alpaca_preferences(own.preference_1_baseline_2_model)
        given = preferences, own.len_chars_output_2, own.len_chars_output_1, own.baseline_output_index
        raw, controlled = win_rate(preferences), length_controlled(*given, gamed)
        row = {"model": model, "win rate": raw.rate, "published": printed[0]}
        row |= {"length-controlled": controlled.rate, "published, controlled": printed[1]}
        yield row | {
            "standard error": controlled.standard_error,
            "of predictions alone": controlled.published_error,
            "length (characters)": float(own.len_chars_output_2.mean()),
        }


def grades(data: Path, single: list[dict]) -> list[dict]:
    """MT-Bench's table of the stored grades, read from the judge's words."""
    judged = [(j["question_id"], j["turn"], judges.read_rating(j["judgment"])) for j in single]
    categories = {q["question_id"]: q["category"] for q in lines(data / "mt_bench" / "question.jsonl")}
    table = mt_bench(pd.DataFrame(judged, columns=["question", "turn", "score"]), categories)
    return table.rename_axis("category").reset_index().to_dict("records")


def position(pairs: list[dict]) -> dict:
    """How far the order decided the stored verdicts of pairs; an error there is unreadable here."""
    return position_bias(*([None if p[g] == "error" else p[g] for p in pairs] for g in ("g1_winner", "g2_winner")))


def picks(folder: Path, name: str) -> tuple[list[str], list[str], list[str]]:
    """(picks in one order, in the other, labels) of an LLMBar set: any that have the published counts, which say how
    many items were right in both orders, in one and in none, and not which."""
    said = json.loads((folder / f"{name}.gpt4_vanilla_statistics.json").read_text())
    labels = [str(row["label"]) for row in json.loads((folder / f"{name}.dataset.json").read_text())]
    counts = {key: int(said[f"correct_{key}"].split("/")[0]) for key in ("False", "True", "both")}
    one, other = (counts[key] - counts["both"] for key in ("False", "True"))
    fates = ["both"] * counts["both"] + ["first"] * one + ["second"] * other
    fates += ["none"] * (len(labels) - len(fates))
    wrong = {"1": "2", "2": "1"}
    orders = [[x if fate in ("both", order) else wrong[x] for x, fate in zip(labels, fates)] for order in
              ("first", "second")]  # fmt: skip
    return *orders, labels


def known_labels(folder: Path, name: str) -> dict:
    """GPT-4 on a set of LLMBar: items, per cent of right picks over both orders with its interval, of equal picks."""
    found = agreement(*picks(folder, name))
    share, low, high = (100 * x for x in found["average"])
    row = {"set": name.removeprefix("Adversarial_"), "items": round(found["both"][0] / found["both"][1])}
    return row | {"right": share, "low": low, "high": high, "same pick in both orders": 100 * found["equal"][1]}


class _Counting:
    """In place of a client: counts the tokens that would be sent, GPT-2's."""

    sampling = {"logprobs": True}

    def __init__(self, folder: Path):
        self.tokenizer = Tokenizer(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
        self.tokenizer.pre_tokenizer, self.sent = ByteLevel(add_prefix_space=False), []

    def ask(self, messages: list[dict]) -> Reply:
        self.sent.append(sum(self.count(message["content"]) for message in messages))
        return Reply("")

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text).ids)

    def mean(self, texts: list[str]) -> float:
        return sum(map(self.count, texts)) / len(texts)


def cost(data: Path, single: list[dict], pairs: list[dict]) -> Iterator[dict]:
    """Tokens per call of each judge: of our words alone ("prompt"), in all ("in"), and of the judge's reply ("out"),
    where they can be counted; and the calls of a run."""
    counts = _Counting(data / "tokenizers" / "gpt2")
    questions = lines(data / "mt_bench" / "question.jsonl")
    answered = [data / PHI / "model_answer" / f"{name}.jsonl.gz" for name in ("phi-3", "phi-3-dpo")]
    answered.append(data / "mt_bench" / "reference_answer__gpt-4.jsonl")
    turns = [{row["question_id"]: row["choices"][0]["turns"] for row in lines(path)} for path in answered]

    def words(*names: str) -> float:
        return counts.mean(["\n".join(m["content"] for m in PROMPTS[name]) for name in names])

    def asked(judge: str, run: str, prompt: float, said: list[str]) -> dict:
        row = {"judge": judge, "calls": len(counts.sent), "of a run": run, "prompt": prompt}
        row |= {"in": sum(counts.sent) / len(counts.sent), "out": counts.mean(said)}
        counts.sent = []
        return row

    names = {kind: [name for name in PROMPTS if name.startswith(kind)] for kind in ("single", "pair")}
    for question in questions:
        one, _, reference = (of.get(question["question_id"]) for of in turns)
        judges.mt_bench_single(counts, question, one, reference)
    said = [told["judgment"] for told in single]
    yield asked("MT-Bench, one answer", "80 × 2 turns", words(*names["single"]), said)
    for question in questions:
        one, other, reference = (of.get(question["question_id"]) for of in turns)
        for turn in (1, 2):
            judges.mt_bench_pair(counts, question, turn, one, other, reference)
    said = [told[f"{game}_judgment"] for told in pairs for game in ("g1", "g2")]
    yield asked("MT-Bench, pairs", "80 × 2 turns × 2 orders", words(*names["pair"]), said)
    hard = lines(data / "arena_hard" / "question.jsonl.gz")
    board = pd.read_csv(data / "arena_hard" / "arena_hard_leaderboard_20240731.csv").set_index("model")
    texts = counts.mean([row["prompt"] for row in hard])
    texts += board.avg_tokens.mean() + board.avg_tokens["gpt-4-0314"]
    prompt = words("arena-hard")
    row = {"judge": "Arena-Hard", "calls": 2 * len(hard), "of a run": "500 × 2 orders", "prompt": prompt}
    yield row | {"in": float(prompt + texts), "out": None}
    for judge, name, of_run in (
        ("AlpacaEval, ranking", "alpaca_eval_fn", "805"),
        ("AlpacaEval, ranking in a list", "alpaca_eval", "805"),
        ("AlpacaEval 2, weighted", "alpaca_eval_clf", "805"),
        ("adaptive-mask", "adaptive-mask", "one per pair"),
    ):
        calls = 805 if of_run == "805" else None
        row = {"judge": judge, "calls": calls, "of a run": of_run, "prompt": words(name)}
        yield row | {"in": None, "out": 1.0 if name == "alpaca_eval_clf" else None}
