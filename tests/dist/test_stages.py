"""What would break: a study whose stages train on several processes, and whose cache and records do not know of it."""

from dataclasses import replace

import pytest

from densereward.text.models import TokenScorer, load_causal_lm
from study import engines, scale
from study.cache import load_json
from study.methods import METHODS
from study.profiles import profile
from study.run import Run

pytestmark = pytest.mark.dist


def test_a_row_trains_on_two_processes_under_zero2(tmp_path, monkeypatch):
    """Each stage is built once, by two processes; what is saved can be read; the cache takes it as the stage's."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    started, launch = [], engines.launch

    def counted(command, config, processes, hostfile):
        started.append((config.stem, processes))
        launch(command, config, processes, hostfile)

    monkeypatch.setattr(engines, "launch", counted)
    small = scale.toy(Run(profile("smoke"), row=METHODS["segment"], root=tmp_path))
    run = replace(small, engine="zero2", processes=2)
    assert run.policy and started == [("zero2", 2)] * 3  # SFT, scorer, PPO
    TokenScorer.from_pretrained(run.scorer)
    TokenScorer.from_pretrained(run.policy.path / "critic")
    load_causal_lm(run.policy.path / "policy")
    (row,) = load_json(run.policy.path / "curves.json")
    assert row["kl"] == pytest.approx(0, abs=1e-4) and row["length"] > 0
    assert small.policy.path == run.policy.path and len(started) == 3, "one run, however it was carried out"


@pytest.mark.parametrize("method, engine", [("appo", "ddp"), ("vine-full", "zero3")])
def test_a_mask_and_continuations_are_made_by_two_processes(method, engine, tmp_path, monkeypatch):
    """Their own way through the stages, with all that they sample; as many prefixes as each process happens to have."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    small = scale.toy(Run(profile("smoke"), row=METHODS[method], root=tmp_path))
    run = replace(small, engine=engine, processes=2)
    (row,) = load_json(run.policy.path / "curves.json")
    load_causal_lm(run.policy.path / "policy")
    assert 0 < row["kept"] < 1 if method == "appo" else row["responses"] > 16, row


def test_a_stage_that_fails_says_why_and_leaves_nothing(tmp_path):
    small = scale.toy(Run(profile("smoke"), root=tmp_path))
    run = replace(small, engine="ddp", processes=3)
    with pytest.raises(RuntimeError, match=r"ValueError: an update of 8 rows does not split over 3 processes"):
        _ = run.sft
    assert not list((small.root / "stages").glob("sft-*"))
