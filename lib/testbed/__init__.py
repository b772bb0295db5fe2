"""A small closed world that knows the true worth of every span of every answer: text in, credit out.

world.py        what can be asked and answered, and what each span is worth
oracle.py       reads any text as spans and credits them
build.py        dialogues, preference pairs with noisy labels, prompts
revise.py       revises answers, with a chosen error rate
gold_steps.py   answers as steps, and what each is worth
truth.py        what only the testbed can tell: levels, flips, boundaries, oracle controls
monte_carlo.py  true advantages of spans
describe.py     the testbed in numbers, for its notebook
"""
