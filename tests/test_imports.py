"""Imports run one way: tools, divdet.commands, detection, classification, divdet.engine; and downwards inside each."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("tools", "divdet.commands", "detection", "classification", "divdet.engine")  # the front door is with commands
UPPER_ROOMS = ("detection.data", "detection.training", "detection.evaluation", "detection.visual")
FLOORS = 7  # of detection/


def layer(module: str) -> int:
    """The index in ``LAYERS``."""
    known = [number for number, name in enumerate(LAYERS) if module == name or module.startswith(f"{name}.")]
    return known[0] if known else 1  # divdet, divdet.api, divdet.__main__


@cache
def imports() -> dict[str, set[str]]:
    """The modules of ours that each module imports, in functions too, but not those for type checkers alone."""
    files = [file for top in ("tools", "divdet", "detection", "classification") for file in (ROOT / top).rglob("*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    found: dict[str, set[str]] = {}
    for name, file in names.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
        wanted = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}: relative import"
                own = {f"{node.module}.{alias.name}" for alias in node.names} & names.keys()
                wanted |= own or {node.module}
        found[name] = {module for module in wanted if module in names and module != name}
    return found


def floors(modules: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each module: 1 where it imports none of the others, else one above the highest that it imports."""
    known: dict[str, int] = {}

    def floor(module: str, above: tuple[str, ...] = ()) -> int:
        assert module not in above, f"a circle of imports: {' → '.join([*above, module])}"
        if module not in known:
            known[module] = 1 + max((floor(other, (*above, module)) for other in modules[module]), default=0)
        return known[module]

    for module in modules:
        floor(module)
    return known


def test_no_import_runs_upwards() -> None:
    pairs = [(name, other) for name, others in imports().items() for other in others]
    assert not [f"{name} → {other}" for name, other in pairs if layer(other) < layer(name)]


def test_there_is_no_circle() -> None:
    assert len(floors(imports())) > 100


def test_images_to_boxes_need_no_room_above() -> None:
    below = [name for name in imports() if name.startswith("detection.") and not name.startswith(UPPER_ROOMS)]
    wrong = [f"{name} → {other}" for name in below for other in imports()[name] if other.startswith(UPPER_ROOMS)]
    assert not wrong


def test_detection_has_few_floors() -> None:
    detection = {name: others for name, others in imports().items() if name.startswith("detection")}
    own = {name: {other for other in others if other in detection} for name, others in detection.items()}
    assert max(floors(own).values()) <= FLOORS, sorted(floors(own).items(), key=lambda item: item[1])


@pytest.mark.parametrize(
    "module",
    [
        "divdet",
        "divdet.commands",
        "divdet.commands.settings",
        "divdet.commands.demo_settings",
        "divdet.commands.network_settings",
        "divdet.commands.serve_settings",
        "detection.settings",
        "classification.settings",
    ],
)
def test_settings_need_no_torch(module: str) -> None:
    """They and all that they import name no torch; ``--help`` would otherwise wait for it."""
    seen, left = set(), [module]
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        file = ROOT / Path(*name.split("."))
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                wanted = [node.module]
            else:
                continue
            assert not any(other.split(".")[0] in ("torch", "torchvision", "cv2", "numba") for other in wanted), name
            left += [other for other in wanted if other in imports()]
