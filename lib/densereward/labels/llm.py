"""Replies of an OpenAI-compatible endpoint, each paid for once.

The endpoint and its key come from the environment alone (OPENAI_BASE_URL, OPENAI_API_KEY) and go nowhere else: not into
the cache, a log or an error. A question is claimed in the cache before it is paid for, so of many threads and processes
one pays and the others wait; a claim ends with its reply, or LEASE seconds after its holder was killed. A reply is on
disk before anyone sees it, under model, messages, sampling parameters and attempt, so whatever was paid for survives a
crash, and a re-run from a full cache needs neither key nor network.

What concerns one question alone (OUTCOMES) is that question's outcome; what concerns all of them raises LLMError.
Left out: streaming, batch endpoints, a price list; of a tool call there is the text of its arguments. Whether the same
question gets the same reply is the endpoint's affair; from the cache it does.

Book: tlcr.md
"""

import asyncio
import hashlib
import json
import logging
import os
import re
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import httpx2
import openai
import tenacity

from densereward.canonical import canonical

TRIES = 6  # HTTP requests per question, while they fail for reasons that may pass
BACKOFF = tenacity.wait_random_exponential(multiplier=1, max=60)  # seconds, where the endpoint does not say
LONGEST_WAIT = 120.0  # seconds, where it does
TIMEOUT = 300.0  # seconds per HTTP request, from its start to the last byte of the reply
IN_A_ROW = 10  # questions without an answer: then it is the endpoint, not the questions
LEASE, POLL = 30.0, 0.2  # seconds that a claim lasts unless renewed, and between looks at another's claim
LOCK_SECONDS = 30.0  # how long another process may hold the cache
SECRET_LENGTH = 8  # a shorter key ("none", for a local server) is no secret, and may be a word of a reply
OUTCOMES = ("cut", "filtered", "refused", "over_context", "unanswered")  # what they mean: revision.FAILURES
MENDS = {  # by the start of SQLite's name for the problem
    "SQLITE_BUSY": "another process holds it: wait until that one ends",
    "SQLITE_FULL": "free some space; a reply that could not be kept will be asked for again",
    "SQLITE_IOERR": "look after the disk; a reply that could not be kept will be asked for again",
    "SQLITE_CORRUPT": "restore it from a copy, or move it away and have its replies asked for again",
    "SQLITE_NOTADB": "restore it from a copy, or move it away and have its replies asked for again",
}
TABLES = (
    "replies (key TEXT PRIMARY KEY, question TEXT, reply TEXT NOT NULL)",
    "outcomes (key TEXT PRIMARY KEY, outcome TEXT NOT NULL)",  # of replies that are no whole answer
    "claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL)",
)
CLAIM = """INSERT INTO claims VALUES (:key, :owner, :until)
    ON CONFLICT (key) DO UPDATE SET owner = :owner, until = :until WHERE owner = :owner OR until < :now"""
# What servers call the end of a whole reply and of another one; a finish_reason in neither list is no answer.
WHOLE = ("", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "tool_calls", "function_call")
ENDS = dict.fromkeys(("length", "max_tokens", "model_length"), "cut") | {"refusal": "refused"}
ENDS |= dict.fromkeys(("content_filter", "safety", "recitation", "prohibited_content", "sensitive"), "filtered")
# What servers say of one question; each of the words was seen in an error of at least one of them.
OVER_CONTEXT = re.compile(
    r"context[ _]?(length|window|size)|(prompt|input|message)\S* (is|are) too long|longer than the model"
    r"|maximum number of tokens|must have less than \d+ tokens|reduce the length|string_above_max_length",
    re.IGNORECASE,
)
FILTERED = re.compile(
    r"content[ _](filter|management|policy)|responsible ?ai|data_inspection|inappropriate content|flagged"
    r"|requires moderation|safety system|content exists risk",
    re.IGNORECASE,
)
NO_COMPLETION = "got no chat completion"
THOUGHTS = re.compile(r"<(/?)(?:think|thinking|thought|reasoning|seed:think)>|\[(/?)THINK\]|◁(/?)think▷")


class LLMError(RuntimeError):
    """The endpoint or the reply cache cannot be used; the text says what to mend."""


class Reply(NamedTuple):
    """The text that came, and None for a whole answer, else a key of OUTCOMES."""

    text: str
    outcome: str | None = None


class _Failed(Exception):
    """A request without a reply: what was said of it, the HTTP status (None where none came), the endpoint's code, the
    seconds it asks to wait, and whether the status stood inside a reply of status 200."""

    def __init__(self, said: str, status: int | None = None, code=None, after: str = "", inside: bool = False):
        super().__init__(said)
        self.said, self.status, self.code, self.after, self.inside = said, status, code, after, inside


class Chat:
    """Questions to one model with one set of sampling parameters (`temperature=0`, as the endpoint names them; none
    are sent unless given). At most `concurrency` requests are under way, however many threads ask. With `logprobs=True`
    a reply's text is JSON, per token the likeliest words in its place: [{word: log-probability in nats}].

    `counts`: requests (HTTP), retries among them, cached (answered from disk), outcomes by name. Creates the cache file
    and its folder.
    """

    def __init__(self, model: str, cache: str | Path, concurrency: int = 8, **sampling):
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; allow one request at a time at least")
        self.model, self.cache, self.concurrency, self.sampling = model, Path(cache), concurrency, sampling
        self.counts: Counter = Counter()
        self._pool, self._lock, self._in_a_row = ThreadPoolExecutor(concurrency), Lock(), 0
        self._key = self._url = ""
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            for table in TABLES:
                db.execute(f"CREATE TABLE IF NOT EXISTS {table}")

    def ask(self, messages: list[dict], attempt: int = 0) -> Reply:
        """The reply to these messages, from the cache or else from the endpoint and then in the cache, its reasoning
        left out. An unanswered question is not kept: it is asked again in the next run.

        `attempt` numbers further askings of the same question, whose first reply was of no use. Raises LLMError."""
        question = {"model": self.model, "messages": messages, "sampling": self.sampling, "attempt": attempt}
        question = canonical(question, "question")
        key, owner = hashlib.sha256(question.encode()).hexdigest(), secrets.token_hex(8)
        reply, paid = self._read(key), False
        if reply is None:
            while not self._claim(key, owner):  # another thread or process is asking it
                time.sleep(POLL)
            try:
                if (reply := self._read(key)) is None:
                    reply, paid = self._pay(messages, key, owner), True
                    if reply.outcome != "unanswered":
                        reply = self._keep(key, question, reply)
            finally:
                with suppress(LLMError), self._open() as db:  # it ends by itself, too
                    db.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, owner))
        self._count(*([] if paid else ["cached"]), *([reply.outcome] if reply.outcome else []))
        return reply._replace(text=without_thoughts(reply.text))

    def _pay(self, messages: list[dict], key: str, owner: str) -> Reply:
        """`_fetch` among at most `concurrency` others; the claim is renewed meanwhile."""
        work = self._pool.submit(self._fetch, messages)
        while not wait([work], LEASE / 3).done:
            with suppress(LLMError):  # at worst another process pays too
                self._claim(key, owner)
        return work.result()

    def _fetch(self, messages: list[dict]) -> Reply:
        self._connect()

        def post() -> Reply:
            self._count("requests")
            return _read_body(asyncio.run(self._post(messages)), bool(self.sampling.get("logprobs")))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=_wait,
            stop=tenacity.stop_after_attempt(TRIES),
            before_sleep=lambda state: self._count("retries"),
            reraise=True,
        )
        reply, problem = Reply(""), None
        try:
            reply = retrying(post)
        except _Failed as failed:
            problem = f"model {self.model!r}: {self._hide(failed.said)[:300]}; {_mend(failed)}"
            reply = Reply("", _outcome(failed))
        if problem and reply.outcome is None:  # out of the handler: what was said may hold the key
            raise LLMError(problem)
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if reply.outcome == "unanswered" else 0
            if self._in_a_row >= IN_A_ROW:
                raise LLMError(f"{self._in_a_row} questions in a row without an answer; {problem}")
        if reply.outcome == "unanswered":
            logging.getLogger(__name__).warning(problem)
        return reply._replace(text=self._without_secrets(reply.text))

    async def _post(self, messages: list[dict]) -> bytes:
        """The body that the endpoint sent. Raises _Failed, never an exception that holds the request with its key."""
        http = openai.DefaultAsyncHttpxClient(verify=self._tls)
        settings = {"api_key": self._key, "base_url": self._url, "timeout": TIMEOUT, "max_retries": 0}
        try:
            async with asyncio.timeout(TIMEOUT), openai.AsyncOpenAI(http_client=http, **settings) as client:
                create = client.chat.completions.with_raw_response.create
                return (await create(model=self.model, messages=messages, **self.sampling)).content
        except openai.APIStatusError as error:
            after = error.response.headers.get("retry-after", "")
            failed = _Failed(str(error), error.status_code, error.code, after)
        except (TimeoutError, openai.APITimeoutError):
            failed = _Failed(f"no whole reply within {TIMEOUT:g} seconds")
        except openai.OpenAIError as error:
            failed = _Failed(str(error))
        raise failed

    def _connect(self) -> None:
        with self._lock:
            if self._key:
                return
            key = os.environ.get("OPENAI_API_KEY", "").strip()
            url = os.environ.get("OPENAI_BASE_URL", "").strip() or "https://api.openai.com/v1"
            if not key:
                raise LLMError("OPENAI_API_KEY is not set: set it in the environment (any word for a local server)")
            if not (key.isascii() and key.isprintable()):
                raise LLMError("OPENAI_API_KEY holds a character that no HTTP header can; copy the key again")
            if not url.startswith(("http://", "https://")):
                raise LLMError("OPENAI_BASE_URL is no address; write it like http://localhost:8000/v1")
            for name in ("openai", "httpx2", "httpcore2"):  # they log whole addresses
                logging.getLogger(name).setLevel(logging.WARNING)
            self._tls = httpx2.create_ssl_context()  # once: it takes longer than the rest of a client
            self._key, self._url = key, url.rstrip("/")

    def _without_secrets(self, text: str) -> str:
        """The text without key and address where they stand whole."""
        for secret, instead in ((self._key, "[key]"), (self._url, "[address]")):
            text = text.replace(secret, instead) if len(secret) >= SECRET_LENGTH else text
        return text

    def _hide(self, said: str) -> str:
        """An error's text without key and address, nor any word that holds a piece of them: servers shorten both."""
        place = self._url.partition("://")[2]
        pieces = {place[i : i + 6]: "[address]" for i in range(len(place) - 5)}
        if len(self._key) >= SECRET_LENGTH:
            pieces |= {self._key[i : i + 4]: "[key]" for i in range(len(self._key) - 3)}

        def hidden(word: re.Match) -> str:
            return next((instead for piece, instead in pieces.items() if piece in word[0]), word[0])

        return re.sub(r"[^\s'\"<>()\[\]{},]+", hidden, self._without_secrets(said))

    def _claim(self, key: str, owner: str) -> bool:
        """Whether this question is the owner's to ask for another LEASE seconds. One statement, so atomic."""
        now = time.time()
        with self._open() as db:
            claim = {"key": key, "owner": owner, "until": now + LEASE, "now": now}
            return db.execute(CLAIM, claim).rowcount == 1

    def _keep(self, key: str, question: str, reply: Reply) -> Reply:
        """The reply once it is on disk; should another process have stored one meanwhile, that one."""
        with self._open() as db:
            if db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", (key, question, reply.text)).rowcount:
                db.executemany("INSERT INTO outcomes VALUES (?, ?)", [(key, reply.outcome)] if reply.outcome else [])
        return self._read(key)

    def _read(self, key: str) -> Reply | None:
        with self._open() as db:
            select = "SELECT reply, outcome FROM replies LEFT JOIN outcomes USING (key) WHERE key = ?"
            row = db.execute(select, (key,)).fetchone()
        return row and Reply(*row)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The cache, for one transaction."""
        try:
            with closing(sqlite3.connect(self.cache, timeout=LOCK_SECONDS)) as db, db:
                yield db
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", None) or ""
            mend = next((mend for start, mend in MENDS.items() if name.startswith(start)), "check path and permissions")
            raise LLMError(f"reply cache {self.cache}: {error}; {mend}") from error

    def _count(self, *what: str) -> None:
        with self._lock:
            self.counts.update(what)


def without_thoughts(text: str) -> str:
    """A reply without the reasoning in front of it (`<think>...</think>`, also without its opening tag, as templates
    that write it for the model leave it); nothing where the reasoning has no end."""
    tags = list(THOUGHTS.finditer(text))
    closing_tags = [tag for tag in tags if any(tag.groups())]
    leads = bool(tags) and not text[: tags[0].start()].strip() and tags[0] not in closing_tags
    if leads or (closing_tags and len(closing_tags) == len(tags)):
        return text[closing_tags[-1].end() :] if closing_tags else ""
    return text


def _read_body(body: bytes, weighed: bool = False) -> Reply:
    """The reply in what an endpoint sent with status 200, or (weighed) its log-probabilities. Raises _Failed where
    there is none."""
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        broken = body.lstrip()[:1] in (b"", b"{")  # else it is a page, of another kind of server
        raise _Failed(NO_COMPLETION + ", but broken JSON" * broken, 200, inside=broken) from None
    if not isinstance(sent, dict) or not {"choices", "error"} & sent.keys():
        raise _Failed(NO_COMPLETION, 200)
    choices = sent.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if error := sent.get("error") or choice.get("error"):
        error = error if isinstance(error, dict) else {"message": error}
        code = error.get("code")
        status = int(code) if str(code).isdigit() else 200
        raise _Failed(f"error inside a reply of status 200: {error.get('message')}", status, code, inside=True)
    message = choice.get("message")
    reason = str(choice.get("finish_reason") or "").lower()
    outcome = None if reason in WHOLE else ENDS.get(reason, "unanswered")
    if outcome is None and not isinstance(message, dict):
        raise _Failed(f"a reply without a message (choices: {choices!r:.60})", 200, inside=True)
    if outcome == "unanswered":
        raise _Failed(f"a reply that ended with finish_reason {reason!r:.60}", 200, inside=True)
    message = message if isinstance(message, dict) else {}
    outcome = outcome or ("refused" if message.get("refusal") else None)
    text = json.dumps(_alternatives(choice)) if weighed else _text(message.get("content")) or _arguments(message)
    return Reply(text, outcome)


def _arguments(message: dict) -> str:
    """The arguments of a message's first tool call, which is its answer where it has no text."""
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls else None
    function = call.get("function") if isinstance(call, dict) else None
    return _text(function.get("arguments")) if isinstance(function, dict) else ""


def _alternatives(choice: dict) -> list[dict[str, float]]:
    """The likeliest words in place of each token of a reply; none where the endpoint told none."""
    try:
        tokens = choice["logprobs"]["content"]
        return [{one["token"]: float(one["logprob"]) for one in token["top_logprobs"]} for token in tokens]
    except (KeyError, TypeError, ValueError):
        return []


def _text(content: object) -> str:
    """The text of a message's content: text, null, or a list of parts, of which those of reasoning are left out. Half a
    surrogate pair, which no file can hold, becomes a question mark. Raises _Failed for anything else."""
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]
        content = "".join(_text(p.get("text")) for p in parts if p.get("type") in (None, "text", "output_text"))
    if not isinstance(content or "", str):
        raise _Failed(f"a reply whose content is {content!r:.60}", 200, inside=True)
    return (content or "").encode(errors="replace").decode()


def _may_pass(failed: BaseException) -> bool:
    """Whether asking again may help: rate limits, timeouts, lost connections, 5xx, and what is no reply in a reply of
    status 200; not a used-up quota, and not what is a question's outcome."""
    if not isinstance(failed, _Failed) or _outcome(failed) not in (None, "unanswered"):
        return False
    return not _for_all(failed) and (failed.inside or failed.status in (None, 200, 408, 429) or failed.status >= 500)


def _for_all(failed: _Failed) -> bool:
    """Whether every question would fail so until somebody mends key, credit or address."""
    return failed.code == "insufficient_quota" or failed.status in (401, 402, 403, 404)


def _outcome(failed: _Failed) -> str | None:
    """The outcome of the one question that failed so, or None where others would too."""
    said = f"{failed.code} {failed.said}"
    if failed.status in (200, 400, 403, 413, 422, 451):
        if FILTERED.search(said) or failed.status == 451:
            return "filtered"
        if OVER_CONTEXT.search(said) or failed.status == 413:
            return "over_context"
    return "unanswered" if failed.inside and not _for_all(failed) else None


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds until the next try: what the endpoint asks for (Retry-After), or else BACKOFF's."""
    asked = state.outcome.exception().after
    return min(float(asked), LONGEST_WAIT) if asked.replace(".", "", 1).isdigit() else BACKOFF(state)


def _mend(failed: _Failed) -> str:
    if failed.status in (401, 403):
        return "check OPENAI_API_KEY"
    if failed.status == 402 or failed.code == "insufficient_quota":
        return "the account has no credit or quota left: add some and run again, what was answered is kept"
    if failed.status == 200 and not failed.inside:
        return "check OPENAI_BASE_URL, which often ends in /v1"
    if failed.status in (None, 404):
        return "check OPENAI_BASE_URL and the model's name"
    if failed.inside or failed.status in (408, 429) or failed.status >= 500:
        return f"it stayed so for {TRIES} tries; run again later, what was answered is kept"
    return "change the request; what was answered is kept"
