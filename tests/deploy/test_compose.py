"""docker-compose.yml and what belongs to it: valid, closed to the network, without a secret, without root."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from jobs.orchestrator import REPOSITORY
from tests.deploy.compose_file import MissingVariable, filled_in, read, read_env

COMPOSE = REPOSITORY / "docker-compose.yml"
MAKE_ENV = REPOSITORY / "deploy/make_env.py"
DOCKERFILES = sorted((REPOSITORY / "deploy").glob("*Dockerfile"))
SECRET_NAME = re.compile(r"PASSWORD|SECRET|FERNET|TOKEN")
WANTED = {
    "postgres", "redis", "mlflow", "airflow-init", "airflow-api-server", "airflow-scheduler",
    "airflow-dag-processor", "airflow-triggerer", "airflow-worker", "airflow-gpu-worker", "spark-master",
    "spark-worker",
}  # fmt: skip
COMPOSE_SPEC = read(COMPOSE)
SERVICES: dict[str, dict[str, Any]] = COMPOSE_SPEC["services"]


@pytest.fixture(scope="module")
def env_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `make env` writes."""
    folder = tmp_path_factory.mktemp("env")
    made = folder / "deploy/make_env.py"
    made.parent.mkdir()
    made.write_text(MAKE_ENV.read_text())
    subprocess.run([sys.executable, made], check=True, capture_output=True)
    return (folder / ".env").read_text()


@pytest.fixture(scope="module")
def env(env_text: str) -> dict[str, str]:
    return read_env(env_text)


def schema() -> Any:
    """The Compose specification's own schema, as check-jsonschema ships it."""
    package = importlib.util.find_spec("check_jsonschema")
    assert package and package.origin, "check-jsonschema is not installed: run `make setup`"
    vendored = Path(package.origin).parent / "builtin_schemas/vendor/compose-spec.json"
    return json.loads(vendored.read_text(encoding="utf-8"))


def test_the_file_follows_the_compose_specification(env: dict[str, str]) -> None:
    wanted = schema()
    kind = jsonschema.validators.validator_for(wanted)
    kind.check_schema(wanted)
    filled = {key: value for key, value in read(COMPOSE, env).items() if not key.startswith("x-")}
    assert [error.message for error in kind(wanted).iter_errors(filled)] == []
    assert list(kind(wanted).iter_errors({"services": {"a": {"imagee": "b"}}})), "the schema refuses nothing"


def test_all_services_are_there_and_every_image_is_made_here() -> None:
    assert set(SERVICES) == WANTED
    targets = {
        match[1] for file in DOCKERFILES for match in re.finditer(r"^FROM \S+ AS (\w+)$", file.read_text(), re.M)
    }
    for name, service in SERVICES.items():
        assert service["build"]["target"] in targets, name
        assert (REPOSITORY / service["build"]["dockerfile"]).is_file()
        assert re.fullmatch(r"syncrec-\w+:[\d.]+", service["image"]), f"{name}: no pinned tag"


def test_base_images_and_packages_are_pinned() -> None:
    for file in DOCKERFILES:
        text = file.read_text()
        bases = re.findall(r"^ARG \w+_IMAGE=(\S+)$", text, re.M)
        assert bases and all(re.fullmatch(r"[\w./-]+:\d+\.\d+(\.\d+)?-\w+(-\w+)?", base) for base in bases), bases
        stages = re.findall(r"^FROM .* AS (\w+)$", text, re.M)
        for source in re.findall(r"^FROM (\S+)", text, re.M):
            assert source.startswith("${") or source in stages, f"{file.name}: {source}"
        for command in re.findall(r"pip install .*", text):
            assert "--constraint constraints/" in command, command
        assert not re.search(r"^(ADD|COPY) .*https?:|curl|wget", text, re.M), f"{file.name} fetches by itself"


def test_no_container_runs_as_root_or_can_become_it() -> None:
    for name, service in SERVICES.items():
        user, group = service["user"].split(":")
        assert int(user) >= 10000 and int(group) >= 10000, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices"} & set(service), name
        assert "docker.sock" not in json.dumps(service), name
    for file in DOCKERFILES:  # an image that somebody starts by itself
        for stage in re.split(r"^FROM ", file.read_text(), flags=re.M)[1:]:
            if not stage.startswith("${PYTHON_IMAGE}"):  # the common base is no image of a service
                assert re.findall(r"^USER (\d+):\d+$", stage, re.M), f"{file.name}: {stage.splitlines()[0]}"


def test_every_service_is_asked_for_its_health_but_the_one_that_ends() -> None:
    for name, service in SERVICES.items():
        if name == "airflow-init":
            continue
        check = service["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL") and check["interval"] and check["retries"], name
        for other, wait in service.get("depends_on", {}).items():
            ends = other == "airflow-init"
            assert wait["condition"] == ("service_completed_successfully" if ends else "service_healthy"), name


def test_pages_are_published_on_this_machine_alone_and_the_rest_has_no_way_out() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"airflow-api-server", "mlflow"}
    for ports in published.values():
        for port in ports:
            assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+_PORT:-\d+\}:\d+", port), port
    assert COMPOSE_SPEC["networks"]["inner"] == {"internal": True}
    for name, service in SERVICES.items():
        assert service["networks"] == (["inner", "outer"] if name in published else ["inner"]), name


def test_no_secret_has_a_value_in_the_file_and_without_one_nothing_starts(env: dict[str, str]) -> None:
    secrets = {name for name in env if SECRET_NAME.search(name)}
    text = COMPOSE.read_text()
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if SECRET_NAME.search(name):
                assert re.fullmatch(r"\$\{\w+:\?run make env\}", value), f"{name} has a value of its own"
    for password in re.findall(r"://[\w]*:([^@\s]+)@", text):
        assert re.fullmatch(r"\$\{\w+:\?run make env\}", password), password
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == secrets | {"LANDING_FOLDER"}
    for name in asked:
        with pytest.raises(MissingVariable, match=name):
            filled_in(COMPOSE_SPEC, {key: value for key, value in env.items() if key != name})
    assert not re.search(r"\$\{\w*(PASSWORD|SECRET|KEY)\w*(\}|:-)", text), "a secret with a default"


def test_each_part_gets_only_the_secrets_that_it_needs() -> None:
    def given(name: str) -> set[str]:
        return set(re.findall(r"\$\{(\w+):\?", json.dumps(SERVICES[name]["environment"])))

    database, tokens = {"AIRFLOW_FERNET_KEY", "AIRFLOW_DB_PASSWORD"}, {"AIRFLOW_JWT_SECRET"}
    task = {"REDIS_PASSWORD", "CATALOG_DB_PASSWORD", "SPARK_SECRET"}  # no way to Airflow's database or its tokens
    assert {name: given(name) for name in SERVICES} == {
        "postgres": {"AIRFLOW_DB_PASSWORD", "MLFLOW_DB_PASSWORD", "CATALOG_DB_PASSWORD"},
        "redis": {"REDIS_PASSWORD"},
        "mlflow": {"MLFLOW_DB_PASSWORD"},
        "airflow-init": database | {"AIRFLOW_ADMIN_PASSWORD"},
        "airflow-api-server": database | tokens | {"AIRFLOW_SECRET_KEY"},
        "airflow-scheduler": database | tokens | {"REDIS_PASSWORD"},
        "airflow-dag-processor": database,
        "airflow-triggerer": database,
        "airflow-worker": task,
        "airflow-gpu-worker": task,
        "spark-master": {"SPARK_SECRET"},
        "spark-worker": {"SPARK_SECRET"},
    }


def test_mlflow_answers_to_its_names_alone_and_loads_no_pickle() -> None:
    command = " ".join(SERVICES["mlflow"]["command"])
    assert "--allowed-hosts=mlflow:5000," in command and "*" not in command
    assert SERVICES["mlflow"]["environment"]["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_the_gpu_worker_takes_the_gpu_queue_and_starts_on_request() -> None:
    worker = SERVICES["airflow-gpu-worker"]
    assert worker["profiles"] == ["gpu"]
    assert "--queues=gpu" in worker["command"] and "--concurrency=1" in worker["command"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "--queues=default" in SERVICES["airflow-worker"]["command"]
    assert {service["environment"].get("SYNCREC_GPU_QUEUE") for service in SERVICES.values()} == {
        None,
        "${GPU_QUEUE:-default}",
    }


# --- .env -------------------------------------------------------------------------------------------------


def make_env(folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "deploy/make_env.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(MAKE_ENV.read_text())
    return subprocess.run([sys.executable, script], capture_output=True, text=True)


def test_env_is_private_random_and_never_written_twice(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert make_env(tmp_path).returncode == 0
    finally:
        os.umask(before)
    file = tmp_path / ".env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = file.read_text()
    again = make_env(tmp_path)
    assert again.returncode == 1 and "stays as it is" in again.stderr
    assert file.read_text() == first
    assert not any(value in again.stdout + again.stderr for value in read_env(first).values() if len(value) > 20)
    file.unlink()
    elsewhere = tmp_path / "elsewhere"
    file.symlink_to(elsewhere)
    assert make_env(tmp_path).returncode == 1 and not elsewhere.exists(), "written through somebody's link"
    file.unlink()
    assert make_env(tmp_path).returncode == 0
    old, new = read_env(first), read_env(file.read_text())
    secrets = [name for name in new if SECRET_NAME.search(name)]
    assert len({*(old[n] for n in secrets), *(new[n] for n in secrets)}) == 2 * len(secrets)
    assert all(len(new[name]) >= 40 and "$" not in new[name] for name in secrets)


def test_git_and_images_never_see_the_env_file() -> None:
    ignored = subprocess.run(["git", "check-ignore", ".env"], cwd=REPOSITORY, capture_output=True)
    assert ignored.returncode in (0, 128)  # 128: no git here
    rules = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert "*" in rules and not any(rule.startswith("!") and "env" in rule for rule in rules)


# --- what the images hold -----------------------------------------------------------------------------------


def test_production_has_the_versions_of_the_orchestrator() -> None:
    def pins(name: str) -> dict[str, str]:
        text = (REPOSITORY / f"constraints/{name}.txt").read_text()
        found = [line.split("==") for line in text.splitlines() if "==" in line]
        return {package.lower().replace("_", "-"): version for package, version in found}

    light, production = pins("orchestrator"), pins("production")
    differing = {name for name, version in light.items() if production.get(name) != version}
    assert differing == {"python-dateutil"}, "flask-appbuilder asks for an older one; nothing else may differ"
    assert tuple(map(int, production["celery"].split(".")[:2])) < (5, 7), "Airflow's provider cannot import it"
    assert not {"celery", "redis", "psycopg2-binary"} & set(light), "the light environment grew"


def test_everything_that_images_copy_is_let_through_and_there() -> None:
    let_through = {r[1:] for r in (REPOSITORY / ".dockerignore").read_text().splitlines() if r.startswith("!")}
    for file in DOCKERFILES:
        for line in re.findall(r"^COPY (?!--from)(.*)$", file.read_text(), re.M):
            for source in line.split()[:-1]:
                assert (REPOSITORY / source).exists(), source
                assert source.split("/")[0] in let_through, source


@pytest.mark.parametrize("name", ["start", "postgres-start", "redis-start", "airflow-init", "healthy"])
def test_scripts_can_be_started(name: str) -> None:
    file = REPOSITORY / "deploy" / name
    assert file.stat().st_mode & 0o111
    if name != "healthy":
        subprocess.run(["sh", "-n", file], check=True)


def test_start_writes_sparks_secret_for_its_owner_and_takes_it_from_the_command(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "SPARK_CONF_DIR": str(tmp_path / "conf")}
    environment["SPARK_SECRET"] = "s3cret-of-spark"
    command = [REPOSITORY / "deploy/start", "sh", "-c", "env; umask"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "s3cret-of-spark" not in shown and shown.endswith("0077\n")
    file = tmp_path / "conf/spark-defaults.conf"
    assert "spark.authenticate.secret s3cret-of-spark" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_healthy_says_what_is_wrong(tmp_path: Path) -> None:
    def ask(*arguments: str) -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, REPOSITORY / "deploy/healthy", *arguments], capture_output=True, text=True
        )
        return ended.returncode, ended.stdout

    (tmp_path / "answer").write_text('{"scheduler": {"status": "healthy"}}')
    address = (tmp_path / "answer").as_uri()
    assert ask(address, "scheduler.status=healthy") == (0, "")
    code, said = ask(address, "triggerer.status=healthy")
    assert code == 1 and "triggerer.status is None, not healthy" in said
    assert ask("http://127.0.0.1:9/")[0] == 1
