"""The study: a record that says less than happened, or a run that cannot be resumed, is worthless to a reader."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import load_from_disk

from densereward import data, identity, labeling, pipeline, policy, profiles, study, tuning
from densereward.evaluation import measure, tables
from densereward.methods import METHODS, method
from densereward.pipeline import Run
from densereward.profiles import profile
from densereward.records import read_records, write_record
from densereward.stages import load_json

ANSWERS = {"prompt_ids": [[5, 6], [7]], "completion_ids": [[11, 12, 13, 14], [15, 16]]}
SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples" / "hh_rlhf.jsonl"
TINY = {
    "committed_models": None, "width": 32, "layers": 1, "vocab_size": 400, "sft_rows": 64, "pairs": 32,
    "heldout_pairs": 24,
    "rm_batch": 8, "rounds": 2, "rollouts": 8, "eval_prompts": 24, "credit_responses": 4, "credit_samples": 2,
    "max_completion_length": 24,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def test_a_run_records_policy_scorer_credit_and_where_it_comes_from(root, capsys):
    run = Run(profile("smoke", **TINY), 0, root=root)
    record = study.run_method(run, method("segment", entropy_cutoff=1.0))
    json.dumps(record, allow_nan=False)
    assert len(record["curves"]) == 2 and {"true_return", "proxy_reward", "kl", "length"} <= record["curves"][0].keys()
    assert {"accuracy_test", "style_test", "ceiling_test", "flip_test", "passes_test"} <= record["reward_model"].keys()
    assert record["gate"] in ("passed", "failed")
    assert {"rewards_credit_pearson", "advantages_monte_carlo_pearson", "boundary_recall"} <= record["credit"].keys()
    assert {"true_return", "true_return_held_out", "kl", "length", "fact_accuracy"} <= record["final"].keys()
    assert record["params"]["method"]["segmentation"] == {"kind": "entropy", "cutoff": 1.0}
    assert {"commit", "packages", "seconds", "peak_rss_mib", "tokens"} <= record["provenance"].keys()


def test_methods_share_stages_and_a_changed_parameter_reruns_only_what_depends_on_it(root, capsys):
    run = Run(profile("smoke", **TINY), 0, root=root)
    capsys.readouterr()
    study.run_method(run, method("bandit"))
    out = capsys.readouterr().out
    assert out.count("stage sft") == out.count("stage preferences") == 1
    assert "sft" in [line.split()[1] for line in out.splitlines() if line.endswith("reused")]
    study.run_method(replace(run, profile=replace(run.profile, kl_coef=0.5)), method("bandit"))
    built = [line.split()[1] for line in capsys.readouterr().out.splitlines() if "built" in line]
    assert built == ["ppo"]


def test_within_a_seed_methods_see_the_same_prompts_and_first_rollouts(root):
    run = Run(profile("smoke", **TINY), 0, root=root)
    records = [study.run_method(run, method(name)) for name in ("bandit", "oracle-dense", "oracle-sequence-noisy")]
    first = [r["curves"][0] for r in records]
    assert len({(row["true_return"], row["length"]) for row in first}) == 1


def test_matched_noise_spreads_the_same_draw(root):
    """The sequence reward of the noisy control is the sum of what its dense twin hands out."""
    import torch

    from densereward import sampling, tokens
    from densereward.models import load_causal_lm
    from densereward.testbed import build, oracle, truth

    run = Run(profile("smoke", **TINY), 0, root=root)
    model, tokenizer = load_causal_lm(pipeline.sft_model(run))
    texts = ["sure: apple, pear. hammer.", "plum."]
    prompt = tokens.tokenize_prompt(tokenizer, build.messages("list three fruits."))
    batch = sampling.batch_of(model, tokenizer, [prompt] * 2, [tokens.tokenize_response(tokenizer, t) for t in texts])

    def oracle_rewards(name, returns="additive"):
        draw = torch.Generator().manual_seed(0)
        return truth.oracle_rewards(method(name), tokenizer, returns, 2.5, draw)(batch)

    names = ("oracle-dense-noisy", "oracle-sequence-noisy")
    dense, sequence = (oracle_rewards(name) for name in names)
    assert torch.allclose(dense.sum(1), sequence.sum(1), atol=1e-5)
    assert ((sequence != 0).sum(1) == 1).all() and (dense != 0).sum(1).tolist() == [4, 1]  # a number per span
    assert torch.allclose(oracle_rewards("oracle-dense").sum(1) * 2.5, torch.tensor([1.0, 1.0]), atol=1e-5)
    whole = oracle_rewards("oracle-dense", "whole").sum(1) * 2.5  # no sum of credits: the rest is paid at the end
    truly = torch.tensor([oracle.true_return("list three fruits.", t, "whole") for t in texts])
    assert torch.allclose(whole, truly, atol=1e-5)


def test_any_notebooks_model_parameter_replaces_the_tiny_one(root):
    own = Run(profile("smoke", **TINY), 0, root=root)
    folder = pipeline.sft_model(own)
    run = Run(profile("smoke", **TINY), 0, model=str(folder), root=root)
    assert pipeline.sft_model(run) == folder
    record = study.run_method(run, method("sft"))
    assert record["params"]["model"] == str(folder) and record["final"]["kl"] == pytest.approx(0, abs=1e-4)


def test_real_text_goes_the_same_way_without_the_oracle(root):
    p = profile("smoke", str(SAMPLES), **{k: v for k, v in TINY.items() if k != "max_completion_length"})
    record = study.run_method(Run(p, 0, dataset=str(SAMPLES), root=root), method("token"))
    assert "credit" not in record and "true_return" not in record["final"]
    assert 0 <= record["reward_model"]["accuracy_test"] <= 1 and "style_test" not in record["reward_model"]
    assert record["final"]["length"] > 0 and len(record["curves"]) == 2


def test_a_killed_study_goes_on_where_it_stopped(tmp_path):
    """Killed in its first run, the study's second start finishes it, and a third has nothing to do."""
    script = (
        "from pathlib import Path; from densereward import profiles, study\n"
        f"profiles.PROFILES['smoke'] = profiles.profile('smoke', **{TINY!r})\n"
        f"study.main('smoke', 'sft,oracle-dense', '0', 1, 'testbed', Path({str(tmp_path / 'runs.jsonl')!r}),"
        f" Path({str(tmp_path)!r}))\n"
    )

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    first = start()
    for line in first.stdout:
        if line.startswith("stage sft"):
            os.kill(first.pid, signal.SIGKILL)
            break
    first.wait()
    second = start()
    out, _ = second.communicate(timeout=300)
    assert second.returncode == 0 and "stage sft" in out and "reused" in out
    assert [r["method"] for r in read_records(tmp_path / "runs.jsonl")] == ["sft", "oracle-dense"]
    out, _ = start().communicate(timeout=300)
    assert "0 of 2 runs to do" in out


def test_several_jobs_share_stages_and_write_every_record(tmp_path):
    """What `make study` runs: one process for each task, a stage that two methods need built once."""
    given = ["--profile", "smoke", "--change", json.dumps(TINY), "--methods", "sft,bandit,bandit-as-segment"]
    given += ["--seeds", "0", "--jobs", "2", "--out", str(tmp_path / "runs.jsonl"), "--runs", str(tmp_path)]
    command = [sys.executable, "-m", "densereward.study", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {r["method"]: r for r in read_records(tmp_path / "runs.jsonl")}
    assert set(found) == {"sft", "bandit", "bandit-as-segment"} and {r["kind"] for r in found.values()} == {"run"}
    assert done.stdout.count("stage scorer") >= 2 and len(list((tmp_path / "stages").glob("scorer-*"))) == 1
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert "0 of 3 runs to do" in again.stdout


def test_a_failing_run_is_recorded_with_its_error_and_the_others_go_on(tmp_path, monkeypatch):
    def fail_once(run, row):
        if row.name == "bandit":
            raise RuntimeError("out of luck")
        names = {"method": row.name, "seed": run.seed, "dataset": "testbed"}
        return {"kind": "run", "params": {}, "provenance": {}, **names}

    monkeypatch.setattr(study, "run_method", fail_once)
    study.main("smoke", "bandit,sft", "0", 1, "testbed", tmp_path / "runs.jsonl")
    bad, good = read_records(tmp_path / "runs.jsonl")
    assert bad["kind"] == "error" and bad["error"] == "RuntimeError: out of luck" and good["method"] == "sft"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--profile", "huge"], "unknown profile 'huge'; choose one of smoke, cpu, gpu"),
        (["--methods", "magic"], "unknown method 'magic'; choose one of sft, bandit"),
    ],
)
def test_a_wrong_name_stops_with_one_line(arguments, message):
    done = subprocess.run([sys.executable, "-m", "densereward.study", *arguments], capture_output=True, text=True)
    text = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == 2 and message in text and "Traceback" not in text


def test_methods_are_data_and_their_names_are_checked():
    row = method("segment", entropy_cutoff=2.0)
    assert row.segmentation == {"kind": "entropy", "cutoff": 2.0} and asdict(row)["interpolation"] == "even"
    with pytest.raises(ValueError, match="entropy_cutoff is -1"):
        method("segment", entropy_cutoff=-1)
    with pytest.raises(ValueError, match="unknown method 'segments'"):
        method("segments")
    with pytest.raises(ValueError, match="no field 'kl'"):
        profile("cpu", kl=0.1)


def test_dpo_trains_on_the_same_pairs_and_has_no_rollouts(root):
    record = study.run_method(Run(profile("smoke", **TINY), 0, root=root), method("dpo"))
    assert record["preference_curve"] and {"pairs", "loss", "accuracy"} == record["preference_curve"][-1].keys()
    assert record["final"]["kl"] > 0 and "curves" not in record and "dpo" in record["stage_seconds"]


def test_a_scorer_can_be_used_with_other_segments_than_it_was_trained_with(root, capsys):
    run = Run(profile("smoke", **TINY), 0, root=root)
    ours, theirs = study.trained(run, method("bandit-as-segment"))[2], study.trained(run, method("bandit"))[2]
    assert ours["scorer"] == theirs["scorer"] and ours["row"].segmentation["kind"] == "entropy"


def test_tlcr_as_released_is_taught_and_paid_without_eos(root):
    """From labels to rewards: the last token is in no label, and no action is paid its score."""
    run, row = Run(profile("smoke", **TINY), 0, root=root), method("tlcr-released")
    folder, made, found = study.trained(run, row)
    for split in ("preference", "test"):
        labels = load_from_disk(found["revisions"] / "labelled" / split)["labels"]
        assert all(row[-1] == labeling.NO_LABEL < min(row[:-1]) for row in labels if len(row) > 1)
    rows = (row, replace(row, interpolation="none"))
    late, plain = (measure.paid(run, r, folder, found["scorer"], made.path, ANSWERS).batch for r in rows)
    mask, late, plain = plain["completion_mask"], late["rewards"], plain["rewards"]
    assert plain[mask > 0].all() and not late[:, 0].any() and not late[mask == 0].any()
    torch.testing.assert_close(late[:, 1:], plain[:, :-1] * mask[:, 1:])


def test_a_rows_options_reach_ppo(root, monkeypatch):
    """Left out, the row would be `segment` under another name."""
    seen, run = [], Run(profile("smoke", **TINY), 0, root=root)

    def stop(*args, **settings):
        seen.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(policy.ppo, "DensePPOConfig", stop)
    for name in ("segment", "loss-released"):
        with pytest.raises(KeyboardInterrupt):
            study.trained(run, method(name))
    assert seen[1]["loss_type"] == "grpo" and "loss_type" not in seen[0]


def test_a_row_that_pays_in_another_unit_has_no_records_from_before():
    """`normaliser-none` paid the bare head, `segment-as-bandit` the last segment's score; their rows pay other sums."""
    run = Run(profile("smoke"), 0)
    for name in ("normaliser-none", "segment-as-bandit"):
        new = identity.parameters(run, method(name))
        old = json.loads(json.dumps(new))
        del old["method"]["scores"]
        assert not identity.same(old, new) and not identity.as_listed(old)
        made = {"method": name, "params": old}
        assert not tables._as_listed(made) and tables._as_listed(made | {"params": new})
    untouched = identity.parameters(run, method("segment"))
    older = json.loads(json.dumps(untouched))
    del older["method"]["scores"]
    assert identity.same(older, untouched) and identity.as_listed(older)


def test_a_mean_length_becomes_the_cutoff_that_gives_it(root):
    run = Run(profile("smoke", **TINY), 0, root=root)
    _, _, found = study.trained(run, method("length-10"))
    assert found["row"].segmentation.keys() == {"kind", "cutoff"}
    assert found["metrics"]["segment_length"] == pytest.approx(10, rel=0.25)


def test_an_older_record_counts_settings_that_came_later_as_their_defaults():
    run = Run(profile("smoke"), 0)
    new = identity.parameters(run, method("segment"))
    old = json.loads(json.dumps(new))
    del old["method"]["correction"], old["profile"]["dpo_beta"], old["tuned"]
    old["method"]["label"] = "another name"
    assert identity.same(old, new) and identity.as_listed(old)
    assert not identity.same({**old, "contrast": 0.3}, new)
    assert not identity.as_listed(identity.parameters(run, method("segment", entropy_cutoff=2.0)))


def test_equal_trials_choose_for_each_method_and_the_study_uses_the_choice(tmp_path, monkeypatch, root):
    monkeypatch.setitem(profiles.PROFILES, "smoke", profile("smoke", **TINY))
    monkeypatch.setattr(tuning, "POLICIES", {"ppo": {"kl_coef": (0.1, 3.0), "actor_learning_rate": (3e-4,)}})
    monkeypatch.setattr(tuning, "SEEDS", (1000, 1001))
    for _ in range(2):  # the second start finds every trial
        tuning.policies("smoke", "sft,oracle-dense", "0/1", root, tmp_path / "smoke")
    trials = read_records(tmp_path / "smoke" / "tuning.jsonl")
    assert [(t["seed"], t["changes"]["kl_coef"]) for t in trials] == [
        (s, kl) for s in (1000, 1001) for kl in (0.1, 3.0)
    ]
    returns = {kl: sum(t["true_return"] for t in trials if t["changes"]["kl_coef"] == kl) for kl in (0.1, 3.0)}
    best = {"kl_coef": max(returns, key=returns.get)}
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    run = study.with_choices(Run(profile("smoke"), 0), method("oracle-dense"))
    assert run.tuned and run.profile.kl_coef == best["kl_coef"]
    plain = Run(profile("smoke"), 0)
    one, other = (identity.parameters(r, method("oracle-dense")) for r in (run, plain))
    assert not identity.same(one, other) and "kl_coef" not in identity.settings(one)["profile"]


def test_settings_are_chosen_by_the_held_out_proxy_over_seeds_and_twice_made_trials_count_once(tmp_path, monkeypatch):
    """One lucky seed, a duplicate, or the truth in place of the proxy would choose another setting."""
    monkeypatch.setattr(tuning, "POLICIES", {"ppo": {"kl_coef": (0.1, 0.3, 1.0), "actor_learning_rate": (3e-4, 1e-3)}})
    monkeypatch.setattr(tuning, "SEEDS", (1, 2))
    for changes in tuning.settings(tuning.POLICIES["ppo"]):
        for seed in (1, 1, 2):
            middle = changes == {"kl_coef": 0.3, "actor_learning_rate": 3e-4}
            lucky = seed == 1 and changes == {"kl_coef": 1.0, "actor_learning_rate": 1e-3}
            row = {"kind": "policy trial", "method": "bandit", "changes": changes, "seed": seed}
            row |= {"params": {"method": {"trainer": "ppo"}}, "true_return": changes["kl_coef"]}
            write_record(tmp_path / "tuning.jsonl", row | {"heldout_proxy": 2.0 * middle + 3.0 * lucky})
    tuning.choose(tmp_path)
    made = load_json(tmp_path / "choices.json")
    assert made["choices"] == {"bandit": {"kl_coef": 0.3, "actor_learning_rate": 3e-4}}
    assert made["by_truth"]["bandit"]["kl_coef"] == 1.0 and made["edges"] == {"bandit": ["actor_learning_rate"]}


def test_trials_are_shared_among_processes_measured_on_validation_prompts_and_chosen_once_all_are_there(
    tmp_path, monkeypatch
):
    """A choice by test prompts, or by the seeds that happen to be done, would flatter the method that has it."""
    asked, choices = [], []

    def evaluate(run, sft, folder, split):
        asked.append((run.seed, run.profile.kl_coef, split))
        return {"true_return": run.profile.kl_coef}

    monkeypatch.setattr(tuning, "POLICIES", {"ppo": {"kl_coef": (0.1, 0.3, 1.0)}})
    monkeypatch.setattr(tuning, "SEEDS", (1, 2))
    monkeypatch.setattr(study, "trained", lambda run, row: (None, SimpleNamespace(path=tmp_path), None))
    monkeypatch.setattr(tuning.measure, "evaluate", evaluate)
    for part in ("0/2", "1/2"):
        tuning.policies("smoke", "bandit", part, tmp_path / "runs", tmp_path / "out")
        choices.append((len(asked), load_json(tmp_path / "out" / "choices.json")["choices"]))
    assert choices == [(3, {}), (6, {"bandit": {"kl_coef": 1.0}})]
    assert sorted(asked) == [(seed, kl, "validation") for seed in (1, 2) for kl in (0.1, 0.3, 1.0)]


def test_no_group_of_methods_hides_a_method():
    """A planned run names its method on the command line of its own process: a group of that name would run instead."""
    assert not study.GROUPS.keys() & METHODS.keys()


def test_records_of_a_file_know_how_it_was_split_and_those_of_the_testbed_need_not():
    of_file, of_world = (
        identity.parameters(Run(profile("cpu"), dataset=name), METHODS["bandit"]) for name in ("a.jsonl", "testbed")
    )
    assert of_file["shares"] == data.SHARES and of_world["shares"] is None
    for now, alike in ((of_file, False), (of_world, True)):
        older = {name: x for name, x in now.items() if name != "shares"}
        assert identity.same(older, now) == alike
