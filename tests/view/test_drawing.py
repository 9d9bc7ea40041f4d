"""Pictures: every format whole, every operation in it, nothing left behind when it fails."""

from __future__ import annotations

import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import networkx as nx
import pytest
import torch
from matplotlib import image
from models import ZOO
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.api import compile_model
from ffebm_compiler.options import Options
from ffebm_compiler.view import draw_graph, partition_graph
from ffebm_compiler.view.arrange import arrange
from ffebm_compiler.view.scene import LONGEST, Scene, shortened

SVG = "{http://www.w3.org/2000/svg}"


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Linear(6, 8), nn.Linear(8, 8)
        self.drop = nn.Dropout(0.1)
        self.add_module('weird <name> & "q" $x$ 層', nn.Linear(16, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.stem(x))
        y = torch.cat([torch.tanh(self.body(h)), h], -1)
        return getattr(self, 'weird <name> & "q" $x$ 層')(self.drop(y)), h


@pytest.fixture
def graph() -> nx.DiGraph:
    return fc.convert(Toy(), block_size=2).to_networkx()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    return path


def titles(svg: ET.Element) -> list[str]:
    return [t.text.splitlines()[0] for t in svg.iter(f"{SVG}title")]


def test_svg_shows_every_operation_block_and_edge(graph: nx.DiGraph, folder: Path) -> None:
    svg = ET.parse(draw_graph(graph, folder / "g.svg")).getroot()
    drawn = next(g for g in svg.iter(f"{SVG}g") if g.get("class") == "graph")
    assert sorted(titles(drawn)) == sorted(graph)
    kinds = [g.get("class") for g in drawn]
    assert sum(k.startswith("wire") for k in kinds) == graph.number_of_edges()
    assert kinds.count("wire feedback") == sum(f for *_, f in graph.edges(data="feedback")) > 0
    assert {"box state", "box weighted", "box digital", "box end"} <= set(kinds)
    text = "".join(svg.itertext())
    assert all(f"{b} · " in text for b in ("block1", "digital1", "block2"))
    assert "prefers-color-scheme: dark" in text


def test_html_is_one_file_that_needs_nothing_else(graph: nx.DiGraph, folder: Path) -> None:
    html = draw_graph(graph, folder / "g.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 1
    assert "{{" not in html.split("<script>")[0]
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+[^\s\"']*", html))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|img|iframe)\b|@import|\bsrc=|url\(", html)


def test_png_is_a_picture_with_its_colours(graph: nx.DiGraph, folder: Path) -> None:
    pixels = image.imread(draw_graph(graph, folder / "g.PNG"))
    assert min(pixels.shape[:2]) > 300
    orange = torch.tensor([0xF2, 0xA6, 0x5A]) / 255
    near = (torch.from_numpy(pixels[..., :3]) - orange).abs().amax(-1) < 0.02
    assert near.sum() > 1000


@pytest.mark.parametrize("name", ["g.gif", "g", "g.svg.txt"])
def test_an_unknown_suffix_names_the_formats(graph: nx.DiGraph, folder: Path, name: str) -> None:
    with pytest.raises(fc.OptionError, match=r"no picture format\n.*\.svg, \.png, \.html"):
        draw_graph(graph, folder / name)
    assert list(folder.iterdir()) == []


def test_a_missing_folder_and_a_folder_for_a_file_are_errors(graph: nx.DiGraph, folder: Path) -> None:
    with pytest.raises(fc.OptionError, match=r"the folder .*no/such does not exist"):
        draw_graph(graph, folder / "no" / "such" / "g.svg")
    (folder / "g.svg").mkdir()
    with pytest.raises(fc.OptionError, match="is a folder"):
        draw_graph(graph, folder / "g.svg")


def test_a_failed_write_leaves_what_was_there(graph: nx.DiGraph, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "g.svg"
    path.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(fc.OptionError, match="No space left on device"):
        draw_graph(graph, path)
    assert path.read_text() == "before"
    assert list(folder.iterdir()) == [path]


def test_the_file_has_the_usual_permissions(graph: nx.DiGraph, folder: Path) -> None:
    (folder / "plain").touch()
    assert draw_graph(graph, folder / "g.svg").stat().st_mode == (folder / "plain").stat().st_mode


def test_png_without_matplotlib_says_what_to_install(
    graph: nx.DiGraph, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(fc.OptionError, match=r"pip install 'ffebm_compiler\[viz\]'"):
        draw_graph(graph, folder / "g.png")
    assert list(folder.iterdir()) == []


def test_a_picture_can_be_drawn_of_a_graph_read_back(graph: nx.DiGraph, folder: Path) -> None:
    nx.write_graphml(graph, folder / "g.graphml")
    back = ET.parse(draw_graph(nx.read_graphml(folder / "g.graphml"), folder / "back.svg")).getroot()
    assert sorted(titles(back)) == sorted(titles(ET.parse(draw_graph(graph, folder / "g.svg")).getroot()))


def test_graphs_of_the_users_own(folder: Path) -> None:
    for graph in (nx.DiGraph(), nx.DiGraph([("a", "b"), ("a", "c")])):
        assert sorted(graph) == sorted(
            t for t in titles(ET.parse(draw_graph(graph, folder / "g.svg")).getroot()) if len(t) == 1
        )
    with pytest.raises(fc.OptionError, match="has a cycle"):
        draw_graph(nx.DiGraph([("a", "b"), ("b", "a")]), folder / "cycle.svg")
    assert not (folder / "cycle.svg").exists()


def test_long_names_keep_both_ends() -> None:
    name = "encoder.layers.0." + "very_" * 20 + "long.conv1"
    short = shortened(name)
    assert len(short) == LONGEST
    assert short.startswith("encoder.layer")
    assert short.endswith("long.conv1")
    assert shortened("conv1") == "conv1"


# --- layouts ----------------------------------------------------------------------------------------------


def check_scene(scene: Scene, graph: nx.DiGraph) -> None:
    """Boxes apart, inside their frames; frames apart; wires from box to box."""
    rectangles = [(b.x - b.label.size[0] / 2, b.y - b.label.size[1] / 2, *b.label.size) for b in scene.boxes]
    frames = [(f.x, f.y, f.width, f.height) for f in scene.frames]
    assert not any(overlap(a, b) for i, a in enumerate(rectangles) for b in rectangles[:i])
    assert not any(overlap(a, b) for i, a in enumerate(frames) for b in frames[:i])
    assert not any(
        overlap(r, (x, y, width, 20.0)) for r in rectangles for x, y, width, _ in frames
    )  # the titles' places
    for box, rectangle in zip(scene.boxes, rectangles, strict=True):
        holders = [f for f, r in zip(scene.frames, frames, strict=True) if overlap(r, rectangle)]
        assert len(holders) == (box.label.style != "end")
    assert len(scene.wires) == graph.number_of_edges()
    for wire in scene.wires:
        assert all(any(touches(r, p) for r in rectangles) for p in (wire.points[0], wire.points[-1]))


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return (
        a[0] < b[0] + b[2] - 0.01
        and b[0] < a[0] + a[2] - 0.01
        and a[1] < b[1] + b[3] - 0.01
        and b[1] < a[1] + a[3] - 0.01
    )


def touches(r: tuple[float, ...], p: tuple[float, float]) -> bool:
    return r[0] - 2 <= p[0] <= r[0] + r[2] + 2 and r[1] - 2 <= p[1] <= r[1] + r[3] + 2


@pytest.mark.parametrize("entry", [e for e in ZOO if not e.export and e.requires == "torch"], ids=lambda e: e.name)
@pytest.mark.parametrize("size", [1, 3])
def test_boxes_and_blocks_keep_apart_on_the_zoo(entry: object, size: int) -> None:
    model, _ = entry.build()
    compiled = compile_model(model, Options(block_size=size, loop_gain=0.01))
    graph = partition_graph(compiled.modes[model.training].program, compiled.network)
    check_scene(arrange(graph), graph)
