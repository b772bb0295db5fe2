"""The client of the external model, against a real server on loopback: paying twice, using what was not kept, giving
up too early or too late, telling the key."""

import hashlib
import json
import logging
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tenacity

from densereward.canonical import canonical
from densereward.labels import llm
from densereward.labels.llm import Chat, LLMError
from densereward.labels.revision import Revision, revise_rows, totals
from densereward.labels.revision_prompt import END, START, llm_reviser
from study.profiles import profile
from study.run import Run
from study.stages.revisions import reviser

KEY = "sk-loopback-1234567890abcdef"
HI = [{"role": "user", "content": "hi"}]


def completion(text: str | None, **more) -> tuple[int, dict, dict]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return 200, {}, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], **more}


def failure(status: int, message: str = "busy", headers: dict | None = None, code: str | None = None):
    return status, headers or {}, {"error": {"message": message, "code": code}}


class Endpoint:
    """A server that gives the answers it was told, one per request, or what `reply` makes of a request."""

    def __init__(self):
        self.answers, self.requests, self.reply, endpoint = deque(), [], None, self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
                status, headers, said = endpoint.reply(body) if endpoint.reply else endpoint.answers.popleft()
                if isinstance(said, dict | list):
                    said = json.dumps(said).encode()
                parts = [said] if isinstance(said, bytes) else said
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                for part in parts:
                    self.wfile.write(part)
                    self.wfile.flush()

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def chat(endpoint, tmp_path):
    return Chat("m", tmp_path / "cache" / "replies.sqlite", temperature=0)


# --- paid once -------------------------------------------------------------------------------------------------------


def test_a_rerun_makes_no_calls_and_needs_no_key(chat, endpoint, monkeypatch):
    endpoint.answers += [completion("hello")]
    assert chat.ask(HI).text == "hello" and chat.counts == {"requests": 1}
    (sent,) = endpoint.requests
    assert (sent["path"], sent["key"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (sent["model"], sent["messages"], sent["temperature"]) == ("m", HI, 0)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    again = Chat("m", chat.cache, temperature=0)
    assert again.ask(HI).text == "hello" and again.counts == {"cached": 1}
    assert len(endpoint.requests) == 1


def test_model_messages_sampling_and_attempt_are_questions_of_their_own(chat, endpoint):
    endpoint.reply = lambda body: completion(f"reply {len(endpoint.requests)}")
    ways = [
        lambda: chat.ask(HI),
        lambda: chat.ask(HI, attempt=1),
        lambda: chat.ask([{"role": "user", "content": "ho"}]),
        lambda: Chat("other", chat.cache, temperature=0).ask(HI),
        lambda: Chat("m", chat.cache, temperature=1).ask(HI),
        lambda: Chat("m", chat.cache).ask(HI),
    ]
    first = [ask() for ask in ways]
    assert len(set(first)) == len(ways) == len(endpoint.requests)
    assert [ask() for ask in ways] == first and len(endpoint.requests) == len(ways)
    assert "temperature" not in endpoint.requests[-1], "nothing is sent that was not asked for"


def test_a_reply_that_could_not_be_kept_is_not_given_out(chat, endpoint, monkeypatch):
    """SQLite's own refusal of a page too many, as on a full disk."""
    endpoint.answers += [completion("long " * 4000), completion("short")]
    real = sqlite3.connect

    def full(*arguments, **options):
        db = real(*arguments, **options)
        db.execute("PRAGMA max_page_count = 1")  # no smaller than the file is
        return db

    with monkeypatch.context() as patch:
        patch.setattr(llm.sqlite3, "connect", full)
        with pytest.raises(LLMError, match=r"replies.sqlite: database or disk is full; free some space"):
            chat.ask(HI)
    assert chat.ask(HI).text == "short", "with space again the question is asked again"


def test_two_threads_with_one_question_pay_once(chat, endpoint):
    asked, go = threading.Event(), threading.Event()

    def reply(body):
        asked.set()
        assert go.wait(60)
        return completion("hello")

    endpoint.reply = reply
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(chat.ask, HI) for _ in range(4)]
        assert asked.wait(60)
        go.set()
        assert [found.result().text for found in waiting] == ["hello"] * 4
    assert len(endpoint.requests) == 1 and chat.counts == {"requests": 1, "cached": 3}


def test_a_broken_character_costs_a_character_not_the_run(chat, endpoint):
    endpoint.answers += [(*completion("")[:2], json.dumps(completion("a \ud83d b")[2]).encode())]
    assert chat.ask(HI).text == "a ? b" == chat.ask(HI).text


ASK = """
import sys
from densereward.labels import llm
chat = llm.Chat("m", sys.argv[1], temperature=0)
for i in range(int(sys.argv[2])):
    chat.ask([{"role": "user", "content": str(i)}])
print(chat.counts["requests"], chat.counts["cached"])
"""


def test_of_two_processes_with_the_same_questions_one_pays_for_each(chat, endpoint):
    endpoint.reply = lambda body: time.sleep(0.05) or completion("hello")
    ask = [sys.executable, "-c", ASK, str(chat.cache), "20"]
    running = [subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [[int(word) for word in process.communicate(timeout=120)[0].split()] for process in running]
    assert [sum(counts) for counts in said] == [20, 20], "each has every reply"
    assert len(endpoint.requests) == 20 == sum(paid for paid, _ in said)


def test_a_question_whose_asker_was_killed_is_asked_again_when_its_claim_ends(chat, endpoint, monkeypatch):
    started = threading.Event()
    endpoint.reply = lambda body: (started.set(), time.sleep(0.5 * (len(endpoint.requests) == 1)), completion("hi"))[-1]
    ask = subprocess.Popen([sys.executable, "-c", ASK, str(chat.cache), "1"])
    assert started.wait(60)
    ask.kill()
    ask.wait()
    question = [{"role": "user", "content": "0"}]
    db = sqlite3.connect(chat.cache)
    (left,) = db.execute("SELECT until FROM claims").fetchone()
    assert 0 < left - time.time() < llm.LEASE, "held for seconds, not for as long as an answer may take"
    with db:
        db.execute("UPDATE claims SET until = ?", (time.time(),))
    assert chat.ask(question).text == "hi" and len(endpoint.requests) == 2
    assert not db.execute("SELECT * FROM claims").fetchall()
    db.close()


def test_a_claim_is_renewed_while_its_question_is_asked(chat, endpoint, monkeypatch):
    monkeypatch.setattr(llm, "LEASE", 0.3)
    endpoint.reply = lambda body: time.sleep(1.0) or completion(f"reply {len(endpoint.requests)}")
    other = Chat("m", chat.cache, temperature=0)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(chat.ask, HI)
        while not endpoint.requests:
            time.sleep(0.01)
        assert pool.submit(other.ask, HI).result() == first.result() == ("reply 1", None)
    assert len(endpoint.requests) == 1 and other.counts == {"cached": 1}


def test_a_failed_question_is_free_for_the_next_to_ask(chat, endpoint):
    endpoint.answers += [failure(401), completion("hello")]
    with pytest.raises(LLMError):
        chat.ask(HI)
    assert chat.ask(HI).text == "hello"


def test_of_two_replies_to_one_question_the_first_stays(chat, endpoint, monkeypatch):
    """Where a claim ended too early, as on a machine that slept."""
    monkeypatch.setattr(Chat, "_claim", lambda self, key, owner: True)

    def reply(body):  # while this one is asked, another process stores its reply
        if len(endpoint.requests) == 1:
            assert Chat("m", chat.cache, temperature=0).ask(HI).text == "theirs"
            return completion("ours")
        return completion("theirs")

    endpoint.reply = reply
    assert chat.ask(HI).text == "theirs"


def test_replies_of_a_cache_of_version_0_1_are_still_read(endpoint, tmp_path):
    """What was paid for then is not paid for again."""
    question = canonical({"model": "m", "messages": HI, "sampling": {}, "attempt": 0}, "question")
    with sqlite3.connect(tmp_path / "old") as db:
        db.execute("CREATE TABLE replies (key TEXT PRIMARY KEY, question TEXT, reply TEXT NOT NULL)")
        key = hashlib.sha256(question.encode()).hexdigest()
        db.execute("INSERT INTO replies VALUES (?, ?, ?)", (key, question, "paid long ago"))
    assert Chat("m", tmp_path / "old").ask(HI) == ("paid long ago", None) and not endpoint.requests


def test_no_more_requests_are_under_way_than_allowed(endpoint, tmp_path):
    chat, inside, most = Chat("m", tmp_path / "c", concurrency=3), [], []
    barrier = threading.Barrier(3)  # three must be inside at once for any to get out

    def reply(body):
        inside.append(1)
        most.append(len(inside))
        barrier.wait(60)
        inside.pop()
        barrier.wait(60)
        return completion("hello")

    endpoint.reply = reply
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(chat.ask, [[{"role": "user", "content": str(i)}] for i in range(12)]))
    assert max(most) == 3 and len(endpoint.requests) == 12


# --- retries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_tried_again(chat, endpoint, status):
    endpoint.answers += [failure(status), failure(status), completion("hello")]
    assert chat.ask(HI).text == "hello"
    assert len(endpoint.requests) == 3 and chat.counts == {"requests": 3, "retries": 2}


def test_a_lost_connection_and_a_timeout_are_tried_again(chat, endpoint, monkeypatch):
    def reply(body):
        if len(endpoint.requests) == 1:
            raise ConnectionAbortedError
        if len(endpoint.requests) == 2:
            assert late.wait(60)
        return completion("hello")

    late, endpoint.reply = threading.Event(), reply
    monkeypatch.setattr(llm, "TIMEOUT", 1.0)
    monkeypatch.setattr(endpoint.server, "handle_error", lambda *a: None)
    assert chat.ask(HI).text == "hello" and chat.counts["retries"] >= 2  # more, where the machine is slow
    late.set()


def test_the_endpoint_says_how_long_to_wait(chat, endpoint, monkeypatch):
    waits = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", waits.append)
    monkeypatch.setattr(llm, "BACKOFF", tenacity.wait_fixed(5))
    headers = [{"Retry-After": "7"}, {"Retry-After": "9999"}, {"Retry-After": "soon"}, {}]
    endpoint.answers += [*(failure(429, headers=h) for h in headers), completion("hello")]
    assert chat.ask(HI).text == "hello"
    assert waits == [7, llm.LONGEST_WAIT, 5, 5]


def test_patience_ends_with_a_clear_error_and_keeps_what_was_answered(chat, endpoint):
    endpoint.answers += [completion("hello"), *[failure(503, "overloaded")] * llm.TRIES]
    chat.ask(HI)
    with pytest.raises(LLMError, match="'m': .*503.*overloaded.*what was answered is kept"):
        chat.ask(HI, attempt=1)
    assert len(endpoint.requests) == 1 + llm.TRIES
    assert chat.ask(HI).text == "hello"


@pytest.mark.parametrize(
    "answer, why",
    [
        (failure(401, "bad key"), "401.*bad key.*check OPENAI_API_KEY"),
        (failure(402, "Insufficient Balance"), "402.*Insufficient Balance.*no credit or quota left: add some"),
        (failure(404, "no such model"), "404.*check OPENAI_BASE_URL and the model's name"),
        (failure(400, "no such parameter"), "400.*no such parameter.*change the request"),
        (failure(429, "pay first", code="insufficient_quota"), "429.*pay first.*quota"),
        ((200, {}, {"error": {"message": "no credit", "code": 402}}), "no credit.*add some"),
        ((200, {}, {"error": {"message": "no quota", "code": "insufficient_quota"}}), "no quota.*add some"),
    ],
)
def test_what_will_not_pass_is_told_at_once(chat, endpoint, answer, why):
    endpoint.answers += [answer]
    with pytest.raises(LLMError, match=why):
        chat.ask(HI)
    assert len(endpoint.requests) == 1


PAGE = (200, {"Content-Type": "text/html"}, b"<html>welcome</html>")


@pytest.mark.parametrize("answer", [PAGE, (200, {}, {"object": "nothing"}), (200, {}, [1]), (200, {}, b"data: {}\n\n")])
def test_an_address_of_another_service_is_told(chat, endpoint, answer):
    endpoint.answers += [answer] * llm.TRIES
    with pytest.raises(LLMError, match="got no chat completion; check OPENAI_BASE_URL"):
        chat.ask(HI)


# --- outcomes of one question ----------------------------------------------------------------------------------------


def ended(reason: str | None, text: str | None = "part of it", **message) -> tuple[int, dict, dict]:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}
    return completion(None, choices=[choice])


def test_what_was_paid_is_on_record_with_its_end_its_tokens_and_its_time(endpoint, tmp_path):
    """A reply cut at the limit was paid for too, and a run that crawled was told to wait: whoever asks why a run was
    dear or slow reads it here."""
    used = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    status, headers, body = ended("length")
    endpoint.answers += [failure(429), (502, {}, b"<html>"), (200, {}, b"{half")]
    endpoint.answers += [(status, headers, body | {"usage": used}), failure(400, VLLM)]
    chat, since = Chat("m", tmp_path / "c"), time.time()
    assert (chat.ask(HI).outcome, chat.ask(HI, attempt=1).outcome) == ("cut", "over_context")
    with closing(sqlite3.connect(tmp_path / "c")) as db:
        rows = db.execute("SELECT at, told FROM paid JOIN replies USING (key) ORDER BY at").fetchall()
    silent = {"model": None, "finish_reason": None, "usage": None}
    assert [json.loads(told) for _, told in rows] == [
        {"status": 429} | silent,
        {"status": 502} | silent,
        {"status": 200} | silent,
        {"status": 200, "model": "m", "finish_reason": "length", "usage": used},
        {"status": 400} | silent,
    ]
    assert all(since <= at <= time.time() for at, _ in rows)


AZURE = "The response was filtered due to the prompt triggering the content management policy."
VLLM = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."


@pytest.mark.parametrize(
    "answer, outcome",
    [
        (ended("length"), "cut"),
        (ended("content_filter"), "filtered"),
        (ended("content_filter", None), "filtered"),
        (completion(None, choices=[{"index": 0, "finish_reason": "content_filter", "message": None}]), "filtered"),
        (ended("SAFETY"), "filtered"),
        (ended("stop", None, refusal="I cannot."), "refused"),
        (failure(400, AZURE, code="content_filter"), "filtered"),
        (failure(403, "your input was flagged"), "filtered"),
        (failure(400, VLLM), "over_context"),
        (failure(400, "prompt is too long: 210000 tokens > 200000 maximum"), "over_context"),
        (failure(400, "exceeds the available context size", code="400"), "over_context"),
        (failure(400, "Input prompt (5000 tokens) is too long and exceeds limit of 4096"), "over_context"),
        (failure(400, "too many tokens: total number of tokens in the prompt cannot exceed 4081"), "over_context"),
        (failure(422, "`inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000"), "over_context"),
        (failure(400, "Range of input length should be [1, 30720]"), "over_context"),
        (failure(400, "This model's maximum prompt length is 131072 but the request has 200000"), "over_context"),
        (failure(400, "prompt too long; exceeded max length by 12 tokens"), "over_context"),
        (failure(413, "Request too large"), "over_context"),
        ((200, {}, {"error": {"message": VLLM, "code": 400}}), "over_context"),
    ],
)
def test_an_outcome_of_one_question_is_its_own_and_is_kept(chat, endpoint, answer, outcome):
    """As an error it would end the batch, at every rerun; as a reply it would be learnt from."""
    endpoint.answers += [answer]
    assert chat.ask(HI).outcome == outcome and chat.counts == {"requests": 1, outcome: 1}
    assert chat.ask(HI).outcome == outcome and chat.counts == {"requests": 1, outcome: 2, "cached": 1}


@pytest.mark.parametrize("said", ["too many tokens per minute", "Too many tokens in a minute", "too many tokens"])
def test_a_limit_on_the_rate_of_tokens_is_waited_for_and_is_no_outcome(chat, endpoint, said):
    """Taken for a context that is too long, it would drop every question that came too soon, for good."""
    endpoint.answers += [failure(429, said), completion("hello")]
    assert chat.ask(HI) == ("hello", None) and chat.counts == {"requests": 2, "retries": 1}
    for attempt, words in enumerate(("too many tokens per minute", "Too many tokens, please wait"), 1):
        endpoint.answers += [failure(400, words)]
        with pytest.raises(LLMError, match=words):
            chat.ask(HI, attempt)


STRANGE = {
    "an error": {"error": {"message": "Provider returned error", "code": 502}},
    "an error of a choice": {"choices": [{"index": 0, "error": {"message": "oops"}, "finish_reason": "error"}]},
    "an error in words": {"error": "upstream failed"},
    "a rate limit": {"error": {"message": "Rate limit exceeded", "code": 429}},
    "no choices": {"choices": []},
    "null choices": {"choices": None},
    "text for choices": {"choices": "abc"},
    "choices of text": {"choices": ["abc"]},
    "no message": {"choices": [{"index": 0}]},
    "a number": completion(5)[2],
    "an unknown end": ended("network_error")[2],
    "half of it": b'{"choices": [{"ind',
    "nothing": b"",
    "Latin-1": json.dumps(completion("PLACE")[2]).replace("PLACE", "\xe9").encode("latin-1"),
}


@pytest.mark.parametrize("said", STRANGE.values(), ids=STRANGE)
def test_what_is_no_reply_is_asked_for_again_and_is_at_last_that_questions_outcome(chat, endpoint, caplog, said):
    endpoint.answers += [(200, {}, said), completion("hello")]
    assert chat.ask(HI) == ("hello", None)
    endpoint.answers += [(200, {}, said)] * llm.TRIES + [completion("later")]
    assert chat.ask(HI, attempt=1) == ("", "unanswered") and "run again later" in caplog.text
    assert chat.ask(HI, attempt=1) == ("later", None), "not kept: the next run asks again"


def test_many_unanswered_questions_in_a_row_end_the_batch(chat, endpoint):
    """Each may fail for itself, all of them do not; and data without their second half are not what was asked for."""
    endpoint.reply = lambda body: (200, {}, {"error": {"message": "overloaded", "code": 503}})
    for attempt in range(llm.IN_A_ROW - 1):
        assert chat.ask(HI, attempt).outcome == "unanswered"
    with pytest.raises(LLMError, match="10 questions in a row without an answer; .*overloaded.*run again later"):
        chat.ask(HI, llm.IN_A_ROW)
    endpoint.reply = lambda body: completion("hello")
    chat.ask(HI, 100)
    endpoint.reply = lambda body: (200, {}, {"error": "overloaded"})
    assert chat.ask(HI, 101).outcome == "unanswered", "an answer in between begins the count anew"


def test_a_server_that_sends_a_byte_now_and_then_does_not_hold_the_batch(chat, endpoint, monkeypatch):
    """A socket's own timeout begins anew with every byte."""
    monkeypatch.setattr(llm, "TIMEOUT", 0.5)
    monkeypatch.setattr(llm, "TRIES", 2)
    monkeypatch.setattr(endpoint.server, "handle_error", lambda *a: None)
    done = threading.Event()

    def drip():
        for byte in json.dumps(completion("hello")[2]).encode():
            yield bytes([byte])
            done.wait(0.2)

    endpoint.reply = lambda body: (200, {}, drip())
    with pytest.raises(LLMError, match="no whole reply within 0.5 seconds"):
        chat.ask(HI)
    done.set()
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    "text, left",
    [
        ("<think>a</think>\nb", "\nb"),
        ("a</think>b", "b"),
        ("<think>it says </think> there</think>b", "b"),
        ("<think>no end", ""),
        ("a <think>b</think>", "a <think>b</think>"),
        ("[THINK]a[/THINK]b", "b"),
        ("plain", "plain"),
    ],
)
def test_reasoning_in_front_of_a_reply_is_no_part_of_it(chat, endpoint, text, left):
    endpoint.answers += [completion(text)]
    assert chat.ask(HI).text == left == chat.ask(HI).text


def test_of_a_reply_in_parts_the_text_is_read(chat, endpoint):
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    endpoint.answers += [completion([thought, {"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}])]
    assert chat.ask(HI).text == "hello"


def test_a_sampling_parameter_that_does_not_exist_is_told_by_name(chat, endpoint):
    with pytest.raises(TypeError, match="temprature"):
        Chat("m", chat.cache, temprature=0).ask(HI)


def test_nobody_listening_is_told_with_the_mend(endpoint, chat, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")  # the discard port
    with pytest.raises(LLMError, match="Connection error.*check OPENAI_BASE_URL"):
        chat.ask(HI)


# --- the key ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "  "])
def test_a_missing_key_is_told_before_any_request(chat, endpoint, monkeypatch, key):
    monkeypatch.delenv("OPENAI_API_KEY")
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(LLMError, match="OPENAI_API_KEY is not set: set it"):
        chat.ask(HI)
    assert endpoint.requests == []


@pytest.mark.parametrize(
    "name, value, why",
    [
        ("OPENAI_API_KEY", "sk-sécret-and-long", "no HTTP header"),
        ("OPENAI_API_KEY", "sk-secret\nand-long", "no HTTP header"),
        ("OPENAI_BASE_URL", "secret.host:8000", "OPENAI_BASE_URL is no address"),
    ],
)
def test_a_key_or_address_that_cannot_be_one_is_told_without_showing_it(chat, endpoint, monkeypatch, name, value, why):
    monkeypatch.setenv(name, value)
    with pytest.raises(LLMError, match=why) as caught:
        chat.ask(HI)
    assert "cret" not in "".join(traceback.format_exception(caught.value))


def test_the_key_is_nowhere_but_in_the_request(chat, endpoint, tmp_path, caplog, capfd, monkeypatch):
    """Not even where the endpoint repeats it, in a reply or in an error."""
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    endpoint.answers += [completion(f"your key is {KEY} at {endpoint.url}"), failure(401, f"{KEY} is no key of ours")]
    endpoint.answers += [failure(500, f"{KEY} failed")] * llm.TRIES
    assert chat.ask(HI).text == "your key is [key] at [address]"
    errors = []
    for attempt in (1, 2):
        with pytest.raises(LLMError) as caught:
            chat.ask(HI, attempt)
        found, chain = caught.value, []
        while found is not None:  # what a debugger or a crash report would follow
            chain.append(repr(found))
            found = found.__cause__ or found.__context__
        errors += ["".join(traceback.format_exception(caught.value)), *chain]
    assert all(request["key"] == f"Bearer {KEY}" for request in endpoint.requests)
    everything = [caplog.text, *capfd.readouterr(), repr(chat), *errors]
    everything += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert "your key is [key]" in "".join(everything) and "[key] is no key of ours" in "".join(everything)
    for secret in (KEY, endpoint.url):
        assert not any(secret in text for text in everything)


@pytest.mark.parametrize("shown", ["sk-loop****cdef", "sk-l...", "...cdef", "Bearer sk-loopback-1234"])
def test_a_key_that_the_endpoint_shortens_is_not_shown_either(chat, endpoint, shown):
    endpoint.answers += [failure(401, f"Incorrect API key provided: {shown}. You can find it in the account.")]
    with pytest.raises(LLMError, match=r"Incorrect API key provided: (Bearer )?\[key\].* You can find it") as caught:
        chat.ask(HI)
    assert not any(KEY[i : i + 4] in str(caught.value) for i in range(len(KEY) - 3))


def test_an_address_that_the_endpoint_shortens_is_not_shown_either(chat, endpoint, caplog):
    place = endpoint.url.removeprefix("http://")
    for shown in (place, place.removesuffix("/v1"), "//" + place, "127.0.0.1"):
        endpoint.answers += [failure(404, f"no model at {shown}, sorry")]
        with pytest.raises(LLMError, match=r"no model at \[address\], sorry"):
            chat.ask(HI)
    endpoint.answers += [(200, {}, {"error": f"{place} is down"})] * llm.TRIES
    assert chat.ask(HI).outcome == "unanswered" and "[address] is down" in caplog.text


def test_a_word_for_a_local_server_is_no_secret_and_leaves_replies_alone(chat, endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    endpoint.answers += [completion("there is none")]
    assert chat.ask(HI).text == "there is none"


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_locked_cache_is_told_with_the_mend(chat, endpoint, monkeypatch):
    monkeypatch.setattr(llm, "LOCK_SECONDS", 0.0)
    endpoint.answers += [completion("hello")]
    holder = sqlite3.connect(chat.cache)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LLMError, match="replies.sqlite: database is locked; another process holds it"):
        chat.ask(HI)
    holder.close()
    assert endpoint.requests == [] and chat.ask(HI).text == "hello"


def test_a_file_that_is_no_cache_is_told_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 100)
    with pytest.raises(LLMError, match="notes.txt: file is not a database; restore it from a copy"):
        Chat("m", path)
    assert path.read_text() == "my notes\n" * 100


def test_a_damaged_cache_is_told_not_used(chat, endpoint):
    endpoint.reply = lambda body: completion("hello " * 100)
    for attempt in range(40):
        chat.ask(HI, attempt)
    damaged = bytearray(chat.cache.read_bytes())
    damaged[4096:] = b"\xff" * (len(damaged) - 4096)  # all pages but the first, which has the schema
    chat.cache.write_bytes(damaged)
    with pytest.raises(LLMError, match="malformed; restore it from a copy"):
        chat.ask(HI)
    assert len(endpoint.requests) == 40


def test_a_cache_where_none_can_be_is_told(tmp_path):
    with pytest.raises(LLMError, match="unable to open database file; check path and permissions"):
        Chat("m", tmp_path)


# --- revisions -------------------------------------------------------------------------------------------------------


def wrapped(text: str) -> tuple[int, dict, dict]:
    return completion(f"<|Start of Reasoning|>\nso\n<|End of Reasoning|>\n\n{START}\n{text}\n{END}")


def test_a_malformed_reply_is_asked_for_again_and_counted_and_a_rerun_pays_nothing(chat, endpoint):
    row = {"prompt": HI, "chosen": [{"content": "an apple"}], "rejected": [{"content": "a hammer"}]}
    other = row | {"rejected": [{"content": "a drum"}]}
    replies = {
        "a hammer": [completion("a pear"), wrapped(" "), wrapped("a plum")],
        "a drum": [wrapped("a drum"), completion(None), completion(START)],
    }

    def reply(body):
        return next(replies[text].pop(0) for text in replies if f"\n{text}\n" in body["messages"][0]["content"])

    endpoint.reply = reply
    found = revise_rows(llm_reviser(chat, attempts=3), [row, other], workers=chat.concurrency)
    assert [(r.text, r.failure) for r in found] == [("a plum", None), (None, "markers")]
    assert totals(found) == {
        "read": 2, "revised": 1, "failed: markers": 1, "replies": 6,
        "malformed: markers": 2, "malformed: empty": 2, "malformed: identical": 1,
    }  # fmt: skip
    assert len(endpoint.requests) == 6
    again = Chat("m", chat.cache, temperature=0)
    assert revise_rows(llm_reviser(again, attempts=3), [row, other]) == found
    assert again.counts == {"cached": 6} and len(endpoint.requests) == 6


@pytest.mark.parametrize(
    "said, found",
    [
        (f"<think>{START}draft{END}</think>{START}plum{END}", "plum"),
        (f"Well. <think>say {START}draft{END}?</think> So: {START}plum{END}", "plum"),
        (f"Well. <thinking>\n{START}\ndraft\n{END}\n</thinking>", None),
        (f"Well. <think>{START}draft{END}", None),
        (f"draft {START}draft{END}</think>{START}plum{END}", "plum"),
        (f"<think>{START}draft{END}", None),
        (f"{START}write <think>so</think> there{END}", "write <think>so</think> there"),
    ],
)
def test_a_draft_amid_reasoning_is_not_taken_for_the_answer(chat, endpoint, said, found):
    """It holds the markers, too; what the answer itself says of tags stays."""
    endpoint.answers += [completion(said)]
    revised = llm_reviser(chat, attempts=1)(HI, "a hammer", "a pear")
    assert revised.text == found and revised.failure in (None, "markers", "empty")


def test_what_another_reply_cannot_mend_is_asked_once_and_the_batch_goes_on(chat, endpoint):
    """A refusal may be another's whim, a context is not; at a rerun nothing that is known is asked again."""
    bad = {"long": [failure(400, VLLM)], "down": [(200, {}, {"choices": []})] * llm.TRIES,
           "rude": [ended("stop", None, refusal="no")] * 3,
           "cut": [ended("length", f"{START}half{END}"), wrapped("whole")],
           "filtered": [ended("content_filter", f"{START}half{END}")] * 3}  # fmt: skip
    rows = [{"prompt": [], "chosen": [{"content": "c"}], "rejected": [{"content": name}]} for name in ("good", *bad)]

    def reply(body):
        return next(
            (bad[name].pop(0) for name in bad if f"\n{name}\n" in body["messages"][0]["content"]), wrapped("fine")
        )

    endpoint.reply = reply
    found = revise_rows(llm_reviser(chat), rows)
    failures = [None, "over_context", "unanswered", "refused", None, "filtered"]
    assert [r.failure for r in found] == failures and (found[0].text, found[4].text) == ("fine", "whole")
    assert {name: n for name, n in totals(found).items() if name.startswith("failed")} == {
        f"failed: {name}": 1 for name in ("over_context", "unanswered", "refused", "filtered")
    }
    paid, bad["down"] = len(endpoint.requests), [wrapped("up again")]
    again = revise_rows(llm_reviser(chat), rows)
    assert len(endpoint.requests) == paid + 1 and again[2].text == "up again"


def test_a_good_first_reply_is_not_asked_for_twice(chat, endpoint):
    endpoint.answers += [wrapped("an apple")]
    assert llm_reviser(chat)(HI, "a hammer", "a pear") == Revision("an apple", None, {"replies": 1})
    with pytest.raises(ValueError, match="attempts is 0"):
        llm_reviser(chat, attempts=0)


def test_a_row_of_revisions_by_a_model_takes_a_prompt_of_the_readers_own(endpoint, tmp_path):
    words = "Mend {rejected} like {chosen}, said to {context}. " + f"Between {START} and {END}."
    endpoint.answers += [wrapped("an apple")]
    run = Run(profile("smoke"), root=tmp_path)
    found = reviser(run, "llm", model="m", temperature=0, template=words)(HI, "a hammer", "a pear")
    assert found.text == "an apple" and endpoint.requests[0]["messages"][0]["content"].startswith("Mend a hammer like")
    assert "template" not in endpoint.requests[0], "it goes into the message, not among the sampling parameters"
