"""Models of two layers that every distributed test starts from."""

import pytest
import torch

from densereward.text.models import build_tokenizer, scorer_from, tiny_llama


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = build_tokenizer(["the cat sat on the mat", "a dog and a cat", "on and on and on"], 280)
    torch.manual_seed(0)
    policy, ref = tiny_llama(tokenizer, 32, 2), tiny_llama(tokenizer, 32, 2)
    for name, model in {"policy": policy, "ref": ref, "critic": scorer_from(policy)}.items():
        model.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "policy")
    return folder
