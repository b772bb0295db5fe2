"""A book whose pages are not what its notebooks made, or of other data than it says, is no evidence."""

import json
import shutil

import nbformat
import pytest
import yaml
from typer.testing import CliRunner

from report import manifest
from report.notebooks import ROOT, run_all
from test_runner import write


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """(root, html): a tree with one notebook that reads data, executed, and its page as a build leaves it."""
    root = tmp_path_factory.mktemp("tree")
    html = root / "_build" / "html"
    for folder in ("notebooks", "lib", "data", "book"):
        (root / folder).mkdir()
    (root / "data" / "runs.csv").write_text("a,3\n")
    (root / "lib" / "code.py").write_text("x = 1\n")
    (root / "_config.yml").write_text("title: a\n")
    shown = 'from IPython.display import HTML\nHTML("<b>" + open("data/runs.csv").read().strip() + "</b>")'
    source = write(root / "notebooks", "one", shown)
    run_all([source], root / "runs", {"profile": "smoke"}, root, after={})
    (html / "_sources" / "notebooks").mkdir(parents=True)
    (html / "notebooks").mkdir()
    shutil.copy(root / "runs" / "one.ipynb", html / "_sources" / "notebooks")
    (html / "notebooks" / "one.html").write_text("<html><b>a,3</b></html>")
    manifest.save_json(html / manifest.NAME, manifest.manifest(html, root))
    return root, html


@pytest.fixture
def copied(book, tmp_path):
    shutil.copytree(book[0], tmp_path / "tree")
    return tmp_path / "tree", tmp_path / "tree" / "_build" / "html"


def test_a_book_as_it_was_built_is_proved_and_says_what_it_was_made_of(copied):
    root, html = copied
    assert manifest.problems(html, root) == []
    told = json.loads((html / "manifest.json").read_text())
    assert told["notebooks"]["one"]["parameters"] == {"profile": "smoke"} and len(told["commit"]) in (7, 40)
    assert {"source", "code", "data", "executed", "commit"} <= told["notebooks"]["one"].keys()
    assert len(told["config"]) == 64 and set(told["files"]) == {"_sources/notebooks/one.ipynb", "notebooks/one.html"}


def page(root, html):
    path = html / "notebooks" / "one.html"
    path.write_text(path.read_text().replace("3", "4"))


def forged(root, html):
    """The page changed, and the manifest with it: the figure is not the one that the notebook made."""
    page(root, html)
    told = json.loads((html / manifest.NAME).read_text())
    told["files"] = manifest.files(html)
    manifest.save_json(html / manifest.NAME, told)


def other_cells(root, html):
    """A notebook that ran other code than the one published, with a manifest to match."""
    path = html / "_sources" / "notebooks" / "one.ipynb"
    ran = nbformat.read(path, as_version=4)
    ran.cells[-1].source = "HTML('a,3')"
    nbformat.write(ran, path)
    forged_only = json.loads((html / manifest.NAME).read_text())
    forged_only["files"] = manifest.files(html)
    manifest.save_json(html / manifest.NAME, forged_only)


CHANGES = {
    "the data": (lambda root, html: (root / "data" / "runs.csv").write_text("a,4\n"), "one: ran with another data"),
    "more data": (lambda root, html: (root / "data" / "more.csv").write_text("b"), "one: ran with another data"),
    "the code": (lambda root, html: (root / "lib" / "code.py").write_text("x = 2\n"), "one: ran with another code"),
    "the notebook": (lambda root, html: write(root / "notebooks", "one", "1"), "the cells that ran are not those"),
    "the settings": (lambda root, html: (root / "_config.yml").write_text("b"), "settings or prose"),
    "the page": (page, "one.html: changed, lost or added since"),
    "page and manifest": (forged, "1 tables and figures that it made are not on its page"),
    "cells and manifest": (other_cells, "the cells that ran are not those of notebooks/"),
    "a page more": (lambda root, html: (html / "x.html").write_text(""), "x.html: changed, lost or added"),
    "a page less": (lambda root, html: (html / "notebooks" / "one.html").unlink(), "one.html: changed, lost or added"),
    "no source": (lambda root, html: (root / "notebooks" / "one.ipynb").unlink(), "is not there"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_is_changed_is_said(copied, what):
    change, says = CHANGES[what]
    change(*copied)
    assert any(says in line for line in manifest.problems(copied[1], copied[0])), what


def test_a_book_of_stale_notebooks_gets_no_manifest(copied):
    root, html = copied
    (root / "data" / "runs.csv").write_text("a,4\n")
    with pytest.raises(ValueError, match="one was executed with another data than lies here; run make book again"):
        manifest.manifest(html, root)
    shutil.rmtree(html / "_sources")
    with pytest.raises(ValueError, match="holds no executed notebook; run make book"):
        manifest.manifest(html, root)


def test_the_command_proves_refuses_and_tells(copied, monkeypatch):
    root, html = copied
    monkeypatch.setattr(manifest, "ROOT", root)
    (html / manifest.NAME).unlink()
    assert "manifest.json" in CliRunner().invoke(manifest.app, ["check", str(html)]).stderr
    wrote, good = (CliRunner().invoke(manifest.app, [word, str(html)]) for word in ("write", "check"))
    assert "1 notebooks, 2 files" in wrote.stdout and (good.exit_code, good.stderr) == (0, "")
    page(root, html)
    bad = CliRunner().invoke(manifest.app, ["check", str(html)])
    assert bad.exit_code == 1 and "one.html: changed" in bad.stdout


def test_what_runs_notebooks_stamps_them(book):
    ran = nbformat.read(book[0] / "runs" / "one.ipynb", as_version=4)
    assert ran.metadata[manifest.STAMP]["data"] == manifest.digest(book[0] / "data")


def test_the_workflow_proves_the_book_before_it_publishes_and_attaches_the_proof_to_tags():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    when, jobs = workflow[True], workflow["jobs"]  # YAML reads the key `on` as true
    assert when["push"] == {"branches": ["main"], "tags": ["v*"]}
    steps = [step.get("run") or step["uses"].partition("@")[0] for step in jobs["build"]["steps"]]
    made, proved = (
        next(i for i, s in enumerate(steps) if word in s) for word in ("make book", "report.manifest check")
    )
    assert made < proved < steps.index("actions/upload-pages-artifact") and proved < steps.index(
        "actions/upload-artifact"
    )
    assert "main" in jobs["publish"]["if"] and "refs/tags/v" in jobs["archive"]["if"]
    assert {jobs[job]["needs"] for job in ("publish", "archive")} == {"build"}
    attached = jobs["archive"]["steps"][-1]["run"]
    assert "book.tar.gz" in attached and "manifest.json" in attached
    allowed = {job: of.get("permissions", workflow["permissions"]) for job, of in jobs.items()}
    assert allowed["build"] == {"contents": "read"}, "what runs notebooks may write nothing"
