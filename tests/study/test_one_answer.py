"""One answer in every view: a page that sets them side by side must set the same tokens, and the truth, beside them."""

import pytest
import torch

from densereward.text.models import load_causal_lm
from study.measures import one_answer
from study.profiles import profile
from study.run import Run
from test_baselines import TINY
from testbed import oracle, truth


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(profile("smoke", **TINY | {"rounds": 1}), 0, root=tmp_path_factory.mktemp("runs"))


def test_every_view_is_of_the_same_tokens(run):
    seen = one_answer.seen(run, ["bandit", "token"], shortest=4, longest=64)
    _, tokenizer = load_causal_lm(run.sft)
    n = int(seen.batch["completion_mask"].sum())
    prompt, ids = (seen.batch[f"{side}_ids"][0].tolist() for side in ("prompt", "completion"))
    spans = oracle.parse(truth.text_of(tokenizer, prompt), truth.text_of(tokenizer, ids))
    assert {s.credit for s in spans} == set(seen.credit[0].tolist()), "the oracle's credits, and of this answer"
    assert seen.labels.shape == seen.credit.shape == (1, n) and set(seen.labels.unique().tolist()) <= {0.0, 0.5}
    assert (seen.labels == 0).any(), "an answer that nothing is taken out of shows no edit"
    bandit, token = (seen.rewards[name][0] for name in ("bandit", "token"))
    assert bandit.count_nonzero() == 1 and token.count_nonzero() > 1 and len(token) == n
    assert not torch.equal(seen.advantages["bandit"], seen.advantages["token"])
    assert seen.masks["bandit"].mask.sum() == n, "what decides no mask takes nothing out"
    kept, states = (x[0, :n] for x in seen.masks["token"][:2])
    assert torch.equal(kept, states == -1) and 0 < kept.sum() < n, "of a rejected answer the bad tokens teach"


def test_where_no_answer_fits_it_says_so(run):
    with pytest.raises(ValueError, match="no rows left"):
        one_answer.seen(run, ["bandit"], shortest=900, longest=901)
