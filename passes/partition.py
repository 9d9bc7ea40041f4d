"""Pass 4, partition: which call goes into which block.

Every call gets a *position*: even positions are digital, odd ones analog, and a position never decreases along
an edge, so the blocks form an acyclic graph whatever the model looks like. Within an odd position each
connected group of calls is one energy-based block. A call joins the block of its operands unless that makes
the block too large, and otherwise opens one two positions later.

Two clean-ups follow. A call without weights at the end of a block (a pooling after the last activation) has no
state after it: it moves into the block that reads it, or becomes digital. A block without any weighted
layer is digital as a whole.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx

from ..errors import OptionError, PartitionError, Problem
from ..rules import Reading, Role
from .legality import Legal


@dataclass(frozen=True)
class Partitioned:
    """Stage 4.

    Attributes:
        legal: the stage before; its graph may have gained copies of calls that are read on both sides.
        groups: the calls of each block in order of execution; True marks an energy-based one.
        reasons: why each digital call is digital.
        readings, roles, origins: as before, including the copies.
    """

    legal: Legal
    groups: tuple[tuple[bool, tuple[fx.Node, ...]], ...]
    reasons: Mapping[fx.Node, str]
    readings: Mapping[fx.Node, Reading]
    roles: Mapping[fx.Node, Role]


OPENING_NORM = "batch norm before the first activation of a block: it trains with batch statistics"


def partition(legal: Legal, block_size: int | None = None, block_sizes: Sequence[int] | None = None) -> Partitioned:
    """Groups the calls into blocks of at most ``block_size`` weighted layers, or of ``block_sizes`` in order.

    Raises:
        PartitionError: a layer that ``analog=`` insists on ends up digital.
        OptionError: ``block_sizes`` has more or fewer entries than the model forms blocks.
    """
    work = _Partitioner(legal, block_size, block_sizes)
    work.place()
    work.sink()
    work.drop_weightless()
    result = work.result()
    _check_insisted(legal, result)
    if block_sizes is not None:
        _check_sizes(block_sizes, result)
    return result


def _check_insisted(legal: Legal, result: Partitioned) -> None:
    remedy = "Remove it from analog=, or insist on the layers around it too."
    problems = [
        Problem(f"layer {legal.canonical.origins[n].label}", f"analog= insists on it, but {result.reasons[n]}", remedy)
        for n in legal.insisted
        if n in result.reasons
    ]
    if problems:
        raise PartitionError(problems)


def _check_sizes(block_sizes: Sequence[int], result: Partitioned) -> None:
    origins, blocks = result.legal.canonical.origins, [nodes for analog, nodes in result.groups if analog]
    if len(blocks) != len(block_sizes):
        shown = "; ".join(", ".join(origins[n].label for n in b if result.readings[n].weighted) for b in blocks)
        what = f"names {len(block_sizes)} blocks, but with these sizes the model forms {len(blocks)}: {shown}"
        boundaries = "a boundary ends a block early, and explain(model, block_size=n) shows the boundaries"
        remedy = f"Give one size a block; {boundaries}."
        raise OptionError(Problem("option block_sizes", what, remedy))


def _reads_instead(reading: Reading, old: fx.Node, new: fx.Node) -> Reading:
    operands = tuple(new if o is old else o for o in reading.operands)
    return replace(reading, operands=operands, given=frozenset(new if g is old else g for g in reading.given))


class _Partitioner:
    """The mutable work of one partition."""

    def __init__(self, legal: Legal, block_size: int | None, block_sizes: Sequence[int] | None):
        self.canonical = legal.canonical
        self.graph = legal.canonical.graph
        self.roles = dict(legal.roles)
        self.reasons = dict(legal.reasons)
        self.readings = {n: r for n, r in legal.canonical.readings.items() if isinstance(r, Reading)}
        self.position: dict[fx.Node, int] = {}
        self.block: dict[fx.Node, int] = {}  # calls in odd positions: index of their group
        self.merged: list[int] = []  # union-find over groups
        self.weighted: list[int] = []  # weighted calls of each group
        self.opened: list[int] = []  # the groups with weighted calls, in order
        self.size = block_size
        self.sizes = block_sizes
        self.on_state: set[fx.Node] = set()  # depends on a state of its own block
        self.is_state: set[fx.Node] = set()
        self.heavy: set[fx.Node] = set()  # a weighted call since the last state

    # --- groups ---

    def group(self, node: fx.Node) -> int | None:
        return self.find(self.block[node]) if node in self.block else None

    def find(self, g: int) -> int:
        while self.merged[g] != g:
            self.merged[g] = g = self.merged[self.merged[g]]
        return g

    def limit(self, groups: set[int]) -> int:
        """The size that a block of these groups may have; a new group takes the next entry."""
        if self.size is not None:
            return self.size
        assert self.sizes is not None
        first = min((g for g in groups if self.weighted[g] > 0), default=len(self.merged))
        return self.sizes[min(bisect_left(self.opened, first), len(self.sizes) - 1)]

    def join(self, groups: set[int], node: fx.Node) -> None:
        if not groups:
            g = len(self.merged)
            self.merged.append(g)
            self.weighted.append(0)
        else:
            g, *others = sorted(groups)
            for other in others:
                self.merged[other] = g
                self.weighted[g] += self.weighted[other]
                if self.weighted[other]:
                    del self.opened[bisect_left(self.opened, other)]
        self.block[node] = g
        self.weighted[g] += self.readings[node].weighted
        at = bisect_left(self.opened, g)
        if self.weighted[g] and self.opened[at : at + 1] != [g]:
            self.opened.insert(at, g)

    # --- placing ---

    def place(self) -> None:
        last: dict[str, int] = {}  # where an overwritten buffer was touched: in the order of the model
        for node in self.graph.nodes:
            touched = self.canonical.touched.get(node, ())
            before = [*(self.position.get(i, 0) for i in node.all_input_nodes), *(last.get(b, 0) for b in touched)]
            base = max(before, default=0)
            if node not in self.roles:
                self.position[node] = base + base % 2
                last.update(dict.fromkeys(touched, self.position[node]))
                self.pull(node)
            else:
                self.place_analog(node, base)

    def pull(self, node: fx.Node) -> None:
        """Places the views of the model's tensors that a call has for itself where it is."""
        for view in node.all_input_nodes:
            if view in self.canonical.beside:
                self.position[view] = self.position[node]
                self.pull(view)

    def place_analog(self, node: fx.Node, base: int) -> None:
        reading = self.readings[node]
        position = base + (base + 1) % 2
        while True:
            groups = {self.find(self.block[i]) for i in self.sources(node, position)}
            if self.fits(node, reading, position, groups):
                break
            position += 2
        reason = self.refusal(node, position, groups)
        if reason is not None:
            self.position[node] = base + base % 2
            del self.roles[node]
            self.reasons[node] = reason
            return
        self.position[node] = position
        self.join(groups, node)
        self.note_flags(node, self.sources(node, position))

    def sources(self, node: fx.Node, position: int) -> list[fx.Node]:
        """The operands in the node's own block."""
        return [i for i in node.all_input_nodes if self.position.get(i) == position and i in self.block]

    def fits(self, node: fx.Node, reading: Reading, position: int, groups: set[int]) -> bool:
        if any(self.position.get(g, 0) >= position for g in reading.given):
            return False  # a size or a computed weight is known before the block relaxes
        limit = self.limit(groups)
        size = sum(self.weighted[g] for g in groups) + reading.weighted
        if size > limit and groups:
            return False
        return not (limit == 1 and groups and self.would_feed_back(node, position))

    def would_feed_back(self, node: fx.Node, position: int) -> bool:
        """A block of size one has no feedback: no state may read a state."""
        sources = self.sources(node, position)
        heavy = self.readings[node].weighted or any(i in self.heavy for i in sources)
        return self.reads_state(sources) and (heavy or self.roles[node] is Role.POTENTIAL)

    def reads_state(self, sources: list[fx.Node]) -> bool:
        return any(i in self.on_state or i in self.is_state for i in sources)

    def refusal(self, node: fx.Node, position: int, groups: set[int]) -> str | None:
        """Why a call that has an energy is digital where it stands."""
        sources = self.sources(node, position)
        if self.roles[node] is Role.NORM and not self.reads_state(sources):
            return OPENING_NORM
        if self.roles[node] is Role.POTENTIAL and self.limit(groups) == 1 and not any(i in self.heavy for i in sources):
            return "activation without a weighted layer before it, in a block of size 1"
        return None

    def note_flags(self, node: fx.Node, sources: list[fx.Node]) -> None:
        heavy = self.readings[node].weighted or any(i in self.heavy for i in sources)
        on_state = self.reads_state(sources)
        role = self.roles[node]
        if role is Role.POTENTIAL:
            self.is_state.add(node)
            return
        if role is Role.SMOOTH and heavy:  # its pre-activation becomes a state
            on_state, heavy = True, False
        if heavy:
            self.heavy.add(node)
        if on_state:
            self.on_state.add(node)

    # --- clean-ups ---

    def sink(self) -> None:
        """Moves trailing calls without weights to the block that reads them, or out."""
        for node in reversed(list(self.graph.nodes)):
            if node not in self.block or node in self.is_state or node in self.heavy:
                continue
            inside = [u for u in node.users if self.group(u) == self.group(node)]
            outside = [u for u in node.users if self.group(u) != self.group(node)]
            if inside and outside and self.canonical.rules[node].role is Role.NORM:
                continue  # a copy would count the batch again, and not be held where it is: its output becomes a state
            if inside and outside:
                self.move(self.copy(node, outside), outside)
            elif not inside:
                self.move(node, outside)

    def copy(self, node: fx.Node, readers: list[fx.Node]) -> fx.Node:
        with self.graph.inserting_after(node):
            twin = self.graph.node_copy(node, lambda n: n)
        for reader in readers:
            reader.replace_input_with(node, twin)
            if reader in self.readings:
                self.readings[reader] = _reads_instead(self.readings[reader], node, twin)
        self.readings[twin] = self.readings[node]
        self.roles[twin] = self.roles[node]
        self.position[twin] = self.position[node]
        self.canonical.origins[twin] = self.canonical.origins[node]  # type: ignore[index]
        self.block[twin] = self.block[node]
        return twin

    def move(self, node: fx.Node, readers: list[fx.Node]) -> None:
        is_norm = self.roles[node] is Role.NORM  # no state of the block that would read it comes before it
        readings = [self.readings.get(u) for u in readers]
        given = any(r is not None and node in r.given for r in readings)
        groups = [*{self.group(u) for u in readers}]
        if len(groups) == 1 and groups[0] is not None and not given and not is_norm:
            self.block[node] = groups[0]
            self.position[node] = self.position[readers[0]]
            return
        del self.block[node]
        del self.roles[node]
        self.position[node] += 1
        self.reasons[node] = OPENING_NORM if is_norm else "reads a block's output, and no state follows it in a block"

    def drop_weightless(self) -> None:
        """A block without a weighted layer is digital."""
        for node in list(self.block):
            g = self.group(node)
            assert g is not None
            if self.weighted[g] == 0:
                del self.block[node]
                role = self.roles.pop(node)
                kind = "activation" if role in (Role.POTENTIAL, Role.SMOOTH) else "operation"
                self.reasons[node] = f"{kind} with no weighted layer beside it to form a block"

    # --- result ---

    def result(self) -> Partitioned:
        order = {n: i for i, n in enumerate(self.graph.nodes)}
        buckets: dict[tuple[int, int], list[fx.Node]] = {}
        first: dict[int, int] = {}
        for node in self.graph.nodes:
            if not node.op.startswith("call"):
                continue
            g = self.group(node)
            if g is not None:
                first.setdefault(g, order[node])
            buckets.setdefault((self.position[node], -1 if g is None else first[g]), []).append(node)
        groups: list[tuple[bool, list[fx.Node]]] = []
        for (_, key), nodes in sorted(buckets.items()):
            if key == -1 and groups and not groups[-1][0]:
                groups[-1][1].extend(nodes)
            else:
                groups.append((key != -1, nodes))
        return Partitioned(
            Legal(self.canonical, self.roles, self.reasons, frozenset(), ""),
            tuple((analog, tuple(nodes)) for analog, nodes in groups),
            self.reasons,
            self.readings,
            self.roles,
        )
