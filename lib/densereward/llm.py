"""Replies of an OpenAI-compatible endpoint, each paid for once.

The endpoint and its key come from the environment alone (OPENAI_BASE_URL, OPENAI_API_KEY) and go nowhere else: not into
the cache, a log or an error. A reply is on disk before anyone sees it, under model, messages, sampling parameters and
attempt, so whatever was paid for survives a crash, and a re-run from a full cache needs neither key nor network.

Left out: streaming, tools, batch endpoints, a price list. Whether the same question gets the same reply is the
endpoint's affair; from the cache it does.
"""

import hashlib
import json
import logging
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import BoundedSemaphore, Lock

import openai
import tenacity

from densereward.records import canonical

TRIES = 6  # HTTP requests per question, while they fail for reasons that may pass
BACKOFF = tenacity.wait_random_exponential(multiplier=1, max=60)  # seconds, where the endpoint does not say
LONGEST_WAIT = 120.0  # seconds, where it does
TIMEOUT = 300.0  # seconds per HTTP request
LOCK_SECONDS = 30.0  # how long another process may hold the cache
SECRET_LENGTH = 8  # a shorter key ("none", for a local server) is no secret, and may be a word of a reply
MENDS = {  # by the start of SQLite's name for the problem
    "SQLITE_BUSY": "another process holds it: wait until that one ends",
    "SQLITE_FULL": "free some space; a reply that could not be kept will be asked for again",
    "SQLITE_IOERR": "look after the disk; a reply that could not be kept will be asked for again",
    "SQLITE_CORRUPT": "restore it from a copy, or move it away and have its replies asked for again",
    "SQLITE_NOTADB": "restore it from a copy, or move it away and have its replies asked for again",
}


class LLMError(RuntimeError):
    """The endpoint or the reply cache cannot be used; the text says what to mend."""


class Chat:
    """Questions to one model with one set of sampling parameters (`temperature=0`, as the endpoint names them; none
    are sent unless given). At most `concurrency` requests are under way, however many threads ask.

    `counts`: requests (HTTP), retries among them, cached (answered from disk). Creates the cache file and its folder.
    """

    def __init__(self, model: str, cache: str | Path, concurrency: int = 8, **sampling):
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; allow one request at a time at least")
        self.model, self.cache, self.concurrency, self.sampling = model, Path(cache), concurrency, sampling
        self.counts: Counter = Counter()
        self._slots, self._lock, self._turns = BoundedSemaphore(concurrency), Lock(), defaultdict(Lock)
        self._client: openai.OpenAI | None = None
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, question TEXT, reply TEXT NOT NULL)")

    def ask(self, messages: list[dict], attempt: int = 0) -> str:
        """The reply to these messages, from the cache or else from the endpoint and then in the cache.

        `attempt` numbers further askings of the same question, whose first reply was of no use. Raises LLMError."""
        question = {"model": self.model, "messages": messages, "sampling": self.sampling, "attempt": attempt}
        question = canonical(question, "question")
        key = hashlib.sha256(question.encode()).hexdigest()
        with self._lock:
            turn = self._turns[key]
        with turn:  # of two threads with one question the second finds the first one's reply
            reply = self._read(key)
            if reply is not None:
                self._count("cached")
                return reply
            with self._slots:
                reply = self._fetch(messages)
            with self._open() as db:  # what another process stored meanwhile stays
                db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", (key, question, reply))
            return self._read(key)

    def _fetch(self, messages: list[dict]) -> str:
        client = self._connect()

        def post():
            self._count("requests")
            return client.chat.completions.create(model=self.model, messages=messages, **self.sampling)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=_wait,
            stop=tenacity.stop_after_attempt(TRIES),
            before_sleep=lambda state: self._count("retries"),
            reraise=True,
        )
        reply, problem = None, "got no chat completion; check OPENAI_BASE_URL, which often ends in /v1"
        try:
            reply = _text(retrying(post))
        except openai.OpenAIError as error:
            problem = f"{self._hide(str(error))[:300]}; {_mend(error)}"
        except (json.JSONDecodeError, UnicodeDecodeError):
            pass
        if reply is None:  # out of the handler: the library's exceptions hold request and headers
            raise LLMError(f"model {self.model!r}: {problem}")
        return self._hide(reply)

    def _connect(self) -> openai.OpenAI:
        with self._lock:
            if self._client is None:
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
                self._client = openai.OpenAI(api_key=key, base_url=url, timeout=TIMEOUT, max_retries=0)
            return self._client

    def _hide(self, text: str) -> str:
        """The text without key and address, should an endpoint repeat them."""
        secrets = {self._client.api_key: "[key]", str(self._client.base_url).rstrip("/"): "[address]"}
        for secret, instead in secrets.items():
            text = text.replace(secret, instead) if len(secret) >= SECRET_LENGTH else text
        return text

    def _read(self, key: str) -> str | None:
        with self._open() as db:
            row = db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return row and row[0]

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

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def _text(completion) -> str | None:
    """The reply in what the endpoint sent ("" for a refusal), None where that is no chat completion. Half a surrogate
    pair, which no file can hold, becomes a question mark."""
    choices = getattr(completion, "choices", None)
    text = getattr(getattr(choices[0], "message", None), "content", 0) if choices else 0
    text = "" if text is None else text
    return text.encode(errors="replace").decode() if isinstance(text, str) else None


def _may_pass(error: BaseException) -> bool:
    """Whether asking again may help: rate limits, timeouts, lost connections, 5xx; not a used-up quota."""
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        return status in (408, 429) and error.code != "insufficient_quota" or status >= 500
    return isinstance(error, openai.APIConnectionError)


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds until the next try: what the endpoint asks for (Retry-After), or else BACKOFF's."""
    response = getattr(state.outcome.exception(), "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    return min(float(asked), LONGEST_WAIT) if asked.replace(".", "", 1).isdigit() else BACKOFF(state)


def _mend(error: openai.OpenAIError) -> str:
    status = getattr(error, "status_code", None)
    if status in (401, 403):
        return "check OPENAI_API_KEY"
    if status == 404 or status is None:
        return "check OPENAI_BASE_URL and the model's name"
    if status == 429 or status >= 500:
        return f"it stayed so for {TRIES} tries, or a quota is used up; run again later, what was answered is kept"
    return "change the request; what was answered is kept"
