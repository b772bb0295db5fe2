"""The client against a real server: `transformers serve` with the committed SFT model, where its packages are there."""

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from densereward.labels.budget import Budget
from densereward.labels.llm import Chat
from study.profiles import models_folder

MISSING = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
MODEL = str(models_folder("cpu") / "sft")
SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    if MISSING:
        pytest.skip(f"transformers serve needs {' and '.join(MISSING)}: the client was tried on scripted servers only")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["serve", MODEL, "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as out:
        server = subprocess.Popen([sys.executable, "-c", SERVE, *where], stdout=out, stderr=out)
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
            patch.setenv("OPENAI_API_KEY", "none")
            patch.setenv("NO_PROXY", "*")
            yield
    finally:
        server.terminate()
        server.wait(60)


def test_a_real_server_answers_once_and_is_not_asked_again(served, tmp_path, monkeypatch):
    chat = Chat(MODEL, tmp_path / "c", budget=Budget(requests=3), max_tokens=40, temperature=0)
    asked = [{"role": "user", "content": "hello. please name three fruits."}]
    reply = chat.ask(asked)
    assert reply.outcome is None and "maybe" in reply.text, reply
    assert chat.ask(asked) == reply and chat.counts == {"requests": 1, "cached": 1}
    assert chat.budget.spent["tokens"] > 5, "it says what it used"
    short = Chat(MODEL, tmp_path / "c", max_tokens=2, temperature=0).ask(asked)
    assert short.outcome == "cut" and reply.text.startswith(short.text)
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert Chat(MODEL, tmp_path / "c", max_tokens=40, temperature=0).ask(asked) == reply
