"""Replies of an OpenAI-compatible endpoint, each paid for once.

The endpoint and its key come from the environment alone (OPENAI_BASE_URL, OPENAI_API_KEY) and go nowhere else: not into
the cache, a log or an error. A question is claimed in the cache before it is paid for, so of many threads and processes
one pays and the others wait; a claim ends with its reply, or LEASE seconds after its holder was killed. A reply is on
disk before anyone sees it, under model, messages, sampling parameters and attempt, so whatever was paid for survives a
crash, and a re-run from a full cache needs neither key nor network.

What concerns one question alone (`replies.OUTCOMES`) is that question's outcome; what concerns all of them raises
LLMError, a spent budget too. Left out: streaming, batch endpoints; of a tool call there is the text of its arguments.
Whether the same question gets the same reply is the endpoint's affair; from the cache it does.

Book: tlcr.md
"""

import asyncio
import hashlib
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

import httpx2
import openai
import tenacity

from densereward.canonical import canonical
from densereward.labels.budget import Budget
from densereward.labels.replies import (
    Failed,
    LLMError,
    Reply,
    may_pass,
    mend_of,
    outcome_of,
    read_body,
    told,
    usage,
    without_thoughts,
)

TRIES = 6  # HTTP requests per question, while they fail for reasons that may pass
BACKOFF = tenacity.wait_random_exponential(multiplier=1, max=60)  # seconds, where the endpoint does not say
LONGEST_WAIT = 120.0  # seconds, where it does
TIMEOUT = 300.0  # seconds per HTTP request, from its start to the last byte of the reply
IN_A_ROW = 10  # questions without an answer: then it is the endpoint, not the questions
LEASE, POLL = 30.0, 0.2  # seconds that a claim lasts unless renewed, and between looks at another's claim
LOCK_SECONDS = 30.0  # how long another process may hold the cache
SECRET_LENGTH = 8  # a shorter key ("none", for a local server) is no secret, and may be a word of a reply
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
    "paid (key TEXT NOT NULL, at REAL NOT NULL, told TEXT NOT NULL)",  # every body that came, by `replies.told`
)
CLAIM = """INSERT INTO claims VALUES (:key, :owner, :until)
    ON CONFLICT (key) DO UPDATE SET owner = :owner, until = :until WHERE owner = :owner OR until < :now"""


class Chat:
    """Questions to one model with one set of sampling parameters (`temperature=0`, as the endpoint names them; none
    are sent unless given). At most `concurrency` requests are under way, however many threads ask. With `logprobs=True`
    a reply's text is JSON, per token the likeliest words in its place: [{word: log-probability in nats}].

    `counts`: requests (HTTP), retries among them, cached (answered from disk), outcomes by name. `budget` ends what is
    paid for; several may share one. Creates the cache file and its folder.
    """

    def __init__(self, model: str, cache: str | Path, concurrency: int = 8, budget: Budget | None = None, **sampling):
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; allow one request at a time at least")
        self.budget = budget or Budget()
        self.budget.price(model)
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
        work = self._pool.submit(self._fetch, messages, key)
        while not wait([work], LEASE / 3).done:
            with suppress(LLMError):  # at worst another process pays too
                self._claim(key, owner)
        return work.result()

    def _fetch(self, messages: list[dict], key: str) -> Reply:
        self._connect()

        def post() -> Reply:
            self.budget.request()
            self._count("requests")
            status, body, failed = asyncio.run(self._post(messages))
            self.budget.pay(self.model, usage(body))
            if status:
                row = key, time.time(), self._without_secrets(told(body, status))
                with self._open() as db:
                    db.execute("INSERT INTO paid VALUES (?, ?, ?)", row)
            if failed:
                raise failed
            return read_body(body, bool(self.sampling.get("logprobs")))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(may_pass),
            wait=_wait,
            stop=tenacity.stop_after_attempt(TRIES),
            before_sleep=lambda state: self._count("retries"),
            reraise=True,
        )
        reply, problem = Reply(""), None
        try:
            reply = retrying(post)
        except Failed as failed:
            problem = f"model {self.model!r}: {self._hide(failed.said)[:300]}; {mend_of(failed, TRIES)}"
            reply = Reply("", outcome_of(failed))
        if problem and reply.outcome is None:  # out of the handler: what was said may hold the key
            raise LLMError(problem)
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if reply.outcome == "unanswered" else 0
            if self._in_a_row >= IN_A_ROW:
                raise LLMError(f"{self._in_a_row} questions in a row without an answer; {problem}")
        if reply.outcome == "unanswered":
            logging.getLogger(__name__).warning(problem)
        return reply._replace(text=self._without_secrets(reply.text))

    async def _post(self, messages: list[dict]) -> tuple[int | None, bytes, Failed | None]:
        """(status, body, None) of what came, with Failed for another status; (None, b"", Failed) where nothing did.
        Never an exception that holds the request with its key."""
        http = openai.DefaultAsyncHttpxClient(verify=self._tls)
        settings = {"api_key": self._key, "base_url": self._url, "timeout": TIMEOUT, "max_retries": 0}
        try:
            async with asyncio.timeout(TIMEOUT), openai.AsyncOpenAI(http_client=http, **settings) as client:
                create = client.chat.completions.with_raw_response.create
                came = await create(model=self.model, messages=messages, **self.sampling)
                return came.status_code, came.content, None
        except openai.APIStatusError as error:
            after = error.response.headers.get("retry-after", "")
            failed = Failed(str(error), error.status_code, error.code, after)
            return error.status_code, error.response.content, failed
        except (TimeoutError, openai.APITimeoutError):
            return None, b"", Failed(f"no whole reply within {TIMEOUT:g} seconds")
        except openai.OpenAIError as error:
            return None, b"", Failed(str(error))

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


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds until the next try: what the endpoint asks for (Retry-After), or else BACKOFF's."""
    asked = state.outcome.exception().after
    return min(float(asked), LONGEST_WAIT) if asked.replace(".", "", 1).isdigit() else BACKOFF(state)
