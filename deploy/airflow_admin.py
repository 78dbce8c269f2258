"""The administrator of Airflow's pages, with the password of AIRFLOW_ADMIN_PASSWORD; made, or given that password.

Not `airflow users create`: everybody on the machine may read a command line.
"""

import os
import sys

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

NAME = "admin"


def main() -> int:
    """Make the user, or set its password anew."""
    password = os.environ.get("AIRFLOW_ADMIN_PASSWORD", "")
    if len(password) < 12:
        print("error: AIRFLOW_ADMIN_PASSWORD: at least 12 characters; `make env` makes one", file=sys.stderr)
        return 1
    with get_application_builder() as builder:
        users = builder.sm
        found = users.find_user(username=NAME)
        if found:
            users.reset_password(found.id, password)
        elif not users.add_user(NAME, "Admin", "Admin", "admin@localhost", users.find_role("Admin"), password):
            print(f"error: Airflow could not make the user {NAME}", file=sys.stderr)
            return 1
    print(f"user {NAME} {'has the password of the environment' if found else 'is made'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
