"""Fixtures that several files of tests share. What they are made of stands in the file that each imports from, when it
is asked for, so that tests without them load nothing of it."""

import pytest


@pytest.fixture
def endpoint(monkeypatch):
    """A scripted server on loopback, and an environment that points to it."""
    import tenacity

    from densereward.labels import llm
    from test_llm import KEY, Endpoint

    found = Endpoint()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(llm, "BACKOFF", tenacity.wait_none())
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved policy; one token in seven ends a response, so that lengths differ."""
    import torch

    from densereward.text.models import tiny_llama
    from test_baselines import TOKENIZER

    path = tmp_path_factory.mktemp("policy")
    torch.manual_seed(0)
    model = tiny_llama(TOKENIZER, 32, 1)
    model.generation_config.eos_token_id = [TOKENIZER.eos_token_id, *range(100, 140)]
    model.save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def small():
    """(tokenizer, model, answers as `answer_rewards.answers` gives them)."""
    import torch

    from densereward.text.models import build_tokenizer, tiny_llama
    from densereward.text.tokens import tokenize_prompt, tokenize_response
    from test_constants import some_answers
    from testbed import build, oracle

    frame = some_answers(20)
    tokenizer = build_tokenizer([*frame.prompt, *frame.text], 300)
    torch.manual_seed(0)
    frame["prompt_ids"] = [tokenize_prompt(tokenizer, build.messages(p)) for p in frame.prompt]
    frame["completion_ids"] = [tokenize_response(tokenizer, t) for t in frame.text]
    frame["true_return"] = [oracle.true_return(p, t) for p, t in zip(frame.prompt, frame.text)]
    return tokenizer, tiny_llama(tokenizer, width=16, layers=1).eval(), frame
