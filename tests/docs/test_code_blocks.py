"""The code in README and docs: commands exist with their options, queries and Python run, settings are settings.

docs/study.md, docs/model.md and docs/training.md have tests of their own beside the model's.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import duckdb
import pytest
from pydantic import BaseModel
from pyspark.sql import SparkSession

from jobs.analytics import write_analytics
from jobs.query import find_query
from jobs.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = ("study.md", "model.md", "training.md")
MADE = ("queries.md", "tables.md")
COMMAND = re.compile(
    r"^(make|python|\.venv/|cp|cat|sed|df|rm|grep|for|git|docker|duckdb|pip|cd|airflow)\b|^\$EDITOR"
)
MAKEFILE = (ROOT / "Makefile").read_text()


@dataclass(frozen=True)
class Block:
    """One block of code: page, line, language ('' for an indented one), text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Fenced blocks, and those indented by four blanks after an empty line."""
    name, lines = str(page.relative_to(ROOT)), page.read_text().splitlines()
    fence, begun, kept, before = None, 0, [], ""
    for number, line in enumerate([*lines, ""], 1):
        if line.startswith("```"):
            if fence is not None:
                yield Block(name, begun, fence, "\n".join(kept))
                fence, kept = None, []
            else:
                if kept:
                    yield Block(name, begun, "", textwrap.dedent("\n".join(kept)))
                fence, begun, kept = line[3:].strip(), number, []
        elif fence is not None:
            kept.append(line)
        elif line.startswith("    ") and (kept or not before.strip()):
            begun = begun if kept else number
            kept.append(line)
        elif kept and line.strip():
            yield Block(name, begun, "", textwrap.dedent("\n".join(kept)))
            kept = []
        elif kept:
            kept.append("")
        before = line
    if kept:
        yield Block(name, begun, "", textwrap.dedent("\n".join(kept)))


BLOCKS = [block for page in PAGES if page.name not in MADE for block in blocks(page)]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages and Path(block.page).name not in ELSEWHERE]


def commands() -> list[tuple[Block, str]]:
    """Every line of a shell block, continued lines joined, comments cut."""
    found = []
    for block in BLOCKS:
        if block.language not in ("", "sh"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            if COMMAND.match(line.strip()) or "-m jobs." in line:
                found.append((block, re.sub(r"\s+#.*$", "", line.strip())))
    return found


COMMANDS = commands()


def test_there_are_blocks_and_commands_to_hold() -> None:
    assert len(COMMANDS) > 60
    assert {block.language for block in BLOCKS} >= {"", "sh", "python", "toml", "sql", "properties"}


# --- the shell --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "line"), [c for c in COMMANDS if c[1].startswith("make ")], ids=str)
def test_a_make_command_names_a_target_and_variables_that_it_reads(block: Block, line: str) -> None:
    words = shlex.split(re.split(r"&&|\||;", line)[0])[1:]
    targets = [word for word in words if "=" not in word and not word.startswith("-")]
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), f"{block}: make {target}"
    for word in words:
        name = word.partition("=")[0]
        if "=" in word and name not in ("PYTHON",):
            assert f"$({name})" in MAKEFILE or f"({name})," in MAKEFILE, f"{block}: {name} is not read"
        if word.startswith("Q=") and "NAME" not in word and word != "Q=my.sql":
            assert find_query(word[2:]).is_file()


def help_of(module: str) -> str:
    """What a command says with --help."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    return said.getvalue()


def test_a_python_command_names_a_module_and_options_that_it_has() -> None:
    helps: dict[str, str] = {}
    checked = 0
    for block, line in COMMANDS:
        for module, rest in re.findall(r"-m (jobs\.\w+)(.*?)(?=&&|\||;|$)", line):
            if module not in helps:
                helps[module] = help_of(module)
            for option in re.findall(r"(?<=\s)--[a-z-]+", rest):
                assert option in helps[module], f"{block}: {module} has no {option}"
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_a_shell_block_is_sound_shell(block: Block) -> None:
    ended = subprocess.run(["sh", "-n"], input=block.text, text=True, capture_output=True)
    assert ended.returncode == 0, f"{block}: {ended.stderr}"


def test_make_alone_lists_the_commands() -> None:
    ended = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    assert "make nightly" in ended.stdout


# --- settings -------------------------------------------------------------------------------------------


def section(kind: type[BaseModel], name: str) -> Any:
    """The type of a section: the record itself, or what a table or list of them holds."""
    annotation = kind.model_fields[name].annotation
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


TOML = [b for b in BLOCKS if b.language == "toml" or (not b.language and re.match(r"\[\[?\w", b.text))]


@pytest.mark.parametrize("block", TOML, ids=str)
def test_settings_in_the_docs_are_settings(block: Block) -> None:
    text = "\n".join(line for line in block.text.splitlines() if line.strip() not in ("...", "END"))
    for name, value in tomllib.loads(text).items():
        assert name in Settings.model_fields, f"{block}: {name}"
        record = section(Settings, name)
        if record is None:
            continue
        whole = value if isinstance(value, list) else list(value.values()) if name == "domains" else [value]
        for part in whole:
            for key in part:
                assert key in record.model_fields, f"{block}: [{name}] {key}"


# --- SQL and Python -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(planted: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it after the sample: syncrec.toml, and var/sample with its tables."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "syncrec.toml").symlink_to(planted.state.parent / "syncrec.toml")
    (folder / "var").mkdir()
    (folder / "var" / "sample").symlink_to(planted.state)
    write_analytics(planted)
    return folder


def sql_texts() -> list[tuple[Block, str]]:
    found = [(block, text) for block in of("sql") for text in block.text.split(";") if text.strip()]
    for page in PAGES:
        if page.name in ("sql.md", "runbook.md", "tables.md"):
            name = str(page.relative_to(ROOT))
            inline = re.findall(r"`(select [^`]+)`", page.read_text())
            found += [(Block(name, 0, "sql", text), text) for text in inline if "syncrec.syncrec" not in text]
    return found


@pytest.mark.parametrize(("block", "text"), sql_texts(), ids=str)
def test_sql_in_the_docs_runs(home: Path, block: Block, text: str) -> None:
    with duckdb.connect(str(home / "var/sample/analytics.duckdb"), read_only=True) as connection:
        connection.execute(text)


ORCHESTRATOR = ROOT / ".venv/orchestrator/bin/python"
PYTHON = [b for b in of("python") if b.page.startswith("docs/")]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_in_the_docs_runs(
    home: Path, spark: SparkSession, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    if "from airflow" in block.text:
        if not ORCHESTRATOR.is_file():
            pytest.skip("no orchestrator environment: run `make setup`")
        environment = {**os.environ, "AIRFLOW_HOME": str(home / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        done = subprocess.run([ORCHESTRATOR, "-c", block.text], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block.text, str(block), "exec"), {"spark": spark})


def test_the_duckdb_command_line_of_the_docs_is_what_its_python_does(home: Path) -> None:
    (text,) = re.findall(
        r'duckdb -readonly var/sample/analytics.duckdb "(.*?)"', (ROOT / "docs/sql.md").read_text()
    )
    with duckdb.connect(str(home / "var/sample/analytics.duckdb"), read_only=True) as connection:
        assert connection.sql(text).fetchall()


# --- pages and pictures ---------------------------------------------------------------------------------


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES[2:]:
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "index.md" or f"]({name})" in index, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(((?!https?:)[^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"


def test_figures_say_in_words_what_they_show_and_follow_the_theme() -> None:
    for name in ("night", "gradient-routes"):
        figure = (ROOT / "docs" / "img" / f"{name}.svg").read_text()
        assert "<title" in figure and "<desc" in figure and "prefers-color-scheme: dark" in figure
    from jobs.night_log import STEPS

    drawn = re.sub(r"<[^>]+>", " ", (ROOT / "docs" / "img" / "night.svg").read_text().split("<defs>")[1])
    words = " ".join(drawn.split())
    assert all(step.replace("_", " ") in words for step in STEPS)
