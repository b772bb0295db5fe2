"""How long the answers of a sweep over length are in tokens, before anything is trained."""

from dataclasses import replace

import numpy as np
import pandas as pd

from densereward.text import models, tokens
from study.profiles import profile as profile_row
from study.run import Run
from study.sweeps import OF_LENGTH
from testbed import oracle


def token_lengths(run: Run, n: int = 1_000, sweep: str = "length") -> pd.DataFrame:
    """How long n of the SFT model's training answers are in tokens at each setting of a sweep of OF_LENGTH, and how
    many the limit cuts; what is asked for and spans of them. Random: none (the SFT data are those of seed 0)."""
    found = []
    for changes in OF_LENGTH[sweep]:
        p = profile_row(run.profile.name, **changes)
        rows = replace(run, profile=p, seed=0).splits(sft=n)["sft"]
        texts = [[m["content"] for m in row["prompt"] + row["completion"]] for row in rows]
        tokenizer = models.build_tokenizer([text for row in texts for text in row], p.vocab_size)
        lengths = [len(tokens.tokenize_response(tokenizer, row[-1])) for row in texts]
        asked = {"items asked for": float(np.mean([sum(oracle.ask(row[0]).values()) for row in texts]))}
        asked |= {"spans per answer": float(np.mean([len(oracle.parse(row[0], row[-1])) for row in texts]))}
        counts = {**asked, "tokens per answer": float(np.mean(lengths)), "longest": max(lengths)}
        limits = {
            "limit": p.max_completion_length,
            "cut (share)": float(np.mean(np.array(lengths) > p.max_completion_length)),
        }
        kinds = {"kinds at once": p.world.parts} if sweep == "spans" else {}
        found.append({**kinds, "vocabulary": p.vocab_size, **counts, **limits})
    return pd.DataFrame(found)
