"""The graph of a stack or of a plan, as DOT text and as a picture that needs no program to be drawn.

The picture reads from left to right in the order of making: an arrow points from what comes first to what stands on it.
The layout is the layered one of Sugiyama, in its plain form: each box in the column after the last of what it comes after
(longest path), edges that skip columns led through them, order in a column by a few sweeps of the mean position of the
neighbours, positions on a grid. It is deterministic (equal graphs give equal text), and linear but for the sorting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

from bayplan.plan.model import Desired, Plan
from bayplan.plan.scope import link
from bayplan.records import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A box: ``id`` is unique, ``label`` its lines of text, ``kind`` decides its colour."""

    id: str
    label: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Graph:
    """``edges`` are pairs (earlier, later) of node ids, without circles."""

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]


def of_stack(stack: str, desired: Mapping[str, Desired]) -> Graph:
    """What is declared, and what depends on what. References to what is not declared are left out."""
    edges, _ = link(desired, (), [])
    return Graph(
        stack,
        tuple(Node(address, (address,), one.kind) for address, one in desired.items()),
        tuple((earlier, address) for address, found in edges.items() for earlier in found),
    )


def of_plan(plan: Plan) -> Graph:
    """The operations of a plan, and what comes after what."""
    return Graph(
        plan.stack,
        tuple(
            Node(f"[{one.number}]", (f"[{one.number}] {one.action.value}", one.address), one.kind)
            for one in plan.operations
        ),
        tuple((f"[{earlier}]", f"[{one.number}]") for one in plan.operations for earlier in one.after),
    )


# -- DOT -----------------------------------------------------------------------------------------------------------

#: fill, line
_COLOURS: Mapping[str, tuple[str, str]] = {
    "Image": ("#e8f0fe", "#3367d6"),
    "Repository": ("#f3e8fd", "#7b3ff2"),
    "Container": ("#e6f4ea", "#1e8e3e"),
    "Network": ("#fef7e0", "#b06000"),
    "Volume": ("#fce8e6", "#c5221f"),
}
_OTHER = ("#f1f3f4", "#5f6368")


def dot(graph: Graph) -> str:
    """The graph in Graphviz's language."""
    lines = [
        f"digraph {_quoted(graph.name)} {{",
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11];',
    ]
    for node in graph.nodes:
        fill, line = _COLOURS.get(node.kind, _OTHER)
        label = _quoted("\n".join(node.label))
        lines.append(f'  {_quoted(node.id)} [label={label}, fillcolor="{fill}", color="{line}"];')
    lines += [f"  {_quoted(earlier)} -> {_quoted(later)};" for earlier, later in graph.edges]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


# -- SVG -----------------------------------------------------------------------------------------------------------

_CHARACTER = 7.3  # mean width of a character at 12 px
_LINE = 16
_PADDING = 12
_COLUMN_GAP = 56
_ROW_GAP = 16
_MARGIN = 24
_TITLE = 28
_SWEEPS = 4


@dataclass(slots=True)
class _Spot:
    """A box, or the point where a long edge passes a column (``node`` is None)."""

    node: Node | None
    column: int
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def svg(graph: Graph) -> str:
    """The graph as a standalone SVG document."""
    spots, paths = _lay_out(graph)
    width = max((spot.x + spot.width for spot in spots), default=200.0) + _MARGIN
    height = max((spot.y + spot.height for spot in spots), default=_MARGIN + _TITLE) + _MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(graph.name)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#80868b"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN + 6}" font-size="15" font-weight="600" fill="#202124">{escape(graph.name)}</text>',
    ]
    out += [_curve(path) for path in paths]
    out += [_box(spot, spot.node) for spot in spots if spot.node is not None]
    return "\n".join([*out, "</svg>"]) + "\n"


def _box(spot: _Spot, node: Node) -> str:
    fill, line = _COLOURS.get(node.kind, _OTHER)
    text = [
        f'<text x="{spot.x + _PADDING:.1f}" y="{spot.y + _PADDING + 9 + index * _LINE:.1f}" fill="#202124">'
        f"{escape(words)}</text>"
        for index, words in enumerate(node.label)
    ]
    return (
        f"<g><title>{escape(' '.join(node.label))}</title>"
        f'<rect x="{spot.x:.1f}" y="{spot.y:.1f}" width="{spot.width:.1f}" height="{spot.height:.1f}" rx="6"'
        f' fill="{fill}" stroke="{line}"/>{"".join(text)}</g>'
    )


def _curve(path: Sequence[_Spot]) -> str:
    """One edge through its points: leaves a box on the right, enters the next on the left."""
    first, last = path[0], path[-1]
    parts = [f"M{first.x + first.width:.1f} {first.middle:.1f}"]
    x, y = first.x + first.width, first.middle
    for spot in path[1:]:
        bend = (spot.x - x) / 2
        parts.append(f"C{x + bend:.1f} {y:.1f} {spot.x - bend:.1f} {spot.middle:.1f} {spot.x:.1f} {spot.middle:.1f}")
        x, y = spot.x, spot.middle
        if spot is not last:  # straight through the column
            x += spot.width
            parts.append(f"H{x:.1f}")
    return f'<path d="{"".join(parts)}" fill="none" stroke="#80868b" marker-end="url(#tip)"/>'


def _lay_out(graph: Graph) -> tuple[list[_Spot], list[list[_Spot]]]:
    columns = _columns(graph)
    spots = [_Spot(node, columns[node.id]) for node in graph.nodes]
    by_id = {spot.node.id: spot for spot in spots if spot.node}
    rows: list[list[_Spot]] = [[] for _ in range(max(columns.values(), default=0) + 1)]
    for spot in spots:
        rows[spot.column].append(spot)
    paths: list[list[_Spot]] = []
    for earlier, later in graph.edges:
        start, end = by_id[earlier], by_id[later]
        between = [_Spot(None, column) for column in range(start.column + 1, end.column)]
        for spot in between:
            rows[spot.column].append(spot)
        spots += between
        paths.append([start, *between, end])
    _order(rows, paths)
    _place(rows)
    return spots, paths


def _columns(graph: Graph) -> dict[str, int]:
    """Longest path from a node without predecessors; nodes of a circle (there is none in a plan) end up in column 0."""
    later: dict[str, list[str]] = {}
    waiting = dict.fromkeys((node.id for node in graph.nodes), 0)
    for one, other in graph.edges:
        later.setdefault(one, []).append(other)
        waiting[other] += 1
    column = dict.fromkeys(waiting, 0)
    ready = [name for name, count in waiting.items() if not count]
    for name in ready:
        for other in later.get(name, ()):
            column[other] = max(column[other], column[name] + 1)
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    return column


def _order(rows: list[list[_Spot]], paths: Iterable[Sequence[_Spot]]) -> None:
    """Put neighbours near each other: sort each column by the mean place of those before it, then of those behind."""
    before: dict[int, list[_Spot]] = {}
    behind: dict[int, list[_Spot]] = {}
    for path in paths:
        for one, other in pairwise(path):
            before.setdefault(id(other), []).append(one)
            behind.setdefault(id(one), []).append(other)

    def settle(row: list[_Spot], neighbours: Mapping[int, list[_Spot]], place: Mapping[int, int]) -> None:
        def mean(item: tuple[int, _Spot]) -> tuple[float, int]:
            index, spot = item
            near = neighbours.get(id(spot))
            return (sum(place[id(one)] for one in near) / len(near) if near else float(index), index)

        row[:] = [spot for _, spot in sorted(enumerate(row), key=mean)]

    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        place: dict[int, int] = {}
        for row in rows if forward else reversed(rows):
            settle(row, before if forward else behind, place)
            place.update((id(spot), index) for index, spot in enumerate(row))


def _place(rows: Sequence[Sequence[_Spot]]) -> None:
    """Coordinates: columns as wide as their widest box, each centred against the highest column."""
    for row in rows:
        for spot in row:
            if spot.node is not None:
                spot.width = max(map(len, spot.node.label)) * _CHARACTER + 2 * _PADDING
                spot.height = len(spot.node.label) * _LINE + 2 * _PADDING - 6
    heights = [sum(spot.height for spot in row) + _ROW_GAP * max(0, len(row) - 1) for row in rows]
    tallest = max(heights, default=0.0)
    x = float(_MARGIN)
    for row, height in zip(rows, heights, strict=True):
        width = max((spot.width for spot in row), default=0.0)
        y = _MARGIN + _TITLE + (tallest - height) / 2
        for spot in row:
            spot.x, spot.y = x, y
            spot.width = spot.width if spot.node is not None else width
            y += spot.height + _ROW_GAP
        x += width + _COLUMN_GAP
