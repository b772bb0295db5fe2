"""A language model made to choose: the probabilities that it gives to the two letters of AlpacaEval 2's question, on
LLMBar's natural set, in both orders. For a model that writes no verdict that could be read (`asked.py`).

    python -m study.measures.weighed --model runs/models/smollm2 --llmbar FOLDER_OF_LLMBAR

In this process, as `transformers serve` sends no log-probabilities.

Book: judging.md
"""

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from densereward.labels.replies import Reply
from densereward.progress import progress
from densereward.text.models import load_causal_lm
from study import command_line
from study.measures import asked, judges
from study.records import git_state, provenance, write_record
from study.stats import mean_interval

ITEMS = 40


class Letters:
    """In place of `llm.Chat`, for `judges.alpaca_weighted`: the log-probabilities of both letters as the first token of
    a reply (nats). `first` holds the share of m, which stands for the output shown first, of each question."""

    sampling = {"logprobs": True}

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer, self.first = model, tokenizer, []
        self.ids = {x: tokenizer.encode(x, add_special_tokens=False)[0] for x in "mM"}

    @torch.no_grad()
    def ask(self, messages: list[dict]) -> Reply:
        prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        logps = self.model(**prompt, logits_to_keep=1).logits[0, -1].log_softmax(-1)
        told = {x: float(logps[i]) for x, i in self.ids.items()}
        self.first.append(1 / (1 + np.exp(told["M"] - told["m"])))
        return Reply(json.dumps([told]))


def measured(model, tokenizer, items: list[dict]) -> dict:
    """Shares with 95% intervals: right picks (over items, the mean of both orders), picks of the output shown first,
    and items whose pick is the same in both orders; and the mean probability of the first letter."""
    letters, right, same = Letters(model, tokenizer), [], []
    for item in progress("letters", items):
        one, other = item["output_1"], item["output_2"]
        sides = ((one, other), (other, one))
        for_one, for_other = (judges.alpaca_weighted(letters, item["input"], *x)["preference"] > 1.5 for x in sides)
        right.append(np.mean([for_one == (item["label"] == 1), for_other == (item["label"] == 2)]))
        same.append(for_one != for_other)
    first = np.array(letters.first)
    return {
        "items": len(items),
        "right": list(mean_interval(right)),
        "shown_first": asked.share(int((first > 0.5).sum()), len(first)),
        "same": asked.share(int(np.sum(same)), len(same)),
        "probability_of_first": float(first.mean()),
    }


def main(
    model: Annotated[Path, typer.Option(help="folder of a pretrained causal LM")],
    llmbar: Annotated[Path, typer.Option(help="LLMBar's folder, with Natural.dataset.json")],
    seed: Annotated[int, typer.Option(help="which items")] = 0,
    out: Annotated[Path, typer.Option(help="records file")] = asked.RECORDS,
) -> None:
    """Weigh, and append one record."""
    torch.set_num_threads(1)
    with command_line.asking():
        items = json.loads((llmbar / "Natural.dataset.json").read_text())
        policy, tokenizer = load_causal_lm(model)
    git_state()
    begun = time.perf_counter()
    found = measured(policy.eval(), tokenizer, asked.short(items, asked.words, ITEMS, seed))
    record = {"kind": "weighed", "model": model.name, "seed": seed, **found}
    write_record(out, record | {"provenance": provenance(seed, "cpu", begun)})


app = command_line.command(main)

if __name__ == "__main__":
    app()
