"""Who may import whom: the file tree is the architecture, and arrows go down only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = ("errors", "files", "geometry", "notes", "version")
# Every room, with the rooms below it that it may import; the ground may be imported from everywhere.
ROOMS = {
    "models": (),
    "runtime": ("models",),
    "diffusion": ("models", "runtime"),
    "storage": ("models", "runtime"),
    "inputs": (),
    "planning": ("models", "diffusion", "runtime", "storage", "inputs"),
    "outputs": ("inputs",),
    "pipeline": ("models", "diffusion", "runtime", "storage", "inputs", "planning", "outputs"),
    "convert": ("models", "diffusion", "runtime", "storage"),
    "demo": ("storage", "inputs", "planning", "outputs", "pipeline", "convert", "runtime"),
    "cli": ("runtime", "storage", "inputs", "planning", "outputs", "pipeline", "convert", "demo"),
}
FOLDERS = {
    name: ROOT / name if name in ("convert", "demo") else ROOT / "mlx_happyhorse" / name for name in ROOMS
}


def imported(file: Path, package: list[str]) -> set[str]:
    """Return the dotted names below `mlx_happyhorse` that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = [*base, *(node.module or "").split(".")] if node.module else base
            found |= {".".join([*parts, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("mlx_happyhorse.") for name in found if name.startswith("mlx_happyhorse.")}


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room):
    folder, allowed = FOLDERS[room], {room, *ROOMS[room], *GROUND}
    for file in files(folder):
        package = ["mlx_happyhorse", room, *file.relative_to(folder).parent.parts]
        upwards = {name for name in imported(file, package) if name.partition(".")[0] not in allowed}
        assert not upwards, f"{file.relative_to(ROOT)} imports {', '.join(sorted(upwards))}"


def test_the_ground_imports_no_room():
    for name in GROUND:
        names = imported(ROOT / "mlx_happyhorse" / f"{name}.py", ["mlx_happyhorse"])
        assert {found.partition(".")[0] for found in names} <= set(GROUND)


def test_rooms_know_no_circle():
    for room, below in ROOMS.items():
        assert all(room not in ROOMS[other] for other in below)


def test_every_file_lies_in_a_room():
    rooms = {path.name for path in (ROOT / "mlx_happyhorse").iterdir() if path.is_dir() and files(path)}
    assert rooms - {"__pycache__"} == ROOMS.keys() - {"convert", "demo"}
    alone = {path.stem for path in (ROOT / "mlx_happyhorse").glob("*.py")}
    assert alone == {*GROUND, "__init__", "__main__"}
