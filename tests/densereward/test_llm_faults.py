"""A thousand requests, three in ten of which fail, in every way we know, two processes on one cache, one of them killed
in the middle: a reply lost, a reply paid twice, a failure taken for a reply."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from densereward.labels.llm import Chat
from densereward.seeding import rng
from test_llm import completion, ended, failure

QUESTIONS = 700  # about a thousand requests, with those that fail
PASSING = {  # what another request mends
    "500": failure(500, "internal"),
    "429": failure(429, "slow down"),
    "429, come back": failure(429, "slow down", {"Retry-After": "0"}),
    "empty choices": completion("", choices=[]),
    "no message": completion("", choices=[{"index": 0, "finish_reason": "stop"}]),
    "an error inside a 200": (200, {}, {"error": {"message": "overloaded", "code": 503}}),
    "half a body": (200, {}, b'{"choices": [{"ind'),
    "an unknown end": ended("network_error", "half of"),
}
FINAL = {  # what is this question's outcome: the outcome, and the reply
    "refusal": ("refused", ended("stop", None, refusal="I cannot.")),
    "content_filter": ("filtered", ended("content_filter", "half of")),
    "filtered, null content": ("filtered", ended("content_filter", None)),
    "length": ("cut", ended("length", "half of")),
    "over context": ("over_context", failure(400, "This model's maximum context length is 8 tokens")),
}
WHOLE = {  # whole answers in other forms, and the text that they hold
    "null content": ("", completion(None)),
    "parts": (None, lambda text: completion([{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:]}])),
    "text": (None, completion),
}
ASK = """
import json, sys, tenacity
from concurrent.futures import ThreadPoolExecutor
from densereward.labels import llm
llm.BACKOFF, llm.LEASE, llm.POLL, llm.TIMEOUT = tenacity.wait_none(), 2.0, 0.02, 3.0
cache, n, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chat = llm.Chat("m", cache, temperature=0)
order = range(n)[::step]
with ThreadPoolExecutor(8) as pool:
    found = dict(pool.map(lambda i: (i, chat.ask([{"role": "user", "content": f"question {i}"}])), order))
print(json.dumps({"found": [found[i] for i in range(n)], "counts": chat.counts}))
"""


class Script:
    """What the server says to each question: its faults first, then its answer. Counts what went out."""

    def __init__(self, n: int):
        draw = rng(0, "faults")
        passing, final, whole = list(PASSING), list(FINAL), list(WHOLE)
        self.faults, self.ends, self.sent, self.lock = {}, {}, defaultdict(list), threading.Lock()
        for i in range(n):
            self.faults[i] = [str(x) for x in draw.choice(passing, draw.choice([0, 1, 2], p=[0.6, 0.32, 0.08]))]
            self.ends[i] = str(draw.choice(final)) if draw.random() < 0.05 else str(draw.choice(whole))
        for i in (40, 200, n - 40):  # these wait for the client to give up, as on a lost connection
            self.faults[i] = ["timeout"]

    def expected(self, i: int) -> list:
        if (end := self.ends[i]) in FINAL:
            return ["half of" if end in ("content_filter", "length") else "", FINAL[end][0]]
        return ["" if WHOLE[end][0] == "" else f"answer {i}", None]

    def reply(self, body):
        i = int(body["messages"][0]["content"].split()[1])
        with self.lock:
            nth = len([what for what in self.sent[i] if what in self.faults[i]])
            what = self.faults[i][nth] if nth < len(self.faults[i]) else self.ends[i]
            self.sent[i].append(what)
        if what == "timeout":
            time.sleep(3.5)
            return PASSING["500"]
        if what in PASSING:
            return PASSING[what]
        said = FINAL.get(what, WHOLE.get(what))[1]
        return said(f"answer {i}") if callable(said) else said


@pytest.fixture
def cache():
    """In memory where there is such a place: what is tested is processes that die, not disks."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder) / "replies.sqlite"


def test_nothing_is_lost_and_nothing_paid_twice_whatever_fails_and_whoever_is_killed(endpoint, cache, monkeypatch):
    script = Script(QUESTIONS)
    endpoint.reply = script.reply
    monkeypatch.setattr(endpoint.server, "handle_error", lambda *a: None)  # clients that hang up

    def start(step: int) -> subprocess.Popen:
        ask = [sys.executable, "-c", ASK, str(cache), str(QUESTIONS), str(step)]
        return subprocess.Popen(ask, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def paid(i: int) -> int:
        return sum(what not in script.faults[i] for what in script.sent[i])

    first, second = start(1), start(-1)
    while len(endpoint.requests) < 300:
        assert first.poll() is None and second.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    with Chat("m", cache, temperature=0)._open() as db:
        kept = {json.loads(q)["messages"][0]["content"] for (q,) in db.execute("SELECT question FROM replies")}
    third = start(1)
    told = [json.loads(process.communicate(timeout=120)[0]) for process in (second, third)]

    for found in told:
        assert found["found"] == [script.expected(i) for i in range(QUESTIONS)], "every reply, and none made of a fault"
    twice = [i for i in script.sent if paid(i) > 1]
    assert len(twice) <= 8, "at most what the killed process had under way, whose replies no one could keep"
    assert not {f"question {i}" for i in twice} & kept, "what was on disk when it died was not asked again"
    faults = Counter(what for sent in script.sent.values() for what in sent if what in (*PASSING, "timeout"))
    total = len(endpoint.requests)
    assert 1000 <= total <= 1100 and faults.total() / total > 0.3, "of these none gave a reply, or an outcome"
    assert set(faults) == {*PASSING, "timeout"} and {script.ends[i] for i in range(QUESTIONS)} == {*FINAL, *WHOLE}

    again = Chat("m", cache, temperature=0)
    texts = [list(again.ask([{"role": "user", "content": f"question {i}"}])) for i in range(QUESTIONS)]
    assert texts == [script.expected(i) for i in range(QUESTIONS)] and again.counts["cached"] == QUESTIONS
    assert len(endpoint.requests) == total
    with again._open() as db:
        (recorded,) = db.execute("SELECT count(*) FROM paid").fetchone()
    lost = total - faults["timeout"] - recorded
    assert 0 <= lost <= 8, "every body is on record, but for what the killed process had under way"
    ends = Counter(script.ends.values())
    print(f"{total} requests, {faults.total()} faults {dict(faults)}, outcomes {[(e, ends[e]) for e in FINAL]},")
    print(f"bodies on record {recorded}, lost with the process {lost}, paid twice {len(twice)}")
