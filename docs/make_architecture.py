"""Draw the rooms of the library and their imports: `python docs/make_architecture.py` writes `docs/images/rooms.svg`.

The order of the rooms is that of `pyproject.toml`, their texts are those of their `__init__.py`; an arc joins a room to
each room that its files import. Standard library only.
"""

from __future__ import annotations

import ast
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "VFMTransferLib"
TARGET = Path(__file__).parent / "images" / "rooms.svg"
WIDTH, ROW, TOP, LEFT, BOX_WIDTH, BOX = 1060, 46, 20, 330, 720, 34
_COLORS = ("#3b6ea5", "#a56a3b", "#4f8a5b", "#8a4f7d", "#6b6b6b")


def rooms() -> list[str]:
    """The rooms, those that import nothing first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "rooms")
    return list(reversed(layers))


def imports() -> set[tuple[str, str]]:
    """Pairs (importing room, imported room)."""
    found = set()
    for path in LIBRARY.rglob("*.py"):
        parts = path.relative_to(LIBRARY).parts
        if len(parts) > 1:
            found |= {(parts[0], room) for room in imported_rooms(path) if room != parts[0]}
    return found


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, also inside of functions."""
    package = path.relative_to(ROOT).parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module or "").split("."))
            modules = [(*module, alias.name) for alias in node.names]
            names |= {parts[1] for parts in modules if parts[0] == LIBRARY.name and len(parts) > 2}
    return {name for name in names if (LIBRARY / name).is_dir()}


def first_sentence(room: str) -> str:
    """The first sentence of a room's `__init__.py`."""
    text = ast.get_docstring(ast.parse((LIBRARY / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    return " ".join(text.split(". ")[0].split("\n\n")[0].split()).rstrip(".").replace("`", "")


def drawing() -> str:
    """The picture as SVG: one row a room, an arc to each room that it imports; one against the order would be red."""
    order, found = rooms(), imports()
    middle = {room: TOP + ROW * place + BOX / 2 for place, room in enumerate(order)}
    height = TOP * 2 + ROW * len(order)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for importing, imported in sorted(found):
        span = order.index(importing) - order.index(imported)
        reach = LEFT - 8 - min(abs(span) * 24, LEFT - 20)
        color = _COLORS[order.index(importing) % len(_COLORS)] if span > 0 else "#d02020"
        parts.append(
            f'<path d="M {LEFT} {middle[importing]:.0f} C {reach} {middle[importing]:.0f}, {reach} '
            f'{middle[imported]:.0f}, {LEFT} {middle[imported]:.0f}" fill="none" stroke="{color}" '
            f'stroke-opacity="0.55" stroke-width="1.5"/>'
        )
    for room in order:
        y = middle[room] - BOX / 2
        parts.append(
            f'<rect x="{LEFT}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX}" rx="5" fill="#f3f5f8" stroke="#8fa1b5"/>'
            f'<text x="{LEFT + 12}" y="{middle[room] + 5:.0f}" font-size="15" font-weight="bold">{room}</text>'
            f'<text x="{LEFT + 110}" y="{middle[room] + 4:.0f}" font-size="11" fill="#333">'
            f"{escape(shortened(first_sentence(room)))}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def shortened(text: str, limit: int = 110) -> str:
    """Text that fits into a box, cut at a word."""
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " …"


if __name__ == "__main__":
    TARGET.write_text(drawing(), encoding="utf-8")
    print(f"Wrote {TARGET.relative_to(ROOT)}.")
