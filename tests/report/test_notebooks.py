"""Notebooks run on any data and model, say what is no evidence, and stop with one line on a parameter that cannot
be."""

import html
import math
import re
import shutil
import subprocess
import sys

import nbformat
import papermill
import pytest
import torch

from densereward.text.models import build_tokenizer, tiny_llama
from report import parameters, show
from report.notebooks import ROOT, clean, run_all, run_notebook, sources
from study.records import read_records, write_record
from test_figures import records
from test_llm import END, START, completion

SAMPLES = "data/samples/hh_rlhf.jsonl"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what notebooks need, so that what they cache lies in it, with a saved causal LM and a few records."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("lib", "notebooks", "data/samples", "data/published"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_toc.yml", "data/claims.yml", "data/foretold.yml", "data/foretold_seeds.yml"):
        shutil.copy(ROOT / name, root / name)
    torch.manual_seed(0)
    tokenizer = build_tokenizer([(ROOT / SAMPLES).read_text()], 320)
    tiny_llama(tokenizer, width=16, layers=1).save_pretrained(root / "lm")
    tokenizer.save_pretrained(root / "lm")
    made_at = {"commit": "c0ffee", "device": "cpu", "tokens": 9, "peak_rss_mib": 1.0}
    for record in records(("sft", "bandit", "segment"), seeds=(0, 1)):
        record["provenance"] |= made_at
        for folder in ("small", "brief", "cpu", "cpu-0.1", "map", "real_text"):
            write_record(root / "data" / "results" / folder / "runs.jsonl", record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root / "lib"))
        yield root


@pytest.fixture(scope="module")
def real_text(tree):
    """Every notebook as executed on pairs in HH-RLHF's format and on a pretrained model."""
    asked = {"profile": "smoke", "dataset": SAMPLES, "model": "lm"}
    run_all(sources(tree), tree / "out", asked, tree, jobs=2, after={})
    return {path.stem: nbformat.read(tree / "out" / path.name, as_version=4) for path in sources(tree)}


@pytest.fixture(scope="module")
def comparison(tree):
    return executed(tree, "comparison", profile="smoke", results="cpu")


def executed(tree, name: str, **asked):
    run_notebook(tree / "notebooks" / f"{name}.ipynb", tree / "more" / f"{name}.ipynb", asked, tree, say=str)
    return nbformat.read(tree / "more" / f"{name}.ipynb", as_version=4)


def page(notebook) -> str:
    """All that a notebook shows: HTML, Markdown and printed text."""
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    shown = [o.data.get("text/html") or o.data.get("text/markdown") or "" for o in outputs if "data" in o]
    return "\n".join(shown + [o.text for o in outputs if o.output_type == "stream" and o.name == "stdout"])


def test_every_notebook_runs_on_real_text_and_on_a_pretrained_model(real_text):
    """That they ran is the fixture; here, that what only the testbed can tell is left out with a sentence."""
    assert set(real_text) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert page(real_text["testbed"]).count("Left out:") >= 4
    assert "early divergence" in page(real_text["testbed"])
    assert "No records of dataset" in page(real_text["comparison"])
    assert "Left out: no record of TLCR" in page(real_text["tlcr"])
    masks = page(real_text["adaptive_masks"])
    assert "Left out: what is right can be told on the testbed only" in masks and "tokens kept)" in masks
    for name in ("segmentation", "reward_models", "segment_ppo"):
        assert "true return (credit)" not in page(real_text[name]), f"{name}: a true return on real text"


def test_a_notebook_and_the_study_give_the_same_record(tree):
    """A reader who runs a notebook with the study's parameters must get the study's numbers, to the last digit."""
    asked = {"profile": "smoke", "dataset": SAMPLES}
    outputs = [o for cell in executed(tree, "segment_ppo", **asked).cells for o in cell.get("outputs", [])]
    shown = [o for o in outputs if "data" in o and "scrapbook" in o.metadata]
    glued = {o.metadata["scrapbook"]["name"]: o.data.get("application/papermill.record/text/plain") for o in shown}
    command = [sys.executable, "-m", "study.runner", "--profile", "smoke", "--dataset", SAMPLES]
    command += ["--methods", "segment", "--seeds", "0", "--out", str(tree / "one.jsonl"), "--runs", str(tree / "anew")]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    record = next(r for r in read_records(tree / "one.jsonl") if r["method"] == "segment")
    numbers = {f"final_{name}": value for name, value in record["final"].items() if isinstance(value, float)}
    assert {"final_kl", "final_length"} <= numbers.keys()
    assert {name: float(glued[name]) for name in numbers} == numbers


def test_smoke_output_says_on_its_face_that_it_is_no_evidence(real_text):
    for name in ("testbed", "segmentation", "reward_models", "segment_ppo", "tlcr", "adaptive_masks"):
        assert "<strong>No evidence.</strong>" in page(real_text[name]), name


def test_figures_have_a_description_a_caption_and_their_numbers(comparison, real_text):
    """A reader who cannot see a figure, and one who doubts it, must get at what it shows."""
    drawn = 0
    for notebook in (*real_text.values(), comparison):
        for figure in re.findall(r"<figure .*?</figure>", page(notebook), re.S):
            drawn += 1
            assert len(html.unescape(re.search(r'aria-label="(.*?)"', figure)[1])) > 60
            assert len(re.search(r"<figcaption[^>]*>(.*?)<a ", figure, re.S)[1]) > 60
            assert 'href="data:text/csv;base64,' in figure
    assert drawn >= 9


def test_the_comparison_draws_committed_records_and_names_them(comparison):
    shown = page(comparison)
    assert "[data/results/cpu/runs.jsonl](../data/results/cpu/runs.jsonl)" in shown
    assert ">Segment (entropy)</td>" in shown and "c0ffee" in shown
    assert "No evidence" not in shown, "these are the results of profile cpu"


def test_printed_tables_keep_the_rows_that_no_record_has(tree):
    """The records lack most rows: those are shown with dashes, and what is said counts them."""
    spaces, ablations = (page(executed(tree, name, profile="smoke")) for name in ("action_spaces", "ablations"))
    row = r"\s*".join(["<td[^>]*>{}</td>"] * 5)
    assert re.search(row.format("Sentence", "25.56", "2626", "Sentence", "–"), spaces)
    both = row.format("Segment \\(Ours\\)", "31.05", "2257", "Segment \\(entropy\\)", ".* \\(.* to .*\\)")
    assert re.search(both, spaces), "of two seeds, both values"
    assert "the paper ranks Segment (entropy) first of 7; here it is" in spaces
    assert "not computed; 3 rows have records" in spaces
    assert re.search(row.format("n = 20", "24.32", "3369", "n-gram, n = 20", "–"), ablations)
    assert "Of 4 printed differences 4 have no record." in ablations
    assert spaces.count("<figure ") == 2 and ablations.count("<figure ") == 4


def test_the_testbed_notebook_shows_the_testbed(tree):
    shown = page(executed(tree, "testbed", profile="smoke", model="lm", n=200))
    assert "Left out:" not in shown
    assert re.search(r"held out for test: (\w+ \w+, ){2}\w+ \w+\n", shown)
    assert shown.count("<figure ") == 4


def test_a_language_model_revises_and_judges_where_one_is_named(tree, endpoint):
    """Each question is paid once, and the page says what was spent."""
    prompt = "hello. please name three fruits."
    for method, answer in (("sft", "maybe hammer."), ("bandit", "maybe apple, maybe pear.")):
        record = records((method,), seeds=(0,))[0]
        sample = {"prompt": prompt, "response": answer}
        record["final"] |= {"samples": [sample], "answers": {"true_return": [1.0, 2.0], "length": [5, 6]}}
        write_record(tree / "judged" / "runs.jsonl", record)

    def reply(body):
        text = body["messages"][-1]["content"]
        if "Modified Response" in text:
            return completion(f"{START}maybe apple.{END}")
        return completion(f"[[{'A>>B' if text.index('apple') < text.index('hammer') else 'B>>A'}]]")

    endpoint.reply = reply
    asked = {"results": "judged", "methods": "bandit", "llm": "m", "profile": "smoke"}
    shown = page(executed(tree, "judging", **asked))
    assert "Asked: 2 requests" in shown and re.search(r"<td[^>]*>1\.00", shown)
    assert "Asked: 0 requests" in page(executed(tree, "judging", **asked)) and len(endpoint.requests) == 2
    shown = page(executed(tree, "labels", profile="smoke", dataset=SAMPLES, llm="m", shown=2))
    assert "Revised by model m: read 2, kept 2" in shown and "Left out: where flaws lie" in shown


def test_a_page_keeps_no_log_no_cell_of_papermill_and_no_folded_cell_that_made_nothing(tmp_path):
    log = "stage ppo 0123456789ab: built in 5.1 s\ndata: read 20, kept 20\n[2026-11-27 03:08:45,533] [WARNING] [x] y\n"
    told = "data: read 20, kept 18, identical 2\n"
    cells = [
        nbformat.v4.new_code_cell(
            source, metadata={"tags": tags}, outputs=[nbformat.v4.new_output("stream", text=x) for x in texts]
        )
        for source, tags, texts in (
            ("rounds = 2", ["injected-parameters"], []),
            ("run.of(row)", ["hide-output"], [log, told]),
            ("if records:\n    show.table(records)", ["hide-input"], [log]),
            ("def of(name):\n    pass", ["hide-input"], []),
        )
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    clean(tmp_path / "one.ipynb", {})
    found = nbformat.read(tmp_path / "one.ipynb", as_version=4).cells
    assert [[o.text for o in cell.outputs] for cell in found] == [[], [told], [], []]
    assert ["remove-cell" in cell.metadata.tags for cell in found] == [True, False, True, False]


def test_what_is_left_out_is_said_once_here_and_under_each_key_elsewhere(monkeypatch):
    said = []
    monkeypatch.setattr(show, "display", lambda bundle, **given: said.append((given["metadata"]["scrapbook"], bundle)))
    assert not show.there(False, "no record.", "figure", "table")
    assert [note["name"] for note, _ in said] == ["figure", "table"]
    assert ["text/html" in bundle for _, bundle in said] == [True, False]
    assert said[1][0]["mime_prefix"] + "text/html" in said[1][1]


# --- parameters ------------------------------------------------------------------------------------------------------


def test_papermill_explains_the_parameters():
    for path in sources(ROOT):
        found = papermill.inspect_notebook(str(path))
        assert {"profile", "dataset", "model"} <= set(found), f"{path.stem}: these work with every notebook"
        assert all(len(p["help"]) > 20 for p in found.values()), path.stem
    shown = subprocess.run(
        [sys.executable, "-m", "papermill", "--help-notebook", "notebooks/segment_ppo.ipynb"],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "entropy_cutoff: float (default 1.75)" in shown and "nats" in shown


def test_a_bad_parameter_stops_the_notebook_with_one_line(tree):
    with pytest.raises(RuntimeError) as stop:
        executed(tree, "segment_ppo", profile="large")
    lines = str(stop.value).strip().splitlines()
    assert lines[-1].startswith("ValueError: unknown profile 'large'; choose one of smoke, brief, small, cpu, gpu, ")
    assert not any("Traceback" in line or "File " in line for line in lines)


def namespace(name: str, **injected) -> dict:
    """The globals of a notebook after its parameters cell and papermill's."""
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    declared = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    sources = [declared, "# Parameters\n" + "\n".join(f"{k} = {v!r}" for k, v in injected.items())]
    made = {"In": ["", *sources], "inf": math.inf, "nan": math.nan}
    for source in sources:
        exec(source, made)
    return made


@pytest.mark.parametrize(
    "name, asked, says",
    [
        ("segmentation", {"profil": "cpu"}, "unknown parameter 'profil'; this notebook takes profile, dataset"),
        ("segmentation", {"entropy_cutoff": -1.0}, "entropy_cutoff is -1.0; give a number, 0 or more"),
        ("segmentation", {"entropy_cutoff": "high"}, "entropy_cutoff is 'high'; give a number"),
        ("segmentation", {"seed": 1.5}, "seed is 1.5; give a whole number"),
        ("segmentation", {"dataset": "nowhere.jsonl"}, "dataset 'nowhere.jsonl' does not exist; give 'testbed', a"),
        ("segmentation", {"model": "./nowhere"}, "model './nowhere' does not exist; give the folder of a saved"),
        ("reward_models", {"methods": "bandit,oracle-dense"}, "'oracle-dense' has no reward model; choose bandit"),
        ("reward_models", {"methods": ""}, "unknown method ''"),
        ("segment_ppo", {"method": "tokens"}, "unknown method 'tokens'; choose one of sft, bandit"),
        ("segment_ppo", {"method": "sft"}, "method 'sft' trains nothing"),
        ("segment_ppo", {"method": "oracle-dense", "dataset": SAMPLES}, "reads the testbed's truth"),
        ("segment_ppo", {"lam": 1.5}, "lam is 1.5; give a number, 0 to 1"),
        ("segment_ppo", {"rounds": 2, "critic_warmup": 3}, "critic_warmup is 3, of 2 rounds; give at most 2"),
        ("segment_ppo", {"kl_coef": float("inf")}, "kl_coef is inf; give a number, 0 or more"),
        ("segment_ppo", {"kl_coef": float("nan")}, "kl_coef is nan; give a number, 0 or more"),
        ("segment_ppo", {"rounds": True}, "rounds is True; give a whole number, 1 or more"),
        ("segment_ppo", {"method": None}, "method is None; give one line of text"),
        ("segmentation", {"seed": None}, "seed is None; give a whole number, 0 to 2147483647"),
        ("segmentation", {"entropy_cutoff": None}, "entropy_cutoff is None; give a number, 0 or more"),
        ("segmentation", {"dataset": None}, "dataset is None; give 'testbed', a .jsonl"),
        ("segmentation", {"dataset": ""}, "dataset is ''; give 'testbed', a .jsonl"),
        ("segmentation", {"dataset": 2024}, "dataset is 2024; give 'testbed', a .jsonl"),
        ("segmentation", {"model": "null"}, "model is 'null'; give the folder of a saved causal LM"),
        ("segmentation", {"ngram": 0}, "ngram is 0; give a whole number, 1 or more"),
        ("testbed", {"n": 99}, "n is 99; give a whole number, 100 or more"),
        ("tlcr", {"error": 1.5}, "error is 1.5; give a number, 0 to 1"),
        ("adaptive_masks", {"delta": -0.5}, "delta is -0.5; give a number, 0 or more"),
        ("segment_ppo", {"columns": "{"}, "columns is '{'; give our names and those in the files as JSON"),
        ("segment_ppo", {"columns": '{"chosen": "a"}'}, "of the testbed; give them with a dataset of files"),
        ("segment_ppo", {"engine": "zero9"}, "engine is 'zero9'; give alone, paper, or one of ddp"),
        ("segment_ppo", {"processes": 2}, "processes is 2, without an engine"),
        ("segment_ppo", {"dry_run": "yes"}, "dry_run is 'yes'; give true or false"),
        ("segment_ppo", {"profile": "llama3-8b"}, "profile 'llama3-8b' learns from text: give dataset"),
        ("adaptive_masks", {"decision": "fuzzy"}, "unknown decision 'fuzzy'; choose one of threshold, three-way"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_trained(name, asked, says, capsys):
    with pytest.raises(ValueError, match=re.escape(says)) as stop:
        parameters.start(namespace(name, **asked))
    assert "\n" not in str(stop.value)


def test_parameters_reach_the_run(capsys):
    asked = {"profile": "cpu", "seed": 3, "rounds": 5, "critic_warmup": 0, "lam": 1, "kl_coef": 0, "dataset": SAMPLES}
    asked |= {"columns": '{"chosen": "better"}'}
    run = parameters.start(namespace("segment_ppo", **asked))
    assert (run.seed, run.profile.rounds, run.profile.critic_warmup, run.profile.lam) == (3, 5, 0, 1)
    assert run.profile.kl_coef == 0 and run.dataset == str(ROOT / SAMPLES) and run.model is None
    assert run.renamed == {"chosen": "better"}


def test_none_for_a_text_that_may_be_empty_is_the_empty_one(capsys):
    """papermill -p model None hands over Python's None."""
    given = namespace("segmentation", model=None)
    assert parameters.start(given).model is None and given["model"] == ""
    given = namespace("comparison", results=None, profile="cpu")
    assert parameters.parameters(given)["results"] == ""


def test_records_that_are_none_stop_a_notebook_with_one_line(tmp_path):
    given = namespace("comparison", results=str(tmp_path))
    with pytest.raises(parameters.BadParameter, match="has no .jsonl file; name one with records"):
        parameters.results(given)
    (tmp_path / "runs.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(parameters.BadParameter, match=r"runs\.jsonl:1: not a record of the study \(kind is None\)"):
        parameters.results(given)


def test_a_folder_of_results_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="results 'nowhere' is no folder below data/results"):
        parameters.results(namespace("comparison", results="nowhere"))


@pytest.mark.parametrize("folder", ["cpu", "cpu-0.1"])
def test_records_of_the_unfair_instrument_say_so_wherever_they_are_drawn(folder, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(parameters, "ROOT", tmp_path)
    monkeypatch.setattr(parameters.show, "banner", said.append)
    monkeypatch.setattr(parameters.show, "note", said.append)
    write_record(tmp_path / "data" / "results" / folder / "runs.jsonl", records(("bandit",))[0])
    parameters.results(namespace("comparison", results=folder))
    assert any("version 0.1" in text for text in said) == (folder == "cpu-0.1")
    assert any("(../book/what_we_got_wrong.md)" in text for text in said) == (folder == "cpu-0.1")
    parameters.results(namespace("comparison", results="", profile="gpu"))
    assert "No records of" in said[-1], "a profile that has not been run yet stops a notebook"
