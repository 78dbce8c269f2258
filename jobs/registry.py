"""The MLflow side of the night: tracking runs, model versions, aliases.

A registered version is a pyfunc "models from code" with safetensors weights, config JSON and vocabulary; nothing
is pickled. Aliases: `challenger` (trained tonight), `champion` (serves), `previous_champion` (for a rollback).
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types.schema import (
    AnyType,
    Array,
    ColSpec,
    DataType,
    Object,
    ParamSchema,
    ParamSpec,
    Property,
    Schema,
)
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from jobs.errors import JobError
from jobs.machine_errors import cause_of
from jobs.mlflow_store import make_store, store_file
from jobs.private import without_password
from jobs.settings import Settings

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous_champion"
DESCRIPTION = (
    "One version a night, made by `train`. The gate's words on each are in its description. "
    f"`{CHALLENGER}`: trained last; `{CHAMPION}`: makes the lists that people see; `{PREVIOUS}`: what "
    "`python -m jobs.rollback` goes back to."
)
NOT_JUDGED = " Not judged yet."
"""The end of a version's words until the gate has spoken."""
HERE = Path(__file__).parent
log = logging.getLogger("syncrec")

SIGNATURE = ModelSignature(
    inputs=Schema([
        ColSpec(DataType.string, "user_id"),
        ColSpec(
            Array(Object([
                Property("item_id", DataType.string),
                Property("domain", DataType.string),
                Property("ts", AnyType(), required=False),  # numbers, datetimes or ISO texts
            ])),
            "history",
            required=False,  # so that the model's own sentence, which names the user, refuses a missing one
        ),
    ]),
    outputs=Schema([
        ColSpec(DataType.string, "user_id"),
        ColSpec(DataType.string, "domain"),
        ColSpec(DataType.integer, "rank"),
        ColSpec(DataType.string, "item_id"),
        ColSpec(DataType.double, "score"),
        ColSpec(DataType.integer, "ignored_items"),
    ]),
    params=ParamSchema([ParamSpec("n", DataType.integer, 20)]),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of the registered model."""

    number: str
    run_id: str
    tags: Mapping[str, str]


class Registry:
    """The tracking store and model registry of one project.

    Raises
    ------
    JobError
        MLflow cannot be reached, or another version of it made its database; the message gives the address.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = settings.mlflow.model_name
        uri = settings.tracking_uri
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        try:
            make_store(uri)
            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self.experiment_id = self._experiment()
        except Exception as error:
            if "out-of-date database schema" in str(error):
                raise JobError(
                    "another version of MLflow made its database: make a copy of it, then run "
                    f"{sys.executable} -m mlflow db upgrade {without_password(uri)}"
                ) from error
            file = store_file(uri)
            if file and "already exists" in str(error):
                raise JobError(
                    f"MLflow's database {file} is half-made, its making or upgrade was ended: "
                    "put back its copy; where no night has trained yet, remove its folder. Then run this again"
                ) from error
            raise JobError(f"cannot reach MLflow at {without_password(uri)}: {cause_of(error)}") from error

    def _experiment(self) -> str:
        name = self.settings.mlflow.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            embedded = self.settings.tracking_uri.startswith("sqlite")
            location = Path(self.settings.artifact_root).resolve().as_uri() if embedded else None
            return str(self.client.create_experiment(name, artifact_location=location))
        return str(found.experiment_id)

    # --- versions -----------------------------------------------------------------------------------------

    def at_alias(self, alias: str) -> Version | None:
        """The version that carries an alias, or None."""
        try:
            return _version(self.client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            _only_if_absent(error)
            return None

    def version(self, number: str) -> Version:
        """One version by its number."""
        try:
            return _version(self.client.get_model_version(self.name, number))
        except MlflowException as error:
            raise JobError(f"model {self.name} has no version {number} in the registry: {error}") from error

    def of_night(self, ds: str, run_id: str) -> Version | None:
        """The version that this very night has already registered (a retry after a kill), or None."""
        try:
            found = self.client.search_model_versions(
                f"name = '{self.name}' and tags.`syncrec.run_id` = '{run_id}'"
            )
        except MlflowException as error:
            _only_if_absent(error)
            return None
        own = [v for v in map(_version, found) if v.tags.get("ds") == ds]
        return max(own, key=lambda v: int(v.number), default=None)

    def move_alias(self, alias: str, number: str) -> None:
        """Point an alias to a version."""
        self.client.set_registered_model_alias(self.name, alias, number)

    def drop_alias(self, alias: str) -> None:
        """Let no version carry an alias."""
        self.client.delete_registered_model_alias(self.name, alias)

    def tag(self, number: str, **tags: object) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, number, key, str(value))

    def describe(self, number: str, text: str) -> None:
        """Set the words that the registry page shows for a version."""
        self.client.update_model_version(self.name, number, description=text)

    def download(self, number: str, into: Path) -> Path:
        """Copy a version's model folder (safetensors, config, vocabulary) to a local folder.

        Raises
        ------
        JobError
            The version's files are missing or cannot be fetched.
        """
        into.mkdir(parents=True, exist_ok=True)
        try:
            local = mlflow.artifacts.download_artifacts(f"models:/{self.name}/{number}", dst_path=str(into))
        except Exception as error:
            raise JobError(
                f"cannot fetch model {self.name} version {number} from MLflow: {cause_of(error)}"
            ) from error
        return Path(local) / "artifacts" / "model"

    def log_version(
        self,
        run_id: str,
        folder: Path,
        tags: Mapping[str, object],
        description: str,
        history: Sequence[Mapping[str, object]],
    ) -> Version:
        """Log a saved model folder to a run and register it as a new version.

        `history` is an example of one user's events, {item_id, domain, ts}, shown on the model's page.
        """
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(name="model", **pyfunc_parts(folder, history))
        try:
            self.client.create_registered_model(self.name, description=DESCRIPTION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # Tags and words come with the version, not after it: a kill in between would leave a version of no night,
        # or one that nobody describes, since the retry finds it made.
        made = self.client.create_model_version(
            self.name,
            info.model_uri,
            tags={k: str(v) for k, v in tags.items()},
            description=description,
            model_id=info.model_id,
        )
        version = self.version(str(made.version))
        self.link(version)
        self.supersede(version)
        return version

    def link(self, version: Version) -> None:
        """Let the page of the logged model name its version; a server does so, a database not."""
        source = str(self.client.get_model_version(self.name, version.number).source)
        model_id = source.removeprefix("models:/")
        if model_id == source:  # registered by another hand, from plain files
            return
        named = json.loads(self.client.get_logged_model(model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
        if all(str(one["version"]) != version.number or one["name"] != self.name for one in named):
            named.append({"name": self.name, "version": int(version.number)})
            self.client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(named)})

    def supersede(self, version: Version) -> None:
        """Say of versions of the same night that no gate judged, as their runs had ended, which one took over."""
        night = f"name = '{self.name}' and tags.ds = '{version.tags['ds']}'"
        for other in self.client.search_model_versions(night):
            words = other.description or ""
            if NOT_JUDGED in words and str(other.version) != version.number:
                said = f" Never judged: its run ended before the gate, version {version.number} took its place."
                self.describe(str(other.version), words.replace(NOT_JUDGED, said))

    def challenge(self, version: Version) -> None:
        """Make a version the challenger, unless a later night already has one."""
        present = self.at_alias(CHALLENGER)
        if present is None or present.tags.get("ds", "") <= version.tags.get("ds", ""):
            self.move_alias(CHALLENGER, version.number)

    # --- runs ---------------------------------------------------------------------------------------------

    def run_of_night(self, ds: str, run_id: str, parameters: Mapping[str, object]) -> str | None:
        """The tracking run of an earlier attempt at this training; None if there is none with these parameters."""
        found = self.client.search_runs(
            [self.experiment_id], f"tags.`ds` = '{ds}' and tags.`syncrec.run_id` = '{run_id}'", max_results=1
        )
        for run in found:
            if all(run.data.params.get(k, str(v)) == str(v) for k, v in parameters.items()):
                return str(run.info.run_id)
        return None

    def end_left(self, ds: str, own: str | None) -> None:
        """Let runs of this night that were killed, which MLflow shows as running, end; own: the one that goes on.

        A run that works on elsewhere ends itself when it does, whatever is said of it here.
        """
        left = f"tags.`ds` = '{ds}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.experiment_id], left):
            if run.info.run_id != own:
                self.client.set_terminated(run.info.run_id, "KILLED")


def pyfunc_parts(folder: Path, history: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    """Return what makes the pyfunc of a saved model folder, for MLflow's log_model or save_model.

    With mlflow and the pip requirements named here the result loads anywhere; the repository is not needed.
    history: an example of one user's events.
    """
    from importlib.metadata import version as installed

    packages = ("torch", "numpy", "safetensors", "pandas", "pyarrow", "tqdm")
    return {
        "python_model": str(HERE / "registry_model.py"),
        "artifacts": {"model": str(folder)},
        "code_paths": [str(HERE.parent / "syncrec_model")],
        "signature": SIGNATURE,
        "input_example": pd.DataFrame({"user_id": ["anyone"], "history": [list(history)]}),
        "pip_requirements": [f"{p}=={installed(p).split('+')[0]}" for p in packages],
    }


def _only_if_absent(error: MlflowException) -> None:
    """A registry out of reach is no empty registry: it must not look as if there were no champion."""
    if error.error_code == "RESOURCE_DOES_NOT_EXIST":
        return
    if error.error_code == "INVALID_PARAMETER_VALUE" and "not found" in str(error):  # an alias that is not set
        return
    raise JobError(f"cannot read the model registry: {cause_of(error)}") from error


def _version(found: Any) -> Version:
    return Version(number=str(found.version), run_id=str(found.run_id), tags=dict(found.tags))
