"""A budget of the endpoint: passing it, stopping with nothing to show, saying a price that nobody gave."""

import io
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from densereward import progress
from densereward.labels.budget import Budget
from densereward.labels.llm import Chat, LLMError
from densereward.labels.revision import revise_rows
from densereward.labels.revision_prompt import llm_reviser
from test_llm import completion, failure, wrapped

PRICES = {"m": {"input": 0.5, "output": 2}}


def used(text: str, tokens_in: int = 100, tokens_out: int = 50):
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    return completion(text, usage=usage)


def ask(chat: Chat, i: int) -> str:
    return chat.ask([{"role": "user", "content": str(i)}]).text


@pytest.mark.parametrize(
    "limit, answered", [({"requests": 3}, 3), ({"tokens": 400}, 3), ({"money": 0.0004, "prices": PRICES}, 3)]
)
def test_a_spent_budget_stops_and_what_was_answered_is_kept(endpoint, tmp_path, limit, answered):
    endpoint.reply = lambda body: used("hello")
    chat = Chat("m", tmp_path / "c", budget=Budget(**limit))
    assert [ask(chat, i) for i in range(answered)] == ["hello"] * answered
    (name, most), *_ = limit.items()
    with pytest.raises(LLMError, match=rf"budget of {most:g} {name} is spent \(3 requests, 450 tokens.*run again"):
        ask(chat, answered)
    assert len(endpoint.requests) == answered and ask(chat, 0) == "hello", "what is kept costs nothing"
    more = Chat("m", tmp_path / "c", budget=Budget(requests=1))
    assert [ask(more, i) for i in range(answered + 1)] == ["hello"] * (answered + 1)


def test_many_threads_and_two_clients_make_no_request_beyond_it(endpoint, tmp_path):
    endpoint.reply = lambda body: used("hello")
    budget = Budget(requests=10)
    chats = [Chat("m", tmp_path / "c", budget=budget), Chat("other", tmp_path / "c", budget=budget)]
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, chats[i % 2], i) for i in range(30)]
        stopped = sum(isinstance(found.exception(), LLMError) for found in asked)
    assert (len(endpoint.requests), stopped) == (10, 20)


def test_retries_count_and_what_was_paid_for_without_an_answer_does_too(endpoint, tmp_path):
    status, headers, empty = used("")
    endpoint.answers += [failure(429), (status, headers, empty | {"choices": [{}]}), used("hello")]
    chat = Chat("m", tmp_path / "c", budget=Budget(requests=9, prices=PRICES))
    assert ask(chat, 0) == "hello"
    assert str(chat.budget) == "3 requests, 300 tokens, 0.0003 paid"
    endpoint.answers += [failure(500)] * 6
    with pytest.raises(LLMError, match="stayed so"):
        ask(chat, 1)
    with pytest.raises(LLMError, match="budget of 9 requests is spent"):
        ask(chat, 2)


def test_what_cannot_be_kept_to_is_refused(endpoint, tmp_path):
    for limit in ({"requests": -1}, {"tokens": "many"}, {"money": float("nan")}):
        with pytest.raises(ValueError, match="budget of .* give a number, 0 or more"):
            Budget(**limit)
    for prices in (None, {"m": {"input": 1}}, {"m": {"input": "1", "output": "much"}}):
        with pytest.raises(ValueError, match="no price of model 'm'; give prices like .*per million tokens"):
            Chat("m", tmp_path / "c", budget=Budget(money=1, prices=prices))
    endpoint.answers += [completion("hello")]
    chat = Chat("m", tmp_path / "c", budget=Budget(tokens=1000))
    assert ask(chat, 0) == "hello", "an endpoint that tells no tokens: paid for, so kept"
    with pytest.raises(LLMError, match="does not say how many tokens it takes; limit requests, not tokens"):
        ask(chat, 1)
    assert len(endpoint.requests) == 1


def test_the_progress_of_revisions_says_what_was_spent(endpoint, tmp_path, monkeypatch):
    told = io.StringIO()
    monkeypatch.setattr(progress, "DELAY", 1e-9)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=told))
    endpoint.reply = lambda body: (*wrapped("a plum")[:2], wrapped("a plum")[2] | {"usage": used("")[2]["usage"]})
    rows = [{"prompt": [], "chosen": [{"content": "c"}], "rejected": [{"content": str(i)}]} for i in range(3)]
    revise_rows(llm_reviser(Chat("m", tmp_path / "c", budget=Budget(prices=PRICES))), rows)
    lines = told.getvalue().splitlines()
    assert any(line.startswith("revisions, 3 requests, 450 tokens, 0.00045 paid: 3 of 3") for line in lines), lines
    assert all(progress.LINE.fullmatch(line) for line in lines)
