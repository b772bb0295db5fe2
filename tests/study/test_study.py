"""The study: a record that says less than happened, or a run that cannot be resumed, is worthless to a reader."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from typer.testing import CliRunner

from densereward.labels import labeling
from densereward.reward import shaping
from densereward.text import data
from densereward.text.models import load_causal_lm
from densereward.text.tokens import tokenize_prompt
from study import choosing, export, identity, plan, profiles, runner, tuning
from study.cache import load_json
from study.measures import measure, process_outcome
from study.methods import METHODS, method
from study.profiles import profile
from study.record import record as recorded
from study.records import ROOT, read_records, write_record
from study.run import Run
from study.stages import ppo

ANSWERS = {"prompt_ids": [[5, 6], [7]], "completion_ids": [[11, 12, 13, 14], [15, 16]]}
SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples" / "hh_rlhf.jsonl"
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
    record = recorded(run.of(method("segment", entropy_cutoff=1.0)))
    json.dumps(record, allow_nan=False)
    assert len(record["curves"]) == 2 and {"true_return", "proxy_reward", "kl", "length"} <= record["curves"][0].keys()
    assert {"accuracy_test", "style_test", "ceiling_test", "flip_test", "passes_test"} <= record["reward_model"].keys()
    assert record["gate"] in ("passed", "failed")
    assert {"rewards_credit_pearson", "advantages_monte_carlo_pearson", "boundary_recall"} <= record["credit"].keys()
    assert {"advantages_monte_carlo_kendall", "gradient_cosine"} <= record["credit"].keys()
    assert {"true_return", "true_return_held_out", "kl", "length", "fact_accuracy"} <= record["final"].keys()
    assert record["params"]["method"]["segmentation"] == {"kind": "entropy", "cutoff": 1.0}
    assert {"commit", "packages", "seconds", "peak_rss_mib", "tokens"} <= record["provenance"].keys()


def test_methods_share_stages_and_a_changed_parameter_reruns_only_what_depends_on_it(root, capsys):
    run = Run(profile("smoke", **TINY), 0, root=root)
    recorded(run.of(method("segment", entropy_cutoff=1.0)))
    capsys.readouterr()
    recorded(run.of(method("bandit")))
    out = capsys.readouterr().out
    assert out.count("stage sft") == out.count("stage preferences") == 1
    assert "sft" in [line.split()[1] for line in out.splitlines() if line.endswith("reused")]
    recorded(replace(run, profile=replace(run.profile, kl_coef=0.5), row=method("bandit")))
    built = [line.split()[1] for line in capsys.readouterr().out.splitlines() if "built" in line]
    assert built == ["ppo"]


def test_within_a_seed_methods_see_the_same_prompts_and_first_rollouts(root):
    run = Run(profile("smoke", **TINY), 0, root=root)
    records = [recorded(run.of(method(name))) for name in ("bandit", "oracle-dense", "oracle-sequence-noisy")]
    first = [r["curves"][0] for r in records]
    assert len({(row["true_return"], row["length"]) for row in first}) == 1


def test_matched_noise_spreads_the_same_draw(root):
    """The sequence reward of the noisy control is the sum of what its dense twin hands out."""
    import torch

    from densereward.text import sampling, tokens
    from densereward.text.models import load_causal_lm
    from testbed import build, oracle, truth

    run = Run(profile("smoke", **TINY), 0, root=root)
    model, tokenizer = load_causal_lm(run.sft)
    texts = ["sure: apple, pear. hammer.", "plum."]
    prompt = tokens.tokenize_prompt(tokenizer, build.messages("list three fruits."))
    batch = sampling.batch_of(model, tokenizer, [prompt] * 2, [tokens.tokenize_response(tokenizer, t) for t in texts])

    def oracle_rewards(name, returns="additive"):
        draw = torch.Generator().manual_seed(0)
        return truth.oracle_rewards(method(name), tokenizer, returns, 2.5, draw, method(name).noise)(batch)

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
    folder = own.sft
    run = Run(profile("smoke", **TINY), 0, model=str(folder), root=root)
    assert run.sft == folder
    record = recorded(run.of(method("sft")))
    assert record["params"]["model"] == str(folder) and record["final"]["kl"] == pytest.approx(0, abs=1e-4)


def test_real_text_goes_the_same_way_without_the_oracle(root):
    p = profile("smoke", str(SAMPLES), **{k: v for k, v in TINY.items() if k != "max_completion_length"})
    record = recorded(Run(p, 0, dataset=str(SAMPLES), root=root, row=method("token")))
    assert "credit" not in record and "true_return" not in record["final"]
    assert 0 <= record["reward_model"]["accuracy_test"] <= 1 and "style_test" not in record["reward_model"]
    assert record["final"]["length"] > 0 and len(record["curves"]) == 2
    assert "heldout" not in record and "heldout_proxy" not in record["curves"][0]


def test_on_text_other_pairs_train_the_judge_and_records_say_how_good_it_is(root):
    """A judge that learnt from the pairs of those it judges would see through none of their errors."""
    sizes = {k: v for k, v in TINY.items() if k != "max_completion_length"} | {"rm_scale": 64.0}
    p = profile("smoke", str(SAMPLES), heldout_proxy=True, **sizes)
    runs = [Run(p, 0, dataset=str(SAMPLES), root=root, row=method(name)) for name in ("sft", "bandit")]
    sft, bandit = map(recorded, runs)
    tokenizer = load_causal_lm(runs[0].sft)[1]
    rolled_out = {tuple(tokenize_prompt(tokenizer, row)[-128:]) for row in runs[0].splits(ppo=99)["ppo"]["prompt"]}
    ours, theirs = (
        {tuple(ids) for ids in load_from_disk(run.preferences.path / "preference")["prompt_ids"]}
        for run in (runs[1], replace(runs[1], part="gold"))
    )
    assert theirs <= rolled_out and ours.isdisjoint(theirs)
    assert sft["heldout"] == bandit["heldout"] and 0 <= bandit["heldout"]["accuracy_test"] <= 1
    assert runs[1].heldout == runs[0].heldout != runs[1].scorer, "judged by its own reward model"
    assert {row["heldout_proxy"] for row in bandit["curves"]} and bandit["final"]["heldout_proxy_se"] >= 0
    with pytest.raises(ValueError, match="another seed has other pairs"):
        Run(profile("smoke"), part="gold")


def test_a_killed_study_goes_on_where_it_stopped(tmp_path):
    """Killed in its first run, the study's second start finishes it, and a third has nothing to do."""
    script = (
        "from pathlib import Path; from study import profiles, runner\n"
        f"profiles.PROFILES['smoke'] = profiles.profile('smoke', **{TINY!r})\n"
        f"runner.main('smoke', 'sft,oracle-dense', '0', 1, 'testbed', Path({str(tmp_path / 'runs.jsonl')!r}),"
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
    command = [sys.executable, "-m", "study.runner", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {r["method"]: r for r in read_records(tmp_path / "runs.jsonl")}
    assert set(found) == {"sft", "bandit", "bandit-as-segment"} and {r["kind"] for r in found.values()} == {"run"}
    assert done.stdout.count("stage scorer") >= 2 and len(list((tmp_path / "stages").glob("scorer-*"))) == 1
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert "0 of 3 runs to do" in again.stdout


def test_a_failing_run_is_recorded_with_its_error_and_the_others_go_on(tmp_path, monkeypatch):
    def fail_once(run):
        if run.row.name == "bandit":
            raise RuntimeError("out of luck")
        names = {"method": run.row.name, "seed": run.seed, "dataset": "testbed"}
        return {"kind": "run", "params": {}, "provenance": {}, **names}

    monkeypatch.setattr(runner, "record", fail_once)
    with pytest.raises(SystemExit) as stop:
        runner.main("smoke", "bandit,sft", "0", 1, "testbed", tmp_path / "runs.jsonl", change='{"lam": 0.5}')
    bad, good = read_records(tmp_path / "runs.jsonl")
    assert bad["kind"] == "error" and bad["error"] == "RuntimeError: out of luck" and good["method"] == "sft"
    assert stop.value.code == 1, "a study that failed looks like one that ended well"
    wanted = identity.parameters(Run(profile("smoke", lam=0.5), row=METHODS["bandit"]))
    assert identity.same(bad["params"], wanted), "a failed ablation hides behind the main run of its method"


@pytest.mark.parametrize("until, code", [("run", 1), ("scorer", 0)])
def test_failed_runs_of_several_jobs_are_a_failed_study(tmp_path, monkeypatch, capsys, until, code):
    """What a shell's `&&` asks: it went on after nothing but failures."""
    told = []

    def command(task, options, tuned):
        told.append(task.kind)
        return [sys.executable, "-S", "-c", f"raise SystemExit({int(task.kind in ('sft', 'run'))})"]

    monkeypatch.setattr(runner, "command", command)
    given = ("smoke", "bandit", "0", 2, "testbed", tmp_path / "out.jsonl", tmp_path / "runs", 0.0, json.dumps(TINY))
    with pytest.raises(SystemExit) if code else nullcontext() as stop:
        runner.main(*given, until=until)
    if code:
        assert stop.value.code == code and "1 failed: bandit, seed 0\n" in capsys.readouterr().err
    wanted = [kind for kind in ("sft", "preferences", "scorer", "run") if kind != "run" or until == "run"]
    assert sorted(told) == sorted(wanted), "a stage that was not asked for, or not all that were"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--profile", "huge"], "Error: unknown profile 'huge'; choose one of smoke, brief, small, cpu, gpu"),
        (["--until", "prefrences"], "'prefrences' is not one of 'sft', 'preferences', 'scorer', 'heldout', 'run'"),
        (["--jobs", "0"], "Invalid value for '--jobs': Input should be greater than or equal to 1"),
        (["--nope"], "No such option: --nope"),
    ],
)
def test_a_wrong_word_on_the_command_line_stops_with_plain_lines(tmp_path, arguments, message):
    done = CliRunner().invoke(runner.app, ["--out", str(tmp_path / "out.jsonl"), *arguments])
    assert done.exit_code == 2 and message in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) <= 4 and "│" not in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_error_of_ours_is_no_frame_of_a_hundred_lines():
    for app in (runner.app, tuning.app, export.app, process_outcome.app):
        assert not app.pretty_exceptions_enable and app.rich_markup_mode is None


@pytest.mark.parametrize(
    "given, message",
    [
        ({"methods": "magic"}, "unknown method 'magic'; choose one of sft, bandit"),
        ({"methods": ""}, "methods is ''; give one or more, separated by commas"),
        ({"seeds": "0,,1"}, "seeds is '0,,1'; give one or more"),
        ({"seeds": "-1"}, "seed is -1; give a whole number"),
        ({"contrast": 2.0}, "contrast is 2.0; give a number, 0 to 1"),
        ({"change": '{"dpo_beta": -1}'}, "dpo_beta is -1; give a number above 0"),
        ({"change": "[]"}, "change is '[]': no JSON object"),
        ({"change": '{"rollouts": 10}', "methods": "grpo"}, "rollouts is 10; method 'grpo' takes a multiple of 4"),
        ({"change": '{"rollouts": 12}', "methods": "rs"}, "rollouts is 12; method 'rs' takes a multiple of 8"),
        ({"dataset": "no/such.jsonl"}, "dataset 'no/such.jsonl' does not exist; give 'testbed', a .jsonl"),
        ({"dataset": ""}, "dataset is ''; give 'testbed', a .jsonl"),
        ({"dataset": str(SAMPLES), "methods": "sft,oracle-dense"}, "method 'oracle-dense' reads the testbed's truth"),
        ({"dataset": str(SAMPLES), "methods": "tlcr"}, "method 'tlcr' reads the testbed's truth"),
        ({"dataset": str(SAMPLES), "contrast": 0.3}, "contrast is 0.3, of"),
        ({"out": Path(__file__).parent}, "a folder; give a file such as"),
        ({"runs": Path(__file__)}, "File exists"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_work_and_leaves_no_record(
    tmp_path, monkeypatch, capsys, given, message
):
    monkeypatch.setattr(runner, "record", lambda *_: pytest.fail("it went to work"))
    usual = {
        "profile": "smoke",
        "methods": "sft",
        "seeds": "0",
        "out": tmp_path / "out.jsonl",
        "runs": tmp_path / "runs",
    }
    with pytest.raises(SystemExit) as stop:
        runner.main(**usual | given)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer": "dense-grpo", "interpolation": "none", "options": {"generations": 4}},
        {"segmentation": {"kind": "token"}, "options": {"macro": {"kind": "random", "rate": 0.2}}},
    ],
)
def test_random_segments_are_refused_where_rewards_and_trainer_would_cut_apart(tmp_path, changes):
    row = replace(METHODS["random"], name="mine", **changes)
    with pytest.raises(ValueError, match="method 'mine' has random segments, which cannot be cut twice alike"):
        runner.check(Run(profile("smoke"), root=tmp_path, row=row))


def test_a_malformed_pair_stops_the_study_with_its_line_and_no_record(tmp_path, capsys):
    lines = SAMPLES.read_text().splitlines(keepends=True)
    (tmp_path / "pairs.jsonl").write_text("".join([*lines[:5], '{"chosen": 3}\n', *lines[5:]]))
    with pytest.raises(SystemExit) as stop:
        runner.main("smoke", "sft", "0", 1, str(tmp_path / "pairs.jsonl"), tmp_path / "out.jsonl", tmp_path / "runs")
    assert stop.value.code == 2 and "pairs.jsonl, line 6" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "line, why",
    [
        ('{"kind": "run"', "not a record"),
        ("[" * 100_000, "maximum recursion depth"),
        ('{"kind": "run"}', "method is None"),
        ('{"kind": "run", "method": "sft", "profile": "smoke", "seed": 0, "params": {}}', "it lacks 'profile'"),
    ],
)
def test_damaged_records_stop_the_study_with_file_and_line(tmp_path, capsys, line, why):
    (tmp_path / "out.jsonl").write_text(f"{line}\n" * 2)
    with pytest.raises(SystemExit) as stop:
        runner.main("smoke", "sft", "0", 1, "testbed", tmp_path / "out.jsonl", tmp_path / "runs")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "out.jsonl:1: not a record" in said and why in said and said.count("\n") == 1


def test_what_is_named_twice_runs_once_and_groups_may_be_listed(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(runner, "record", lambda run: ran.append((run.row.name, run.seed)) or {})
    monkeypatch.setattr(runner, "write_record", lambda *_: None)
    runner.main("smoke", "sft, bandit,sft", "0,0", 1, "testbed", tmp_path / "out.jsonl", tmp_path / "runs")
    assert ran == [("sft", 0), ("bandit", 0)] and "2 of 2 runs to do" in capsys.readouterr().out
    assert {row.name for row in runner.rows_of("core,adaptive,sft")} == {*runner.CORE, *runner.ADAPTIVE}
    assert len(runner.rows_of("core,adaptive,sft")) == len({*runner.CORE, *runner.ADAPTIVE})


def test_a_method_that_was_never_tuned_is_no_tuned_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    run, choices = Run(profile("smoke")), tmp_path / "smoke" / "choices.json"
    with pytest.raises(
        ValueError, match="choices.json does not exist: nothing was tuned yet; run python -m study.tuning"
    ):
        runner.with_choices(run.of("bandit"))
    choices.parent.mkdir()
    choices.write_text(json.dumps({"choices": {"bandit": {"kl_coef": 0.5}, "token": {"kl_coef": -1}, "segment": 3}}))
    found = runner.with_choices(run.of("bandit"))
    assert found.tuned and found.profile.kl_coef == 0.5
    assert runner.with_choices(run) == run, "nothing of it is trained: its record is that of every setting"
    for name, says in (
        ("grpo", "'grpo' was never tuned for profile 'smoke'"),
        ("token", "kl_coef is -1"),
        ("segment", "cannot be used"),
    ):
        with pytest.raises(ValueError, match=says):
            runner.with_choices(run.of(name))
    with pytest.raises(SystemExit) as stop:
        runner.main("smoke", "bandit,grpo", "0", 2, "testbed", tmp_path / "o.jsonl", tmp_path / "runs", tuned=True)
    assert stop.value.code == 2 and not (tmp_path / "o.jsonl").exists()


def test_the_process_of_a_shared_stage_knows_of_no_choices():
    """It is named after any row that shares it, one that was never tuned among them."""
    told = {kind: runner.command(plan.Task("x", kind, "bandit", 3), {"--contrast": 0.0}, True) for kind in plan.KINDS}
    assert {kind for kind, words in told.items() if "--tuned" in words} == {"run"}
    assert told["sft"][3:] == ["--contrast", "0.0", "--methods", "bandit", "--seeds", "3", "--until", "sft"]


def pairs_file(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "pairs.jsonl").write_text(SAMPLES.read_text().replace("basil", text))
    return str(folder / "pairs.jsonl")


def test_pairs_that_change_in_place_are_other_pairs(tmp_path, monkeypatch, capsys):
    """A mended file was 'reused': stages and study never saw what was mended."""
    p = profile("smoke", str(SAMPLES), **{k: v for k, v in TINY.items() if k != "max_completion_length"})

    def first_stages(dataset: str):
        run = Run(p, 0, dataset, root=tmp_path)
        return run.sft, run.preferences.path

    old = first_stages(pairs_file(tmp_path / "one", "basil"))
    assert first_stages(pairs_file(tmp_path / "two", "basil")) == old, "equal pairs elsewhere are equal pairs"
    new = first_stages(pairs_file(tmp_path / "one", "cactus"))
    assert new[0] != old[0] and new[1] != old[1]
    assert first_stages(pairs_file(tmp_path / "one", "basil")) == old

    monkeypatch.chdir(tmp_path / "one")
    here = Run(p, 0, "pairs.jsonl").content
    pairs_file(tmp_path / "two", "nettle")
    monkeypatch.chdir(tmp_path / "two")
    assert here != Run(p, 0, "pairs.jsonl").content, "two relative paths of one name are two datasets"


def test_pairs_that_change_in_mid_run_stop_it(tmp_path):
    run = Run(profile("smoke", str(SAMPLES)), 0, pairs_file(tmp_path, "basil"))
    assert run.splits(sft=8)
    pairs_file(tmp_path, "cactus")
    with pytest.raises(ValueError, match="changed while this run was at work; start it again"):
        run.splits(sft=8)


def test_a_record_of_pairs_that_have_changed_is_not_done(tmp_path):
    path = tmp_path / "runs.jsonl"

    def now() -> Run:
        return Run(profile("smoke", str(SAMPLES)), 0, str(tmp_path / "pairs.jsonl"))

    pairs_file(tmp_path, "basil")
    record = runner.named("run", now())
    older = json.loads(json.dumps(record))
    del older["params"]["content"]
    write_record(path, older)
    assert not runner.done(runner.recorded(path), now()), "nobody knows which pairs an older record is of"
    write_record(path, record)
    assert runner.done(runner.recorded(path), now())
    pairs_file(tmp_path, "cactus")
    assert not runner.done(runner.recorded(path), now())
    testbed = Run(profile("smoke"))
    record = runner.named("run", testbed)
    del record["params"]["content"]
    write_record(path, record)
    assert runner.done(runner.recorded(path), testbed), "the testbed has no file: older records of it stand"


def test_another_revision_prompt_makes_other_revisions(tmp_path, monkeypatch):
    """The template is a module's text: an edit of it was no reason to ask again."""
    revision_prompt = pytest.importorskip("densereward.labels.revision_prompt", reason="the extra `judge`")
    seen, run = [], Run(profile("smoke"), root=tmp_path)
    vars(run).update(sft=tmp_path, preferences=None)
    monkeypatch.setattr(Run, "stage", lambda self, name, build, key, sources, needs: seen.append(sources))
    for kind in ("llm", "clauses"):
        assert run.of(replace(METHODS["tlcr"], revisions={"kind": kind})).revisions is None
    assert revision_prompt in seen[0] and revision_prompt not in seen[1]


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
    record = recorded(Run(profile("smoke", **TINY), 0, root=root, row=method("dpo")))
    assert record["preference_curve"] and {"pairs", "loss", "accuracy"} == record["preference_curve"][-1].keys()
    assert record["final"]["kl"] > 0 and "curves" not in record and "dpo" in record["stage_seconds"]


def test_the_implicit_reward_is_the_log_ratio_of_the_dpo_policy_on_the_scale_of_all(root):
    run = Run(profile("smoke", **TINY), 0, root=root, row=method("implicit"))
    record = recorded(run)
    assert record["gate"] == "no reward model" and record["used"]["preference_labels"] > 0
    assert "dpo" in record["stage_seconds"]
    batch = measure.paid(run, ANSWERS).batch
    advisor = load_causal_lm(run.of("dpo").policy.path / "policy")[0]
    expected = shaping.log_ratios(advisor.eval(), batch)
    scale = batch["rewards"].abs().sum() / expected.abs().sum()
    torch.testing.assert_close(batch["rewards"], expected * scale, atol=1e-4, rtol=1e-3)
    pooled = measure.paid(run.of("implicit-pooled"), ANSWERS)
    torch.testing.assert_close(pooled.batch["rewards"].sum(1), batch["rewards"].sum(1), atol=1e-3, rtol=1e-3)
    one = replace(method("implicit-pooled"), shaping={"kind": "pool", "segmentation": {"kind": "bandit"}})
    vars(whole := run.of(one))["policy"] = run.policy
    early = measure.credit_of(whole)["causal_share"]
    assert early < 0.9 and record["credit"]["causal_share"] == 1, "pooling pays tokens before the decision"


def test_a_scorer_can_be_used_with_other_segments_than_it_was_trained_with(root, capsys):
    run = Run(profile("smoke", **TINY), 0, root=root)
    ours, theirs = run.of("bandit-as-segment"), run.of("bandit")
    assert ours.scorer == theirs.scorer and ours.method.segmentation["kind"] == "entropy"


@pytest.mark.parametrize("name", ["bandit", "token", "sentence", "oracle-dense", "dpo", "appo", "bandit-synthetic"])
def test_a_row_that_is_not_cut_by_entropies_does_not_pay_for_them(root, name):
    """A pass of the SFT model over every pair was an eighth of a bandit's run."""
    run = Run(profile("smoke", **TINY), 0, root=root).of(name)
    assert run.pairs == run.preferences


@pytest.mark.parametrize("name", ["segment", "random", "bandit-as-segment", "segment-as-bandit", "appo-segment"])
def test_a_row_that_is_cut_by_entropies_or_matched_to_them_has_them(root, name):
    run = Run(profile("smoke", **TINY), 0, root=root).of(name)
    with_entropies, pairs = (load_from_disk(made.path / "preference") for made in (run.pairs, run.preferences))
    assert with_entropies.remove_columns(["chosen_entropies", "rejected_entropies"])[:] == pairs[:]
    assert list(map(len, with_entropies["chosen_entropies"])) == list(map(len, pairs["chosen_completion_ids"]))


def test_tlcr_as_released_is_taught_and_paid_without_eos(root):
    """From labels to rewards: the last token is in no label, and no action is paid its score."""
    run = Run(profile("smoke", **TINY), 0, root=root, row=method("tlcr-released"))
    for split in ("preference", "test"):
        labels = load_from_disk(run.revisions.path / "labelled" / split)["labels"]
        assert all(row[-1] == labeling.NO_LABEL < min(row[:-1]) for row in labels if len(row) > 1)
    other = run.of(replace(run.row, interpolation="none"))
    vars(other)["policy"] = run.policy
    late, plain = (measure.paid(r, ANSWERS).batch for r in (run, other))
    mask, late, plain = plain["completion_mask"], late["rewards"], plain["rewards"]
    assert plain[mask > 0].all() and not late[:, 0].any() and not late[mask == 0].any()
    torch.testing.assert_close(late[:, 1:], plain[:, :-1] * mask[:, 1:])


def test_a_rows_options_reach_ppo(root, monkeypatch):
    """Left out, the row would be `segment` under another name."""
    seen, run = [], Run(profile("smoke", **TINY), 0, root=root)

    def stop(*args, **settings):
        seen.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(ppo.ppo, "DensePPOConfig", stop)
    for name in ("segment", "loss-released"):
        with pytest.raises(KeyboardInterrupt):
            ppo.train(run.of(name))
    assert seen[1]["loss_type"] == "grpo" and "loss_type" not in seen[0]


def test_a_row_that_pays_in_another_unit_has_no_records_from_before():
    """`normaliser-none` paid the bare head, `segment-as-bandit` the last segment's score; their rows pay other sums."""
    run = Run(profile("smoke"), 0)
    for name in ("normaliser-none", "segment-as-bandit"):
        new = identity.parameters(run.of(method(name)))
        old = json.loads(json.dumps(new))
        del old["method"]["scores"]
        assert not identity.same(old, new) and not identity.as_listed(old) and identity.as_listed(new)
    untouched = identity.parameters(run.of(method("segment")))
    older = json.loads(json.dumps(untouched))
    del older["method"]["scores"]
    assert identity.same(older, untouched) and identity.as_listed(older)


def test_a_mean_length_becomes_the_cutoff_that_gives_it(root):
    run = Run(profile("smoke", **TINY), 0, root=root)
    run = run.of("length-10")
    assert run.method.segmentation.keys() == {"kind", "cutoff"}
    assert run.metrics["segment_length"] == pytest.approx(10, rel=0.25)


def test_an_older_record_counts_settings_that_came_later_as_their_defaults():
    run = Run(profile("smoke"), 0)
    new = identity.parameters(run.of(method("segment")))
    old = json.loads(json.dumps(new))
    del old["method"]["correction"], old["profile"]["dpo_beta"], old["tuned"]
    old["method"]["label"] = "another name"
    assert identity.same(old, new) and identity.as_listed(old)
    assert not identity.same({**old, "contrast": 0.3}, new)
    assert not identity.as_listed(identity.parameters(run.of(method("segment", entropy_cutoff=2.0))))


def test_equal_trials_choose_for_each_method_and_the_study_uses_the_choice(tmp_path, monkeypatch, root):
    monkeypatch.setitem(profiles.PROFILES, "smoke", profile("smoke", **TINY))
    monkeypatch.setattr(choosing, "POLICIES", {"ppo": {"kl_coef": (0.1, 3.0), "actor_learning_rate": (3e-4,)}})
    monkeypatch.setattr(choosing, "SEEDS", (1000, 1001))
    for _ in range(2):  # the second start finds every trial
        tuning.policies("smoke", "sft,oracle-dense", "0/1", root, tmp_path / "smoke")
    trials = read_records(tmp_path / "smoke" / "tuning.jsonl")
    assert [(t["seed"], t["changes"]["kl_coef"]) for t in trials] == [
        (s, kl) for s in (1000, 1001) for kl in (0.1, 3.0)
    ]
    tuning.proxies("smoke", "oracle-dense", "0/1", root, tmp_path / "smoke")
    again = [r["proxies"] for r in read_records(tmp_path / "smoke" / "tuning.jsonl") if r["kind"] == "proxy trial"]
    assert [p["bandit"] for p in again] == pytest.approx([t["heldout_proxy"] for t in trials], abs=1e-4)
    others = ("bandit", "another bandit", "token")  # an SFT model this small doubts every token: each is a segment
    assert all(len({p[name] for name in others}) == 3 for p in again)
    scores = {kl: sum(t["heldout_proxy"] for t in trials if t["changes"]["kl_coef"] == kl) for kl in (0.1, 3.0)}
    best = {"kl_coef": max(scores, key=scores.get)}
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    run = runner.with_choices(Run(profile("smoke"), 0, row=method("oracle-dense")))
    assert run.tuned and run.profile.kl_coef == best["kl_coef"]
    plain = Run(profile("smoke"), 0)
    one, other = (identity.parameters(r.of(method("oracle-dense"))) for r in (run, plain))
    assert not identity.same(one, other) and "kl_coef" not in identity.settings(one)["profile"]


def test_settings_are_chosen_by_the_held_out_proxy_over_seeds_and_twice_made_trials_count_once(tmp_path, monkeypatch):
    """One lucky seed, a duplicate, or the truth in place of the proxy would choose another setting."""
    monkeypatch.setattr(
        choosing, "POLICIES", {"ppo": {"kl_coef": (0.1, 0.3, 1.0), "actor_learning_rate": (3e-4, 1e-3)}}
    )
    monkeypatch.setattr(choosing, "SEEDS", (1, 2))
    for changes in choosing.settings(choosing.POLICIES["ppo"]):
        for seed in (1, 1, 2):
            middle = changes == {"kl_coef": 0.3, "actor_learning_rate": 3e-4}
            lucky = seed == 1 and changes == {"kl_coef": 1.0, "actor_learning_rate": 1e-3}
            row = {"kind": "policy trial", "method": "bandit", "changes": changes, "seed": seed, "profile": "cpu"}
            row |= {"params": {"method": asdict(METHODS["bandit"])}, "true_return": changes["kl_coef"], "kl": 1.0}
            write_record(tmp_path / "tuning.jsonl", row | {"heldout_proxy": 2.0 * middle + 3.0 * lucky})
            older = {"params": {"method": asdict(METHODS["bandit"]) | {"value_clip": 0.7}}}  # of a row of that name
            write_record(tmp_path / "tuning.jsonl", row | older | {"heldout_proxy": -9.0 * middle})
    tuning.choose(tmp_path)
    made = load_json(tmp_path / "choices.json")
    assert made["choices"] == {"bandit": {"kl_coef": 0.3, "actor_learning_rate": 3e-4}}
    assert made["by_truth"]["bandit"]["kl_coef"] == 1.0


def test_make_records_names_every_trial_of_the_record():
    """Those beside the grids too, or the book could not be made again."""
    text = (ROOT / "Makefile").read_text()
    lines = dict(re.findall(r"^(\w+) = (.*)$", text, re.M))
    tried = lines["TRIED"].replace("$(TUNED)", lines["TUNED"])
    beside = re.findall(r"^\t\$\(BEYOND\) (\S+) --grid '(.*)'$", text, re.M)
    named = {
        (row.name, seed, json.dumps(changes, sort_keys=True))
        for methods, grid in [(tried, None), *((methods, json.loads(grid)) for methods, grid in beside)]
        for row in runner.rows_of(methods)
        for seed in choosing.SEEDS
        for changes in choosing.settings(grid or choosing.POLICIES[row.trainer])
    }
    made = read_records(ROOT / "data" / "results" / "brief" / "tuning.jsonl")
    made = [r for r in made if r["kind"] == "policy trial"]
    assert {(r["method"], r["seed"], json.dumps(r["changes"], sort_keys=True)) for r in made} == named


@pytest.mark.parametrize(
    "given, says",
    [
        ({"part": "1/0"}, "part is '1/0'; give i/n with 0 <= i < n"),
        ({"part": "a"}, "part is 'a'; give i/n"),
        ({"part": "98/99"}, "of 96 trials: none is left to do"),
        ({"methods": "magic"}, "unknown method 'magic'"),
        ({"methods": "sft"}, "none of them is trained, so there is nothing to tune"),
        ({"profile": "huge"}, "unknown profile 'huge'"),
        ({"grid": '{"kl_coef": [1.0]}'}, "for bandit give lists of values of kl_coef, actor_learning_rate"),
        ({"grid": '{"kl_coef": 1.0, "actor_learning_rate": []}'}, "for bandit give lists of values of kl_coef"),
        ({"grid": '{"kl_coef": ["a"], "actor_learning_rate": [1e-3]}'}, "kl_coef is 'a'; give a number, 0 or more"),
        ({"grid": "[]"}, "grid is '[]': no JSON object"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_any_trial(tmp_path, monkeypatch, capsys, given, says):
    monkeypatch.setattr(tuning, "of_policy", lambda *_: pytest.fail("it went to work"))
    usual = {"profile": "smoke", "methods": "bandit", "part": "0/1", "runs": tmp_path / "runs", "out": tmp_path / "out"}
    with pytest.raises(SystemExit) as stop:
        tuning.policies(**usual | given)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_trials_are_shared_among_processes_measured_on_validation_prompts_and_chosen_once_all_are_there(
    tmp_path, monkeypatch
):
    """A choice by test prompts, or by the seeds that happen to be done, would flatter the method that has it."""
    asked, choices = [], []

    def evaluate(run, split):
        asked.append((run.seed, run.profile.kl_coef, split))
        return {"true_return": -run.profile.kl_coef, "heldout_proxy": run.profile.kl_coef, "kl": 1.0}

    monkeypatch.setattr(choosing, "POLICIES", {"ppo": {"kl_coef": (0.1, 0.3, 1.0)}})
    monkeypatch.setattr(choosing, "SEEDS", (1, 2))
    monkeypatch.setattr(tuning.measure, "evaluate", evaluate)
    for part in ("0/2", "1/2"):
        tuning.policies("smoke", "bandit", part, tmp_path / "runs", tmp_path / "out")
        choices.append((len(asked), load_json(tmp_path / "out" / "choices.json")["choices"]))
    assert choices == [(3, {}), (6, {"bandit": {"kl_coef": 1.0}})]
    assert sorted(asked) == [(seed, kl, "validation") for seed in (1, 2) for kl in (0.1, 0.3, 1.0)]


def test_no_group_of_methods_hides_a_method():
    """A planned run names its method on the command line of its own process: a group of that name would run instead."""
    assert not runner.GROUPS.keys() & METHODS.keys()


def test_records_of_a_file_know_how_it_was_split_and_those_of_the_testbed_need_not():
    of_file, of_world = (
        identity.parameters(Run(profile("cpu"), dataset=name, row=METHODS["bandit"]))
        for name in (str(SAMPLES), "testbed")
    )
    assert of_file["shares"] == data.SHARES and of_world["shares"] is None
    for now, alike in ((of_file, False), (of_world, True)):
        older = {name: x for name, x in now.items() if name != "shares"}
        assert identity.same(older, now) == alike
