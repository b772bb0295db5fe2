"""The client of the external model, against a real server on loopback: paying twice, using what was not kept, giving
up too early or too late, telling the key."""

import json
import logging
import sqlite3
import threading
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tenacity

from densereward import llm, revised
from densereward.llm import Chat, LLMError
from densereward.pipeline import Run
from densereward.profiles import profile
from densereward.revision import Revision, revise_rows, totals
from densereward.revision_prompt import END, START, llm_reviser

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
                said = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": len(said), **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def endpoint(monkeypatch):
    found = Endpoint()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(llm, "BACKOFF", tenacity.wait_none())
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def chat(endpoint, tmp_path):
    return Chat("m", tmp_path / "cache" / "replies.sqlite", temperature=0)


# --- paid once -------------------------------------------------------------------------------------------------------


def test_a_rerun_makes_no_calls_and_needs_no_key(chat, endpoint, monkeypatch):
    endpoint.answers += [completion("hello")]
    assert chat.ask(HI) == "hello" and chat.counts == {"requests": 1}
    (sent,) = endpoint.requests
    assert (sent["path"], sent["key"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (sent["model"], sent["messages"], sent["temperature"]) == ("m", HI, 0)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    again = Chat("m", chat.cache, temperature=0)
    assert again.ask(HI) == "hello" and again.counts == {"cached": 1}
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
    assert chat.ask(HI) == "short", "with space again the question is asked again"


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
        assert [found.result() for found in waiting] == ["hello"] * 4
    assert len(endpoint.requests) == 1 and chat.counts == {"requests": 1, "cached": 3}


def test_a_broken_character_costs_a_character_not_the_run(chat, endpoint):
    endpoint.answers += [(*completion("")[:2], json.dumps(completion("a \ud83d b")[2]).encode())]
    assert chat.ask(HI) == "a ? b" == chat.ask(HI)


def test_of_two_processes_with_one_question_the_first_reply_stays(chat, endpoint):
    def reply(body):  # while this one is asked, another process stores its reply
        if len(endpoint.requests) == 1:
            assert Chat("m", chat.cache, temperature=0).ask(HI) == "theirs"
            return completion("ours")
        return completion("theirs")

    endpoint.reply = reply
    assert chat.ask(HI) == "theirs"


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
    assert chat.ask(HI) == "hello"
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
    assert chat.ask(HI) == "hello" and chat.counts["retries"] >= 2  # more, where the machine is slow
    late.set()


def test_the_endpoint_says_how_long_to_wait(chat, endpoint, monkeypatch):
    waits = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", waits.append)
    monkeypatch.setattr(llm, "BACKOFF", tenacity.wait_fixed(5))
    headers = [{"Retry-After": "7"}, {"Retry-After": "9999"}, {"Retry-After": "soon"}, {}]
    endpoint.answers += [*(failure(429, headers=h) for h in headers), completion("hello")]
    assert chat.ask(HI) == "hello"
    assert waits == [7, llm.LONGEST_WAIT, 5, 5]


def test_patience_ends_with_a_clear_error_and_keeps_what_was_answered(chat, endpoint):
    endpoint.answers += [completion("hello"), *[failure(503, "overloaded")] * llm.TRIES]
    chat.ask(HI)
    with pytest.raises(LLMError, match="'m': .*503.*overloaded.*what was answered is kept"):
        chat.ask(HI, attempt=1)
    assert len(endpoint.requests) == 1 + llm.TRIES
    assert chat.ask(HI) == "hello"


@pytest.mark.parametrize(
    "answer, why",
    [
        (failure(401, "bad key"), "401.*bad key.*check OPENAI_API_KEY"),
        (failure(404, "no such model"), "404.*check OPENAI_BASE_URL and the model's name"),
        (failure(400, "too long"), "400.*too long.*change the request"),
        (failure(429, "pay first", code="insufficient_quota"), "429.*pay first.*quota"),
        ((200, {}, {"object": "nothing"}), "got no chat completion; check OPENAI_BASE_URL"),
        (completion("", choices=[]), "got no chat completion"),
        ((200, {"Content-Type": "text/html"}, b"<html>welcome</html>"), "got no chat completion"),
        ((200, {}, b"{broken"), "got no chat completion"),
        (completion(["hello"]), "got no chat completion"),
    ],
)
def test_what_will_not_pass_is_told_at_once(chat, endpoint, answer, why):
    endpoint.answers += [answer]
    with pytest.raises(LLMError, match=why):
        chat.ask(HI)
    assert len(endpoint.requests) == 1


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
    assert chat.ask(HI) == "your key is [key] at [address]"
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


def test_a_word_for_a_local_server_is_no_secret_and_leaves_replies_alone(chat, endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    endpoint.answers += [completion("there is none")]
    assert chat.ask(HI) == "there is none"


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_locked_cache_is_told_with_the_mend(chat, endpoint, monkeypatch):
    monkeypatch.setattr(llm, "LOCK_SECONDS", 0.0)
    endpoint.answers += [completion("hello")]
    holder = sqlite3.connect(chat.cache)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LLMError, match="replies.sqlite: database is locked; another process holds it"):
        chat.ask(HI)
    holder.close()
    assert endpoint.requests == [] and chat.ask(HI) == "hello"


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


def test_a_good_first_reply_is_not_asked_for_twice(chat, endpoint):
    endpoint.answers += [wrapped("an apple")]
    assert llm_reviser(chat)(HI, "a hammer", "a pear") == Revision("an apple", None, {"replies": 1})
    with pytest.raises(ValueError, match="attempts is 0"):
        llm_reviser(chat, attempts=0)


def test_a_row_of_revisions_by_a_model_takes_a_prompt_of_the_readers_own(endpoint, tmp_path):
    words = "Mend {rejected} like {chosen}, said to {context}. " + f"Between {START} and {END}."
    endpoint.answers += [wrapped("an apple")]
    run = Run(profile("smoke"), root=tmp_path)
    found = revised.reviser(run, "llm", model="m", temperature=0, template=words)(HI, "a hammer", "a pear")
    assert found.text == "an apple" and endpoint.requests[0]["messages"][0]["content"].startswith("Mend a hammer like")
    assert "template" not in endpoint.requests[0], "it goes into the message, not among the sampling parameters"
