"""What training costs elsewhere: benchmarks by lm-evaluation-harness, and tasks of the testbed that run offline.

`papers` are the benchmarks of segment-ppo's Table 7 and adaptive-mask's Table 1 (shots: its Appendix C.2; segment-ppo
names the Open LLM Leaderboard, whose shots are taken) as tasks of the harness, 0.4.13. The local tasks are for a policy
of the testbed: `choice`, which of four items completes an answer, which no reward pays by itself; `generate`, how much
of what is asked for the greedy answer names. The harness is an extra (`pip install -e '.[bench]'`); `accuracy` and
`covered` do without it, and a test holds them equal to its numbers. Left out: C3, which the harness has not, and its
data sets, which it downloads.

Book: judging.md
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from densereward.seeding import rng
from densereward.text import sampling
from densereward.text.tokens import tokenize_prompt, tokenize_response
from study.records import ROOT
from testbed import build, oracle, truth
from testbed import world as w

CHOICES = 4
LONGEST = 96  # tokens of a generated answer
LOCAL = ("testbed_choice", "testbed_generate")
_METRIC = """\
from testbed.oracle import summary


def process(doc, results):
    return {"covered": summary(doc["prompt"], results[0])["covered"]}
"""
_TASK = """\
dataset_path: json
dataset_kwargs: {data_files: {test: QUESTIONS}}
test_split: test
doc_to_text: "{{prompt}}"
target_delimiter: ""
num_fewshot: 0
"""
_CHOICE = """\
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: right
metric_list: [{metric: acc}]
"""
_GENERATE = """\
output_type: generate_until
doc_to_target: ""
generation_kwargs: {until: ["\\n\\n"], do_sample: false, max_gen_toks: LONGEST}
process_results: !function testbed_metric.process
metric_list: [{metric: covered, aggregation: mean, higher_is_better: true}]
"""


def papers(paper: str) -> pd.DataFrame:
    """A paper's benchmarks: row (as printed), task, metric, shots, shots_by; task is empty where the harness has none.
    Raises ValueError for a paper without any."""
    rows = pd.read_csv(ROOT / "data" / "benchmarks.csv", keep_default_na=False)
    found = rows[rows.paper == paper].drop(columns="paper").reset_index(drop=True)
    if found.empty:
        raise ValueError(f"no benchmarks of paper {paper!r}; choose {' or '.join(rows.paper.unique())}")
    return found


def questions(world: w.World, n: int, seed: int = 0) -> list[dict]:
    """n questions of prompts held out for test: prompt, choices (answers that have named all but one of what was asked
    for, and end on another item each), right (which of them ends on the missing one; two repeat an item where two are
    named, the others are of kinds not asked for). Random: `seed`."""
    pool, draw, rows = w.prompts(world, "test"), rng(seed, "benchmark"), []
    for _ in range(n):
        prompt = pool[draw.integers(len(pool))]
        asked = oracle.ask(prompt)
        items = [str(x) for kind, number in asked.items() for x in draw.choice(w.ITEMS[kind], number, replace=False)]
        *named, missing = draw.permutation(items)
        repeated = draw.permutation(named)[:2]
        foreign = draw.choice(w.others(asked), CHOICES - 1 - len(repeated), replace=False)
        ends, order = [missing, *repeated, *foreign], draw.permutation(CHOICES)
        choices = [", ".join(f"maybe {item}" for item in (*named, ends[i])) for i in order]
        rows.append({"prompt": prompt, "choices": choices, "right": int(np.argmin(order))})
    return rows


@torch.no_grad()
def accuracy(model, tokenizer, asked: list[dict], batch_size: int = 128) -> dict[str, float]:
    """How often a model finds the right one of `questions` the likeliest (sum of log-probabilities of its tokens, in
    nats): n, accuracy (share), standard_error (binomial), chance."""
    rows = [(tokenize_prompt(tokenizer, build.messages(q["prompt"])), tokenize_response(tokenizer, text)[:-1])
            for q in asked for text in q["choices"]]  # fmt: skip  # without EOS: an answer may go on
    scores = []
    for start in range(0, len(rows), batch_size):
        batch = sampling.batch_of(model, tokenizer, *map(list, zip(*rows[start : start + batch_size])))
        scores += (batch["ref_logps"] * batch["completion_mask"]).sum(1).tolist()  # [B]
    found = np.reshape(scores, (len(asked), CHOICES)).argmax(1) == [q["right"] for q in asked]
    return _told(found, 1 / CHOICES)


@torch.no_grad()
def covered(model, tokenizer, asked: list[dict], batch_size: int = 128) -> dict[str, float]:
    """What the greedy answers to `questions`, of at most LONGEST tokens, name of what is asked for: n, accuracy (mean
    share), standard_error, chance (none)."""
    prompts, answers = [tokenize_prompt(tokenizer, build.messages(q["prompt"])) for q in asked], []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        answers += sampling.continued(model, tokenizer, part, LONGEST, **sampling.GREEDY)
    texts = [truth.text_of(tokenizer, ids) for ids in answers]
    return _told([oracle.summary(q["prompt"], text)["covered"] for q, text in zip(asked, texts)], 0.0)


def _told(found, chance: float) -> dict[str, float]:
    """n, mean, standard error of the mean, and chance of results per question [N]."""
    error = float(np.std(found) / np.sqrt(len(found)))
    return {"n": len(found), "accuracy": float(np.mean(found)), "standard_error": error, "chance": chance}


def write_tasks(folder: str | Path, asked: list[dict]) -> Path:
    """Writes LOCAL as tasks of the harness, with their `questions`, for `evaluate(..., include=folder)`."""
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (folder / "testbed_metric.py").write_text(_METRIC)
    for name, rest in zip(LOCAL, (_CHOICE, _GENERATE)):
        text = f"task: {name}\n{_TASK}{rest}".replace("LONGEST", str(LONGEST))
        (folder / f"{name}.yaml").write_text(text.replace("QUESTIONS", json.dumps(str(folder / "questions.jsonl"))))
    return folder


def evaluate(model, tokenizer, tasks: dict[str, int], include: str | Path | None = None, limit: int | None = None,
             seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """Tasks of the harness (name -> shots) of a model in memory, prompts in its chat template where it has one: a row
    per task and metric, with value and standard_error. `include` is a folder of own tasks, without the harness's;
    `limit` examples of each. Raises ImportError, with the mend, where the harness is not installed."""
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as missing:
        raise ImportError(f"{missing}: install lm-evaluation-harness (pip install -e '.[bench]')") from missing
    manager = TaskManager(include_path=str(include), include_defaults=False) if include else TaskManager()
    harness, rows = HFLM(pretrained=model, tokenizer=tokenizer), []
    for shots in sorted(set(tasks.values())):
        names = [name for name, asked in tasks.items() if asked == shots]
        seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), seed)
        found = lm_eval.simple_evaluate(
            harness, tasks=names, num_fewshot=shots, task_manager=manager, limit=limit, bootstrap_iters=0, **seeds,
            apply_chat_template=bool(tokenizer.chat_template), log_samples=False,
        )  # fmt: skip
        for task, numbers in found["results"].items():
            for key, value in numbers.items():
                metric, _, how = key.partition(",")
                if how and not metric.endswith("_stderr"):
                    error = numbers.get(f"{metric}_stderr,{how}")
                    row = {"task": task, "shots": shots, "metric": metric, "filter": how, "value": value}
                    rows.append(row | {"standard_error": error if isinstance(error, float) else float("nan")})
    return pd.DataFrame(rows)
