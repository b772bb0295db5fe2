"""What a GPU is for: the ceiling of its matrix products, half a billion weights under PPO, bfloat16, DeepSpeed.

Model FLOP utilisation (MFU) is against the product that was measured here, not a data sheet. Operations: 2 N a token
forward, 6 N forward and back (N weights; attention over positions is not counted, nor what checkpointing repeats).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from ppo import EPOCHS, made
from turns import CUDA, DEVICE, Child, in_turns, of, ratios, row, seconds

ROOT = Path(__file__).resolve().parents[1]
HALF_BILLION = {"model": [32_000, 1024, 28, 4096], "dtype": "bfloat16", "prompt": 1021, "length": 1024, "full": True}
LAUNCHED = "import sys; from densereward.training.launch import launch; launch(sys.argv[2:], sys.argv[1], processes=1)"


def product(size: int, turns: int = 10) -> list[float]:
    """TFLOP/s of a square matrix product, bfloat16 on a GPU."""
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16 if CUDA else torch.float32) for _ in range(2))
    a @ b
    return [2 * size**3 / seconds(lambda: a @ b) / 1e12 for _ in range(turns)]


def ceiling(size: int = 8192) -> list[dict]:
    """What the machine's matrix products reach."""
    return [row(f"product of {size} x {size}, TFLOP/s", product(size), sizes={"size": size})]


def resident(turns: int = 1, size: int = 8192, batch: int = 16, micro: int = 4, **sizes) -> Iterator[dict]:
    """Segment PPO of a random Llama with policy, critic, reference, scorer and both optimisers on one device."""
    spec = HALF_BILLION | {"batch": batch, "micro": micro} | sizes
    (rounds,) = in_turns(turns, Child("ppo.py", trainer="ours", row="segment", **spec))
    best, weights = max(product(size)), sum(p.numel() for p in made(spec["model"])[0].parameters())
    read = batch * (rounds[0]["prompt"] + spec["length"])  # tokens
    operations = {  # of a round: 2 a weight and token
        "sampling": 2 * weights * read,
        "scoring": 4 * 2 * weights * read,  # policy, critic, reference, scorer
        "updates": EPOCHS * 2 * 6 * weights * read,  # policy, critic
    }
    spent = {"sampling": "seconds_generate", "scoring": "seconds_score", "updates": "seconds_update"}
    name, facts = f"{weights / 1e9:.2f} B weights, {rounds[0]['prompt']} + {spec['length']} tokens", {"sizes": spec}
    yield row(f"{name}: answers' tokens a second", [r["tokens"] / r["seconds"] for r in rounds], **facts)
    for part, count in operations.items():
        found = [count / r[spent[part]] / 1e12 / best for r in rounds]
        yield row(f"{name}: MFU of {part}", found, ceiling_tflops=best, seconds=of(rounds, spent[part]))
    yield row(f"{name}: peak memory, GiB", [r["peak"] / 1024 for r in rounds])


def half(turns: int = 2, **spec) -> list[dict]:
    """The same step in bfloat16 and in float32."""
    low, full = in_turns(
        turns, *(Child("ppo.py", trainer="ours", row="segment", **spec | {"dtype": t}) for t in ("bfloat16", "float32"))
    )
    rates = [[r["tokens"] / r["seconds"] for r in rounds] for rounds in (low, full)]
    peaks = [max(of(rounds, "peak")) for rounds in (low, full)]
    found = [row("a step in bfloat16: tokens a second over float32's", ratios(*rates), sizes=spec)]
    return [
        *found,
        row("a step in bfloat16: peak memory over float32's", ratios(*[[p] for p in peaks]), peaks_mib=peaks),
    ]


def engines(names=("zero2", "zero3")) -> Iterator[dict]:
    """PPO under DeepSpeed, one process on one device, against the same without: the largest difference in a curve."""
    from densereward.text.models import build_tokenizer, scorer_from, tiny_llama

    script = str(ROOT / "tests" / "dist" / "train_ppo.py")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer(["the cat sat on the mat", "a dog and a cat", "on and on and on"], 280)
        torch.manual_seed(0)
        policy, reference = tiny_llama(tokenizer, 32, 2), tiny_llama(tokenizer, 32, 2)
        for name, model in {"policy": policy, "ref": reference, "critic": scorer_from(policy)}.items():
            model.save_pretrained(f"{folder}/{name}")
        tokenizer.save_pretrained(f"{folder}/policy")
        env = os.environ | ({} if CUDA else {"DS_ACCELERATOR": "cpu"})
        facts = {}
        for name in ("alone", *names):  # a launch takes half a minute: each is told as it ends
            line = [script, folder, f"{folder}/{name}", "8"]
            if name != "alone":  # the script does not clip, as DeepSpeed clips otherwise than one process does
                config = (ROOT / "configs" / f"{name}.yaml").read_text().splitlines()
                config = [text for text in config if "gradient_clipping" not in text]
                Path(folder, f"{name}.yaml").write_text("\n".join(config))
                line = ["-c", LAUNCHED, f"{folder}/{name}.yaml", *line]
            done = subprocess.run([sys.executable, *line], env=env, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name}: {(done.stderr + done.stdout)[-3000:]}")
            facts[name] = json.loads(Path(folder, name, "facts.json").read_text())
            if name == "alone":
                continue
            assert facts[name]["engine"] == "DeepSpeedEngine", facts[name]["engine"]
            pairs = zip(facts[name]["curves"], facts["alone"]["curves"], strict=True)
            gap = max(abs(a[what] - b[what]) for a, b in pairs for what in ("kl", "value_loss"))
            yield row(f"DeepSpeed {name} on one device: difference of KL and value loss", [gap], ("most", 1e-3))
