"""The wheel holds commands and recipes; the front door loads nothing that it does not need."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import divdet
from divdet.__main__ import run
from divdet.commands.known_accuracies import FILE
from tests.processes import ROOT, environment


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    copied = ("pyproject.toml", "README.md", "LICENSE", "divdet", "detection", "classification", "configs")
    source = folder / "source"
    source.mkdir()
    for name in copied:  # building in the checkout would leave files there
        subprocess.run(["cp", "-a", str(ROOT / name), str(source)], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("divdet-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def test_the_wheel_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    def divdet_command(*words: str) -> str:
        command = [sys.executable, "-m", "divdet", *words]
        paths = environment() | {"PYTHONPATH": str(installed)}
        return subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True, check=True).stdout

    assert "quickstart" in divdet_command("--help")
    assert "runs/quickstart" in divdet_command("quickstart", "--help")
    assert "backbone: resnet10_24" in divdet_command("train-det", "--config", "bccd", "--print_config")
    assert "WRN" in divdet_command("summary", "--backbone", "wrn28_10", "--members", "2").upper()
    assert list(tmp_path.iterdir()) == []
    assert (installed / "divdet/commands/known_accuracies.json").read_bytes() == FILE.read_bytes()


def test_every_recipe_has_a_name_of_its_own() -> None:
    names = [path.stem for path in (ROOT / "configs").glob("*/*.yaml")]
    assert len(names) == len(set(names)) > 20


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--help"], 0), (["--version"], 0), (["trian-det"], 2)])
def test_the_front_door(words: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-m", "divdet", *words], capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("word", "meant"), [("train", "train-det"), ("predict", "detect"), ("inspekt-data", "inspect-data")]
)
def test_a_command_that_does_not_exist(word: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["divdet", word, "x"])
    with pytest.raises(SystemExit, match=r"^2$"):
        run()
    assert f"no such command; did you mean {meant}? There are train-det, " in capsys.readouterr().err


def test_public_names() -> None:
    assert all(hasattr(divdet, name) for name in divdet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'detector_'"):
        _ = divdet.detector_


@pytest.mark.parametrize("words", [["-c", "import divdet"], ["-m", "divdet", "train-det", "--help"]])
def test_torch_is_not_loaded_before_it_is_needed(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "torchvision", "cv2", "numba"}
