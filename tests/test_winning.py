"""Win rates over training: a reference that were another's, or redrawn for each method, would decide the figure."""

from densereward import pipeline, study, winning
from densereward.methods import METHODS
from densereward.pipeline import Run
from densereward.profiles import profile
from densereward.testbed import oracle

TINY = {
    "sft_rows": 64, "pairs": 32, "heldout_pairs": 24, "rm_batch": 8, "rounds": 2, "rollouts": 8, "eval_prompts": 8,
    "credit_responses": 4, "credit_samples": 2, "max_completion_length": 24, "committed_models": None,
}  # fmt: skip


def test_every_method_is_compared_with_the_same_answers_and_ties_count_half(tmp_path, capsys):
    run = Run(profile("smoke", **TINY), 0, root=tmp_path)
    folder_of_sft = pipeline.sft_model(run)
    theirs = winning.reference_returns(run, folder_of_sft)
    assert len(theirs) == 16 and all(oracle.ask(prompt) for prompt in theirs)
    *_, win_rate = winning.metrics(run, folder_of_sft)
    prompt = next(iter(theirs))
    asked = [[{"role": "user", "content": prompt}]] * 3
    answers = ["apple, plum.", "saw saw saw saw saw saw saw saw saw saw saw", ""]
    found = win_rate(prompts=asked, completions=[[{"role": "assistant", "content": text}] for text in answers])
    for text, won in zip(answers, found, strict=True):
        gap = oracle.true_return(prompt, text) - theirs[prompt]
        assert won == (1.0 if gap > 1e-9 else 0.0 if gap < -1e-9 else 0.5)
    for name in ("bandit", "grpo", "rs"):
        record = study.run_method(run, METHODS[name])
        assert all(0 <= row["win_rate"] <= 1 for row in record["curves"]), name
    assert capsys.readouterr().out.count("stage reference") >= 4, "one stage, shared"
    assert len(list((tmp_path / "stages").glob("reference-*"))) == 1


def test_on_text_there_is_no_win_rate(tmp_path):
    assert winning.metrics(Run(profile("smoke"), dataset="pairs.jsonl", root=tmp_path), tmp_path) == []
