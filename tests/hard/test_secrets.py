"""Keys stand in the environment, and go to their endpoint alone: not into a record, a log, a cache or a page."""

import os
import re
import subprocess
from pathlib import Path

import nbformat

from forked import Folder
from report.notebooks import ROOT, run_notebook
from test_llm import KEY, completion, failure

SECRETS = {
    "OPENAI_API_KEY": "sk-proj-Zq8Vx3Jm5Tn7Rb2Lk9Wd",
    "HF_TOKEN": "hf_QyXwVuTsRqPoNmLkJiHg",
    "WANDB_API_KEY": "7f3e9a1c5b8d2064",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPx",
    "GITHUB_TOKEN": "ghp_A1b2C3d4E5f6G7h8I9j0",
    "PASSWORD": "correct-horse-battery",
}
LOOKS = re.compile(  # like a key, of those that people lose most
    rb"sk-(?:proj-)?[A-Za-z0-9]{20,}|\bhf_[A-Za-z0-9]{30,}|\bghp_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
ASKS = """
import logging
logging.basicConfig(level=logging.DEBUG)
from densereward.labels import llm
chat = llm.Chat("m", "replies.sqlite", temperature=0)
for i in range(3):
    try:
        print(chat.ask([{"role": "user", "content": f"question {i}"}]))
    except llm.LLMError as error:
        print(error)
chat.ask([{"role": "user", "content": "question 3"}])
"""


def holding(folder: Path, secrets: list[str]) -> list[str]:
    """Files below a folder that hold a secret, by their content or name."""
    found, files = [], [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes() + str(path).encode()
        found += [f"{path}: {secret}" for secret in secrets if secret.encode() in content]
    return found


def test_a_study_writes_no_key_of_its_environment(memory, count):
    """Records hold the environment they were made in, but for its secrets."""
    folder = Folder(memory / "secret").study(lambda path: os.environ.update(SECRETS))
    assert folder.code == 0 and not holding(folder.path, list(SECRETS.values()))
    files = sum(path.is_file() for path in folder.path.rglob("*"))
    count("keys in the environment of a study", len(SECRETS), f"in none of the {files} files that it wrote")


def test_an_executed_notebook_holds_no_key_though_the_endpoint_says_it(endpoint, tmp_path, count):
    """Replies and errors that quote the key, the log at its most talkative, and the traceback of a cell that failed."""
    endpoint.answers += [
        completion(f"your key is {KEY}"),
        failure(401, f"{KEY} is no key"),
        failure(400, f"Bearer {KEY}"),
    ]
    endpoint.answers += [failure(401, f"{KEY} at {endpoint.url} is no key")]
    cells = [nbformat.v4.new_code_cell(ASKS)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "asks.ipynb")
    told = []
    try:
        run_notebook(tmp_path / "asks.ipynb", tmp_path / "out" / "asks.ipynb", {}, tmp_path, told.append)
        raise AssertionError("the last question fails")
    except RuntimeError as error:
        told.append(str(error))
    assert len(endpoint.requests) == 4 and "LLMError" in told[-1]
    assert not [line for line in told if KEY in line or endpoint.url in line]
    assert not holding(tmp_path, [KEY, endpoint.url])
    count(
        "replies and errors of an endpoint that quote the key",
        len(endpoint.requests),
        "not in the executed notebook, the log, the cache",
    )


def test_nothing_that_is_published_looks_like_a_key(count):
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in tracked.stdout.split("\0") if name] if tracked.returncode == 0 else []
    files += [path for folder in ("_build/html", "runs/book") for path in (ROOT / folder).rglob("*") if path.is_file()]
    found = [(path, match[0]) for path in files if path.is_file() for match in LOOKS.finditer(path.read_bytes())]
    ours = {KEY, *SECRETS.values()}  # of this file and its neighbours
    assert not [(path, said) for path, said in found if not any(said.decode() in own for own in ours)]
    count("files of the repository, and of the book where it is built", len(files), "none holds what looks like a key")
