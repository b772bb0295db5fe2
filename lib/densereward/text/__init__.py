"""Conversations to token ids, and what a causal model says of them.

data.py      preference pairs from files: checks, splits
formats.py   records as others release them
tokens.py    conversations to token ids and padded batches
offsets.py   which characters each token stands for, on any tokenizer
models.py    tokenizer, tiny Llama, token scorer (reward model and critic)
adapters.py  low-rank adapters, merged into what is saved
logprobs.py  log-probability and entropy in one pass, no [B, T, V] tensor
replay.py    a decode step as a CUDA graph
sampling.py  sampled completions, and the batches that reward functions take
"""
