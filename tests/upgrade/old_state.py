"""The state that an older commit of this repository made, as a fixture: `unpack` puts it anywhere.

    .venv/jobs/bin/python -m tests.upgrade.old_state COMMIT     makes state-COMMIT.tar.xz beside this file anew
    .venv/jobs/bin/python -m tests.upgrade.old_state tables     writes tables.json: what a version's tables are

The commit's own code runs two nights of a tiny sample (syncrec.toml beside this file), in today's environments, in
a folder of its own; minutes. Left out of the archive: logs, Airflow's database, landing files (the sample writes
them again). Tables, MLflow and their catalogs hold absolute paths: in the archive they begin with ROOT, and `move`
writes them anew.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

from jobs.forget_tables import avro_long

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
ROOT = "/srv/syncrec-as-it-was-made-by-an-older-commit"
"""As long as other folders are: a text in a manifest must have a length of two bytes, with any of them."""
KEPT = ("warehouse", "mlflow", "reports")


def fixtures() -> list[Path]:
    """The archives, oldest first; each is named after the commit that made it."""
    return sorted(HERE.glob("state-*.tar.xz"))


def unpack(archive: Path, home: Path) -> Path:
    """Put an old project below an empty folder: syncrec.toml and state; returns the configuration file."""
    with tarfile.open(archive) as packed:
        packed.extractall(home, filter="data")
    move(home, ROOT, str(home))
    return home / "syncrec.toml"


# --- paths -------------------------------------------------------------------------------------------------


def move(home: Path, old: str, new: str) -> None:
    """Write every absolute path in a project that begins with `old` anew, so that it begins with `new`."""
    for file in sorted(path for path in home.rglob("*") if path.is_file()):
        if file.suffix == ".db":
            _move_database(file, old, new)
        elif file.suffix == ".avro":
            _move_avro(file, old.encode(), new.encode())
        elif old.encode() in (content := file.read_bytes()):
            if file.suffix in (".parquet", ".safetensors"):
                raise ValueError(f"{file} holds {old}")
            file.write_bytes(content.replace(old.encode(), new.encode()))
        if file.name.endswith(".crc"):
            file.unlink()  # checksums that Spark writes beside its files


def _move_database(file: Path, old: str, new: str) -> None:
    with sqlite3.connect(file) as database:
        tables = database.execute("select name from sqlite_master where type = 'table'").fetchall()
        for (table,) in tables:
            for _, column, *_ in database.execute(f'pragma table_info("{table}")').fetchall():
                database.execute(
                    f'update "{table}" set "{column}" = replace("{column}", ?, ?) '
                    f'where typeof("{column}") = \'text\' and instr("{column}", ?)',
                    (old, new, old),
                )
    database.close()


def _move_avro(file: Path, old: bytes, new: bytes) -> None:
    """Iceberg's manifests: the texts in their packed blocks have their lengths in front of them."""
    data = file.read_bytes()
    sync = data[-16:]
    place = data.index(sync) + 16
    parts = [data[:place]]
    while place < len(data):
        count, place = avro_long(data, place)
        size, place = avro_long(data, place)
        block = zlib.decompress(data[place : place + size], -15)
        pattern = rb"([\x80-\xff][\x01-\x7f])(file://" + re.escape(old) + rb")"
        moved = bytearray()
        end = 0
        for found in re.finditer(pattern, block):
            length, begin = avro_long(block, found.start())
            text = block[begin : begin + length].replace(old, new)
            moved += block[end : found.start()] + _packed(len(text)) + text
            end = begin + length
        moved += block[end:]
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(bytes(moved)) + packer.flush()
        parts += [_packed(count), _packed(len(packed)), packed, sync]
        place += size + 16
    file.write_bytes(b"".join(parts))


def _packed(number: int) -> bytes:
    value, out = number << 1, bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


# --- making one --------------------------------------------------------------------------------------------


def make(commit: str) -> Path:
    """Run two nights with a commit's code and pack what they left; returns the archive."""
    commit = _git("rev-parse", "--short=7", commit)
    with tempfile.TemporaryDirectory(prefix="syncrec-old-state-") as folder:
        home, code = Path(folder) / "home", Path(folder) / "home" / "code"
        home.mkdir()
        text = (HERE / "syncrec.toml").read_text()
        (home / "syncrec.toml").write_text(text.replace('"state"', f'"{home}/state"'))
        _git("worktree", "add", "--detach", str(code), commit)
        try:
            _nights(home, code)
        finally:
            _git("worktree", "remove", "--force", str(code))
        made = json.dumps({"commit": commit, "of": _git("show", "-s", "--format=%cI", commit)})
        (home / "made-by.json").write_text(made + "\n")
        return _pack(home, HERE / f"state-{commit}.tar.xz")


def _git(*arguments: str) -> str:
    ended = subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return ended.stdout.strip()


def _nights(home: Path, code: Path) -> None:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("SYNCREC_", "MLFLOW_"))}
    own |= {"PYTHONPATH": str(code), "SYNCREC_HOME": str(home), "LOGNAME": "syncrec", "USER": "syncrec"}
    own |= {"SYNCREC_AIRFLOW": str(REPOSITORY / ".venv/orchestrator/bin/airflow")}
    subprocess.run([sys.executable, "-m", "jobs.nightly"], cwd=home, env=own, check=True)


def _pack(home: Path, archive: Path) -> Path:
    move(home, str(home), ROOT)
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in (home / "syncrec.toml", home / "made-by.json", *(home / "state" / name for name in KEPT)):
            packed.add(path, str(path.relative_to(home)), filter=_anonymous)
    return archive


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in member.name:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


# --- what a version is ---------------------------------------------------------------------------------------


def tables() -> str:
    """Today's version and its tables, as tables.json holds them."""
    from jobs.schemas import TABLES
    from jobs.state_version import STATE_VERSION

    columns = {name: {column.name: column.type for column in table.columns} for name, table in TABLES.items()}
    return json.dumps({"version": STATE_VERSION, "tables": columns}, indent=1) + "\n"


if __name__ == "__main__":
    if sys.argv[1] == "tables":
        (HERE / "tables.json").write_text(tables())
    else:
        print(make(sys.argv[1]))
