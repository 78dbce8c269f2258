"""`make env`: writes .env for docker-compose.yml, with random secrets; an .env that is there stays as it is.

Standard library only: a machine that runs containers need not have our environments.
"""

import base64
import os
import secrets
import sys
from pathlib import Path

SECRETS = (
    "AIRFLOW_DB_PASSWORD",
    "MLFLOW_DB_PASSWORD",
    "CATALOG_DB_PASSWORD",
    "REDIS_PASSWORD",
    "AIRFLOW_ADMIN_PASSWORD",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_SECRET_KEY",
    "SPARK_SECRET",
)
HEAD = """\
# Secrets and places for docker-compose.yml. Made by `make env`; keep it out of every repository and chat.
"""
PLACES = """\
# The folder of the day folders with log files; user id 10001 must be able to read it.
LANDING_FOLDER=./var/landing
# The settings of the project.
CONFIG_FILE=./syncrec.toml
# The pages, on this machine only.
AIRFLOW_PORT=8080
MLFLOW_PORT=5000
# Each of the two Spark workers: what it may take.
EXECUTOR_CORES=1
EXECUTOR_MEMORY=1g
# With a GPU: take the signs of comment away, and `train` runs on the GPU worker.
#COMPOSE_PROFILES=gpu
#GPU_QUEUE=gpu
# Where people open the nights' pages, where a web server of yours shows the folder reports/ of the volume `state`.
#REPORTS_PAGE=https://nights.shop.example
# Who hears of a failed task and of a late night, and when a night is late (docs/operating.md).
#ALERT_COMMAND=mail -s syncrec oncall@shop.example
#DEADLINE_HOURS=6
"""


def text() -> str:
    """What .env holds, new at every call."""
    lines = [f"{name}={secrets.token_urlsafe(64 if 'JWT' in name else 32)}" for name in SECRETS]  # SHA-512 wants 64
    lines.append(f"AIRFLOW_FERNET_KEY={base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}")
    return HEAD + "\n".join(lines) + "\n" + PLACES


def write(file: Path) -> None:
    """Write the file, for its owner's eyes only.

    Raises
    ------
    FileExistsError
        There is something of that name, be it a link that leads nowhere.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text())


def main() -> int:
    """Write .env beside docker-compose.yml; 1 where one is already."""
    file = Path(__file__).resolve().parent.parent / ".env"
    try:
        write(file)
    except FileExistsError:
        print(
            f"error: {file} is there already and stays as it is; new secrets: move it away first", file=sys.stderr
        )
        return 1
    print(f"wrote {file} with random secrets, readable by you alone. Next: docker compose up -d (docs/deploy.md)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
