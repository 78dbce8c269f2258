# Every command a person types. `make` alone lists them.

CONFIG ?= $(or $(SYNCREC_CONFIG),syncrec.toml)
JOBS := .venv/jobs/bin
AIRFLOW_VERSION := 3.3.2
PRODUCTION := apache-airflow[celery,fab,postgres]==$(AIRFLOW_VERSION)
BENCH_LIBRARY := rectools[torch]==0.19.0
BENCH_RANKER := faiss-cpu==1.15.1
DOCS_TOOLS := sphinx myst-parser furo
SQL_FILES := $(wildcard sql/*.sql sql/*/*.sql)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup nightly up down sql test test-nights test-backfill bad-input chaos test-lost test-cluster test-registry lint format docs clean distclean constraints
.PHONY: env stack-test audit
.PHONY: bench-train bench-planted bench-catalogue bench-sampled bench-quality bench-sweep bench-data bench-score bench-score-night bench-nights

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## both environments and Java; the other commands do it by themselves
	@sh -c "$$SETUP" setup

nightly: setup ## the main job: run the next night (first: history, then two); CONFIG=my.toml NIGHTS=3
	@$(JOBS)/python -m jobs.nightly --config "$(CONFIG)" $(if $(NIGHTS),--nights "$(NIGHTS)")

up: setup ## start the web pages of Airflow, MLflow and the nights; AIRFLOW_PORT=8080 MLFLOW_PORT=5000 REPORTS_PORT=8090
	@$(JOBS)/python -m jobs.pages up --config "$(CONFIG)" --mlflow-port "$(or $(MLFLOW_PORT),5000)" \
	    --airflow-port "$(or $(AIRFLOW_PORT),8080)" --reports-port "$(or $(REPORTS_PORT),8090)"

down: ## stop the web pages
	@$(JOBS)/python -m jobs.pages down --config "$(CONFIG)"

sql: setup ## DuckDB with all tables attached; Q=sql/queries/ntg_by_day.sql runs one query, AS_OF=2024-01-29 reads that night
	@$(JOBS)/python -m jobs.query --config "$(CONFIG)" $(if $(AS_OF),--as-of "$(AS_OF)") $(if $(Q),"$(Q)")

test: setup ## all tests, in two processes; TESTS=tests/dags runs some, in one
	@$(JOBS)/python -m pytest $(or $(TESTS),-n 2 --dist loadfile --no-loadscope-reorder)

test-nights: setup ## the whole-night test with a second night, of a champion alone; a night on old state: minutes
	@SYNCREC_TEST_NIGHTS=2 $(JOBS)/python -m pytest tests/night tests/upgrade tests/jobs/test_class_archive.py

test-backfill: setup ## three nights, then past ones again: which days change, which version scores: many minutes
	@SYNCREC_TEST_BACKFILL=1 $(JOBS)/python -m pytest tests/night/test_backfill.py

bad-input: setup ## every kind of bad input through whole ingestions, and the count of kinds and outcomes: minutes
	@SYNCREC_TEST_BAD_INPUT=1 $(JOBS)/python -m pytest tests/jobs/test_bad_input.py tests/jobs/test_bad_settings.py \
	    tests/jobs/test_readers_fuzz.py tests/jobs/test_giant_user.py

chaos: setup ## kill every step of a night at random moments, run it again, compare; STEPS="train score" KILLS=20 SEED=0
	@$(JOBS)/python -m tests.chaos $(if $(STEPS),--steps $(STEPS)) $(if $(KILLS),--kills "$(KILLS)") \
	    $(if $(SEED),--seed "$(SEED)")

test-lost: setup ## a full disk, MLflow or the catalog away, races of runs, a backfill and a rollback: many minutes
	@SYNCREC_TEST_LOST=1 $(JOBS)/python -m pytest -s tests/chaos/test_lost.py tests/chaos/test_races.py

test-cluster: setup ## whole nights on a Spark cluster of two workers, one of them killed: minutes
	@SYNCREC_TEST_CLUSTER=1 $(JOBS)/python -m pytest -s tests/night/test_cluster.py

test-registry: setup ## a registered model in a fresh environment of mlflow and its requirements: minutes, 2 GB
	@SYNCREC_TEST_REGISTRY=1 $(JOBS)/python -m pytest tests/jobs/test_registry_alone.py

stack-test: setup ## the services of docker-compose.yml as processes of this machine, and a night through them: many minutes
	@sh -c "$$SETUP" production
	@SYNCREC_TEST_STACK=1 $(JOBS)/python -m pytest -s tests/deploy/test_stack.py

audit: ## known weaknesses of all pinned packages, by pip-audit; exit code 3: nobody could be asked
	@sh -c "$$SETUP" audit
	@.venv/audit/bin/python deploy/audit.py constraints/jobs.txt constraints/orchestrator.txt constraints/production.txt

env: ## write .env for docker-compose.yml with random secrets; never overwrites (docs/deploy.md)
	@python3 deploy/make_env.py

lint: setup ## ruff, mypy, sqlfluff, and the rules of the model's files (length, shape letters): what CI checks
	$(JOBS)/ruff check .
	$(JOBS)/ruff format --check .
	$(JOBS)/mypy
	$(if $(SQL_FILES),$(JOBS)/sqlfluff lint sql)
	@$(JOBS)/python -m pytest -q --durations=0 --durations-min=60 --no-header -k 'short or legend' tests/syncrec_model/test_model_page.py
	@if git grep -nE '^(<<<<<<<|>>>>>>>) ' 2>/dev/null; then echo 'error: what a merge left is still in these files' >&2; exit 1; fi

format: setup ## let ruff and sqlfluff mend what they can
	$(JOBS)/ruff check --fix .
	$(JOBS)/ruff format .
	$(if $(SQL_FILES),$(JOBS)/sqlfluff fix sql)

docs: ## build the pages into var/docs; a link that leads nowhere is an error
	@sh -c "$$SETUP" docs
	@.venv/docs/bin/python -m sphinx -q -n -W --keep-going -b html docs var/docs
	@echo "var/docs/index.html"

bench-train: setup ## training speed beside the released code; RELEASED=../SyNCRec SHAPES="r64.a5" ROUNDS=3 DEVICE=cuda
	@sh -c "$$SETUP" bench || echo "bench-train goes on without the SASRec of the kept library"
	@$(JOBS)/python -m benchmarks.train $(if $(RELEASED),--released "$(RELEASED)") $(if $(SHAPES),--shapes $(SHAPES)) \
	    $(if $(ROUNDS),--rounds "$(ROUNDS)") $(if $(DEVICE),--device "$(DEVICE)") $(if $(BATCH),--batch "$(BATCH)") \
	    $(if $(EPOCHS),--whole-epochs "$(EPOCHS)")

bench-catalogue: setup ## 1,000,000 items in five domains: memory, users/s, where the time goes; five minutes
	@$(JOBS)/python -m benchmarks.large_catalogue

bench-score: setup ## the best 100 of up to 1 M items, beside FAISS and RecTools; SIZES="10k 100k" ROUNDS=5 SHRINK=20
	@sh -c "$$SETUP" bench || echo "bench-score goes on without the rows of the kept libraries"
	@$(JOBS)/python -m benchmarks.score $(if $(SIZES),--sizes $(SIZES)) $(if $(ROUNDS),--rounds "$(ROUNDS)") \
	    $(if $(SHRINK),--shrink "$(SHRINK)")

bench-score-night: setup ## the scoring job around the kernel, and a night on which 1 % changed; USERS=20000 TOP=100 ROUNDS=3
	@$(JOBS)/python -m benchmarks.score_night $(if $(USERS),--users "$(USERS)") $(if $(ITEMS),--items "$(ITEMS)") \
	    $(if $(TOP),--top_n "$(TOP)") $(if $(CHANGED),--changed "$(CHANGED)") $(if $(ROUNDS),--rounds "$(ROUNDS)")

bench-sampled: setup ## sampled against full softmax in quality, on set A5; DATA=folder of interactions.parquet
	@$(JOBS)/python -m benchmarks.sampled_softmax $(if $(DATA),--data "$(DATA)") $(if $(EPOCHS),--epochs "$(EPOCHS)")

bench-quality: setup ## every system on set A5, or on LOG=log.parquet: hours, resumable; QUICK=1 ROWS="default" SEEDS=5 SPLIT=time PEERS=../peers
	@sh -c "$$SETUP" bench || echo "bench-quality goes on without the rows of the kept library"
	@$(JOBS)/python -m benchmarks.quality $(if $(QUICK),--quick) $(if $(ROWS),--rows $(ROWS)) \
	    $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(SPLIT),--split "$(SPLIT)") $(if $(DATA),--data "$(DATA)") \
	    $(if $(LOG),--log "$(LOG)") $(LOG_COLUMNS) $(if $(DOMAINS),--domains $(DOMAINS)) $(if $(CORE),--core "$(CORE)") \
	    $(if $(PEERS),--peers "$(PEERS)") $(if $(EPOCHS),--epochs "$(EPOCHS)") $(if $(DEVICE),--device "$(DEVICE)") \
	    $(if $(CORE_MINUTES),--core-minutes "$(CORE_MINUTES)") $(if $(TRIALS),--trials "$(TRIALS)") $(if $(JOBS_AT_ONCE),--jobs "$(JOBS_AT_ONCE)") $(if $(REPORT),--report) \
	    $(if $(RECORD),--record) $(if $(RESTORE),--restore)

bench-sweep: setup ## quality over C, K, j, T, delta, eta, users: hours, resumable; SWEEP="channels eta" SEEDS=2 FULL=1
	@$(JOBS)/python -m benchmarks.quality.sweeps $(if $(SWEEP),--sweeps $(SWEEP)) $(if $(FULL),--full) \
	    $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(DATA),--data "$(DATA)") $(if $(EPOCHS),--epochs "$(EPOCHS)") \
	    $(if $(DEVICE),--device "$(DEVICE)") $(if $(REPORT),--report) $(if $(RECORD),--record) $(if $(RESTORE),--restore)

bench-data: setup ## sequences of generated logs beside DuckDB and others; SIZES="1 5 20 50" ROUNDS=3 QUICK=1 RELEASED=../SyNCRec
	@sh -c "$$SETUP" bench || echo "bench-data goes on without the row of the kept library"
	@$(JOBS)/python -m benchmarks.data $(if $(QUICK),--quick) $(if $(SIZES),--sizes $(SIZES)) \
	    $(if $(ROUNDS),--rounds "$(ROUNDS)") $(if $(ROWS),--rows $(ROWS)) $(if $(FOLDER),--folder "$(FOLDER)") \
	    $(if $(RELEASED),--released "$(RELEASED)") $(if $(FULL_MEMORY),--full-memory "$(FULL_MEMORY)") \
	    $(if $(NIGHT_MEMORY),--night-memory "$(NIGHT_MEMORY)")

bench-planted: setup ## does NTG find what the sample planted? hours, resumable; SEEDS=5 EPOCHS=12 VARIANTS="uniform no-mim"
	@$(JOBS)/python -m benchmarks.planted_transfer $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(EPOCHS),--epochs "$(EPOCHS)") \
	    $(if $(VARIANTS),--variants $(VARIANTS))

bench-nights: setup ## sixty nights of small days with weekly maintenance: files, time, reading; NIGHTS=15 USERS=300
	@$(JOBS)/python -m benchmarks.sixty_nights $(if $(NIGHTS),--nights "$(NIGHTS)") $(if $(USERS),--users "$(USERS)")

clean: ## remove var/: all tables, models, logs and reports of the projects that live there, not their landing days
	@if [ -x $(JOBS)/python ]; then $(JOBS)/python -m jobs.pages down --config "$(CONFIG)" >/dev/null 2>&1 || :; fi
	@rm -rf var/sample
	@if [ -d var ]; then \
	    find var/ -name landing -prune -exec echo "kept {}: days that were delivered" \; \
	        -o ! -type d -exec rm -f {} +; \
	    find var/ -depth -type d -empty ! -path '*/landing*' -delete; \
	fi

distclean: clean ## remove the environments, too
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis syncrec.egg-info

constraints: ## resolve all versions anew and write constraints/*.txt
	@sh -c "$$SETUP" constraints

# --- set-up -------------------------------------------------------------------------------------------
# A stamp in each environment holds the checksum of what it was made from: equal, and there is nothing to do.
# It is taken away while pip works, so that an interrupted installation is made anew.

define SETUP
set -eu

say() { printf '%s\n' "$$*"; }
fail() { printf 'error: %s\n' "$$*" >&2; exit 1; }

# find_python: sets $$python to one that really runs (a version manager's shim may exist and do nothing).
find_python() {
    near=''
    if [ -n "$${PYTHON:-}" ]; then set -- "$$PYTHON"; else set -- python3.11 python3.12 python3 python; fi
    for python in "$$@"; do
        version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        case $$version in
            3.11 | 3.12)
                if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
                    install_debian "python$$version-venv" || :
                fi
                "$$python" -c 'import ensurepip, venv' 2>/dev/null && return 0
                near="$$python $$version without its venv module (Debian: apt-get install python$$version-venv)"
                ;;
            *) near=$${near:-"$$python $$version"} ;;
        esac
    done
    fail "needs Python 3.11 or 3.12, found $${near:-none that runs}. Install one, or name it: make PYTHON=/path/to/python3.11"
}

# install_debian PACKAGE...: the first one that installs; only where we may.
install_debian() {
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ "$$(id -u)" = 0 ]; then root=''; elif sudo -n true 2>/dev/null; then root='sudo -n'; else return 1; fi
    say "installing $$1 with apt-get ..."
    $$root apt-get update -qq >/dev/null 2>&1 9>&- || :
    for package in "$$@"; do
        $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$package" \
            >/dev/null 2>&1 9>&- && return 0
    done
    return 1
}

# java_runs PROGRAM: is it a Java that Spark 4.1 supports?
java_runs() {
    java_version=$$("$$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "$${java_version:-0}" -ge 17 ] && [ "$$java_version" -le 25 ]
}

find_java() {
    if [ -n "$${JAVA_HOME:-}" ]; then
        java_runs "$$JAVA_HOME/bin/java" && return 0
        fail "JAVA_HOME=$$JAVA_HOME holds $${java_version:+Java }$${java_version:-no Java that runs}; Spark needs Java 17 to 25: point it there, or unset it"
    fi
    java_runs java && return 0
    install_debian openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless && java_runs java && return 0
    fail "needs Java 17 to 25, found $${java_version:-none}. Debian or Ubuntu: sudo apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17"
}

# pip_install LABEL PYTHON ARGUMENT...: quiet, with a sign of life, the output kept in a file.
pip_install() {
    label=$$1 python_here=$$2
    shift 2
    log=.venv/$$label.log
    begun=$$(date +%s)
    "$$python_here" -m pip install --disable-pip-version-check --progress-bar off "$$@" >"$$log" 2>&1 &
    pid=$$!
    trap 'kill $$pid 2>/dev/null; exit 130' INT TERM
    told=0
    while kill -0 $$pid 2>/dev/null; do
        sleep 1
        elapsed=$$(($$(date +%s) - begun))
        if [ $$((elapsed - told)) -ge 15 ]; then
            told=$$elapsed
            doing="$$(grep -c '^Collecting' "$$log" || :) packages found"
            ! grep -q '^Installing collected' "$$log" || doing='unpacking'
            say "  $$label: $$elapsed s, $$doing"
        fi
    done
    if ! wait $$pid; then
        grep -i '^error\|no matching\|no space' "$$log" | tail -n 3 >&2
        fail "pip could not make the $$label environment; its output is in $$log. If the same command fails again: rm -rf .venv/$$label first"
    fi
    trap - INT TERM
    say "  $$label: done in $$(($$(date +%s) - begun)) s"
}

# environment LABEL KEY ARGUMENT...: make .venv/LABEL unless its stamp says that it is as it should be.
environment() {
    label=$$1 key=$$2
    shift 2
    home=.venv/$$label
    stamp=$$home/made-from
    if [ -x "$$home/bin/python" ] && [ "$$(cat "$$stamp" 2>/dev/null)" = "$$key" ]; then return 0; fi
    [ -n "$${python:-}" ] || find_python
    if [ ! -x "$$home/bin/python" ] || [ ! -f "$$stamp" ] || [ "$$(sed 's/.* in //' "$$stamp")" != "$$PWD" ]; then
        if { [ -L .venv ] || [ -L "$$home" ]; } && [ -e "$$home" ] &&
            [ "$$(sed 's/.* in //' "$$stamp" 2>/dev/null)" != "$$PWD" ]; then
            fail ".venv or $$home is a link, and another folder's environment is behind it: remove the link"
        fi
        rm -rf "$$home"
        say "making the $$label environment with $$("$$python" --version) ($$size) ..."
        mkdir -p .venv
        "$$python" -m venv "$$home"
    else
        say "bringing the $$label environment up to date ..."
    fi
    rm -f "$$stamp"
    pip_install "$$label" "$$home/bin/python" "$$@"
    printf '%s' "$$key" >"$$stamp"
}

setup() {
    find_java
    size='3 GB on disk, with torch for CUDA 7 GB: docs/operating.md, The build of torch; some minutes'
    environment jobs "$$(cat pyproject.toml constraints/jobs.txt | cksum) in $$PWD" \
        -c constraints/jobs.txt -e '.[jobs,dev]'
    class_archive
    size='150 MB, about a minute'
    environment orchestrator "$$(cat constraints/orchestrator.txt | cksum) in $$PWD" \
        -c constraints/orchestrator.txt apache-airflow==$(AIRFLOW_VERSION)
}

# class_archive: Spark's classes for the JVM to map. Tried once a Java and an environment: nothing depends on it.
class_archive() {
    java=java
    [ -z "$${JAVA_HOME:-}" ] || java=$$JAVA_HOME/bin/java
    key=$$({ "$$java" -version 2>&1; cat .venv/jobs/made-from; } | cksum)
    [ "$$(cat .venv/jobs/class-archive-for 2>/dev/null)" != "$$key" ] || return 0
    say "keeping Spark's classes where the JVM finds them sooner (180 MB, half a minute to two) ..."
    .venv/jobs/bin/python -m jobs.class_archive || say "  Spark jobs start some seconds slower without"
    printf '%s' "$$key" >.venv/jobs/class-archive-for
}

# production: the Airflow of docker-compose.yml, and PostgreSQL and Redis of Debian, for stack-test.
production() {
    find_python
    for program in /usr/lib/postgresql/*/bin/postgres; do [ -x "$$program" ] || install_debian postgresql || :; done
    command -v redis-server >/dev/null 2>&1 || install_debian redis-server || :
    size='300 MB, some minutes'
    environment production "$$(cat constraints/production.txt | cksum) in $$PWD" \
        -c constraints/production.txt '$(PRODUCTION)'
}

# audit: pip-audit, apart from what it looks at.
audit() {
    size='30 MB, a minute'
    environment audit "$$(cat constraints/audit.txt | cksum) in $$PWD" -c constraints/audit.txt pip-audit
}

# bench: the environment of kept libraries that are rows of benchmarks; they pin other versions than ours.
bench() {
    size='1 GB, a minute or more'
    environment bench "$$(cat constraints/bench.txt | cksum) in $$PWD" -c constraints/bench.txt '$(BENCH_LIBRARY)' '$(BENCH_RANKER)' torch
}

# docs: Sphinx and what it needs, nothing of ours.
docs() {
    find_python
    size='60 MB, half a minute'
    environment docs "$$(cat constraints/docs.txt | cksum) in $$PWD" -c constraints/docs.txt $(DOCS_TOOLS)
}

# freeze LABEL: the versions of a fresh environment under the head of the file that is there.
freeze() {
    file=constraints/$$1.txt
    { sed -n '/^#/p' "$$file"; ".venv/fresh/bin/python" -m pip freeze --exclude-editable | sed 's/+cpu$$//; s/+cu[0-9]*$$//'; } \
        >"$$file.part"
    mv "$$file.part" "$$file"
    rm -rf .venv/fresh
    say "wrote $$file"
}

constraints() {
    find_python
    for label in jobs orchestrator production bench docs audit; do
        rm -rf .venv/fresh
        say "resolving the $$label environment anew ..."
        mkdir -p .venv
        "$$python" -m venv .venv/fresh
        case $$label in
            jobs) set -- -e '.[jobs,dev]' ;;
            orchestrator) set -- apache-airflow==$(AIRFLOW_VERSION) ;;
            production) # the orchestrator's versions; flask-appbuilder wants an older python-dateutil
                grep -v '^python-dateutil==' constraints/orchestrator.txt >.venv/light.txt
                set -- -c .venv/light.txt '$(PRODUCTION)' 'celery<5.7' ;; # Airflow's provider cannot import 5.7
            audit) set -- pip-audit ;;
            docs) set -- $(DOCS_TOOLS) ;;
            bench) set -- '$(BENCH_LIBRARY)' '$(BENCH_RANKER)' "$$(grep '^torch==' constraints/jobs.txt)" ;; # the same torch: a fair row
        esac
        pip_install fresh .venv/fresh/bin/python "$$@"
        freeze $$label
    done
}

# lock: one set-up at a time in this folder; a second one waits, and then finds that there is nothing to do.
# Without flock (macOS) nobody waits. What outlives this shell must not inherit 9.
lock() {
    command -v flock >/dev/null 2>&1 || return 0
    mkdir -p .venv
    exec 9>>.venv/.lock
    flock -n 9 && return 0
    say "another make sees to the environments of this folder; waiting for it ..."
    flock 9
}

lock
"$$0"
endef
export SETUP
