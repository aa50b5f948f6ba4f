"""The Dockerfile's steps, as far as they run without Docker: its installation, its command, its health check."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from divdet.commands import COMMANDS
from tests.divdet.serving.services import stub_service
from tests.processes import ROOT


def steps() -> list[tuple[str, str]]:
    """The instructions and what follows each."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest.strip()) for name, rest in lines]


def only(name: str) -> str:
    (found,) = [rest for step, rest in steps() if step == name]
    return found


def test_what_is_copied_installs_and_runs(tmp_path: Path) -> None:
    build, site = tmp_path / "build", tmp_path / "site"
    build.mkdir()
    allowed = re.findall(r"^!(\w.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for *sources, target in (rest.split() for step, rest in steps() if step == "COPY"):
        assert set(sources) <= set(allowed)
        for source in sources:
            place = build / target / (source if target.endswith("/") else "")
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, place, **({"symlinks": True} if copy is shutil.copytree else {}))
    (command,) = [rest for step, rest in steps() if step == "RUN" and ".[serve]" in rest]
    assert shlex.split(command)[:2] == ["pip", "install"]
    # word for word, but without what is to be downloaded, and into a folder of its own
    own = {"PIP_TARGET": str(site), "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_QUIET": "1"}
    subprocess.run([sys.executable, "-m", *shlex.split(command)], cwd=build, env=os.environ | own, check=True)
    words = [sys.executable, "-m", *json.loads(only("ENTRYPOINT")), "--help"]
    paths = os.environ | {"PYTHONPATH": str(site)}
    shown = subprocess.run(words, cwd=tmp_path, env=paths, capture_output=True, text=True, check=True).stdout
    assert "--max_batch" in shown
    assert (site / "divdet/serving/app.py").is_file()


def test_the_command_listens_where_the_image_says_and_not_as_root() -> None:
    program, name, *words = json.loads(only("ENTRYPOINT")) + json.loads(only("CMD"))
    settings = COMMANDS[name].settings
    assert (program, settings) == ("divdet", "divdet.commands.serve_settings:Serve")
    given = dict(word.removeprefix("--").split("=") for word in words)
    assert given == {"host": "0.0.0.0", "port": only("EXPOSE"), "checkpoint": "/models/best.pt"}
    order = [step for step, _ in steps()]
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert only("USER") not in ("root", "0")
    assert f"useradd --create-home {only('USER')}" in [rest for step, rest in steps() if step == "RUN"]


def test_the_health_check_knows_a_service_that_stops() -> None:
    health = only("HEALTHCHECK")
    words = json.loads(health[health.index("CMD") + 3 :])
    assert words[0] == "python"
    with stub_service() as service:
        here = [sys.executable, *(word.replace("http://127.0.0.1:8000", service.address) for word in words[1:])]
        assert here[1:] != words[1:]
        assert subprocess.run(here).returncode == 0
        service.guard.draining = True
        assert subprocess.run(here, stderr=subprocess.DEVNULL).returncode != 0


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in Python 3.11")
def test_the_extra_names_what_the_service_imports() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["serve"]
    assert set(extra) <= set(project["optional-dependencies"]["test"])
    named = {re.match(r"[\w-]+", one)[0].replace("-", "_") for one in [*project["dependencies"], *extra]}
    imported = set()
    for file in (ROOT / "divdet/serving").glob("*.py"):
        imported |= set(re.findall(r"^(?:import|from) (\w+)", file.read_text(), re.MULTILINE))
    own = {"detection", "divdet", "classification", "starlette"}  # the last comes with fastapi
    assert imported - own - set(sys.stdlib_module_names) <= named
