"""`make audit`: asks pip-audit about every pinned version, and tells an answer from no answer.

    python deploy/audit.py constraints/jobs.txt ...

Exit code 0: no known weakness. 1: some, listed. 3: the service that knows could not be asked about all of them, so
nothing can be said: pip-audit itself calls a package "not found" and ends well where an index answers without it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CLEAN, WEAK, UNKNOWN = 0, 1, 3
SECONDS = 900


def weaknesses(report: dict[str, Any]) -> list[str]:
    """One line for each weakness of pip-audit's report."""
    return [
        f"{package['name']} {package['version']}: {found['id']}"
        + (f", mended in {', '.join(found['fix_versions'])}" if found.get("fix_versions") else ", not mended yet")
        for package in report["dependencies"]
        for found in package.get("vulns", [])
    ]


def unasked(report: dict[str, Any]) -> list[str]:
    """Packages that the service knows nothing of."""
    skipped = [package for package in report["dependencies"] if "skip_reason" in package]
    return [f"{package['name']}: {package['skip_reason']}" for package in skipped]


def ask(pins: list[str]) -> tuple[dict[str, Any] | None, str]:
    """Return pip-audit's report about these pins, or None and the last thing that it said."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", f"--requirement={file}", "--no-deps", "--disable-pip"]
        command += ["--format=json", "--progress-spinner=off", "--timeout=15"]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return None, f"no answer in {SECONDS} s"
    try:
        report = json.loads(ended.stdout)
    except json.JSONDecodeError:
        said = [line for line in ended.stderr.splitlines() if line.strip()]
        return None, said[-1][:300] if said else f"pip-audit ended with {ended.returncode} and said nothing"
    return report, ""


def pins_of(file: Path) -> list[str]:
    """The pinned versions of a constraints file."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "==" in line and not line.startswith("#")]


def main(files: list[str]) -> int:
    """Ask about one package first, so that a service out of reach is said at once; then file by file."""
    worst = CLEAN
    for number, file in enumerate(map(Path, files)):
        pins = pins_of(file)
        found: list[str] = []
        for asked in [pins[:1], pins] if number == 0 else [pins]:
            report, cause = ask(asked)
            left = unasked(report) if report else [cause]
            if left:
                what = "NOT ALL WAS AUDITED" if report and len(left) < len(asked) else "NOTHING WAS AUDITED"
                count = f"{len(left) if report else len(asked)} of {len(asked)} packages of {file}"
                told = f"the service of known weaknesses said nothing about {count}: {left[0]}"
                print(f"error: audit: {what}: {told}", file=sys.stderr)
                return UNKNOWN
            found = weaknesses(report or {})
        for line in found:
            print(f"{file}: {line}")
        print(f"{file}: {len(pins)} packages, {len(found)} known weaknesses")
        worst = WEAK if found else worst
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
