"""Labels per token without a person: a reviser mends an answer, and an edit distance says which tokens changed.

revision.py         what a reviser is, and what it failed at
clauses.py          a reviser that has the text alone
llm.py              the client of an endpoint; replies are kept before they are used
replies.py          what an endpoint said
budget.py           what may be spent on one, and what was
revision_prompt.py  a reviser behind an endpoint: prompt, strict parsing
labeling.py         edit labels and synthetic pairs of revisions
"""
