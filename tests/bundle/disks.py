"""A model of a disk that loses power: what was synced is there, and of the rest whatever happens.

More hostile than file systems are: any of the changes of names since a folder was synced may have
happened without the others, in whatever folder, and a file holds what was last synced, the same cut
short, zeros in place of some of what was written since, or all of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeslm.bundle.durable import Kind, Operation


@dataclass
class Node:
    """A file or a folder, and what of it a disk surely holds."""

    folder: bool
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    names: dict[str, Node] = field(default_factory=dict)
    held: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """Of a name in a folder: to a node, or to nothing."""

    folder: Node
    name: str
    node: Node | None


class Disk:
    """Takes operations as the store does them, below one folder that is there already."""

    def __init__(self, root: Path) -> None:
        self._path = root
        self._root = Node(folder=True)
        self._pending: list[tuple[Change, ...]] = []
        """Each happens as a whole, or not."""

    def copy_in(self, path: Path) -> None:
        """Have the disk surely hold what a folder holds now."""
        self._root = _node_of(path, {})
        self._pending = []

    def do(self, operation: Operation) -> None:
        """One operation."""
        folder, name = self._place(operation.path)
        node = folder.names.get(name) if name else self._root
        kind = operation.kind
        if kind in (Kind.CREATE, Kind.MAKE_FOLDER):
            self._change(Change(folder, name, Node(folder=kind is Kind.MAKE_FOLDER)))
        elif kind in (Kind.UNLINK, Kind.REMOVE_FOLDER):
            self._change(Change(folder, name, None))
        elif kind in (Kind.RENAME, Kind.LINK):
            assert operation.target is not None and node is not None
            new_folder, new_name = self._place(operation.target)
            gone = [Change(folder, name, None)] if kind is Kind.RENAME else []
            self._change(*gone, Change(new_folder, new_name, node))
        else:
            assert node is not None, operation
            self._on_node(node, operation)

    def after_a_cut(self, seed: random.Random, target: Path) -> None:
        """Write what the disk may hold if the power goes now."""
        held: dict[int, dict[str, Node]] = {}
        _collect(self._root, held)
        for changes in self._pending:
            if seed.random() < 0.5:
                for change in changes:
                    names = held.setdefault(id(change.folder), dict(change.folder.held))
                    if change.node is None:
                        names.pop(change.name, None)
                    else:
                        names[change.name] = change.node
        _write(self._root, held, seed, target, {}, set())

    def _on_node(self, node: Node, operation: Operation) -> None:
        if operation.kind is Kind.WRITE:
            end = operation.offset + len(operation.data)
            node.data.extend(bytes(max(0, end - len(node.data))))
            node.data[operation.offset : end] = operation.data
        elif operation.kind is Kind.TRUNCATE:
            del node.data[operation.offset :]
        elif operation.kind is Kind.SYNC:
            node.synced = bytes(node.data)
        elif operation.kind is Kind.SYNC_FOLDER:
            node.held = dict(node.names)
            # what was renamed into a folder has left the other one too
            done = [each for each in self._pending if each[-1].folder is node]
            for changes in done:
                for change in changes:
                    _apply(change, change.folder.held)
            self._pending = [each for each in self._pending if each not in done]

    def _change(self, *changes: Change) -> None:
        for change in changes:
            _apply(change, change.folder.names)
        self._pending.append(changes)

    def _place(self, path: Path) -> tuple[Node, str]:
        parts = path.relative_to(self._path).parts
        folder = self._root
        for part in parts[:-1]:
            folder = folder.names[part]
        return folder, parts[-1] if parts else ""


def replayed(root: Path, before: Path | None, operations: Sequence[Operation]) -> Disk:
    """A disk that held a copy of `before`, after these operations below `root`."""
    disk = Disk(root)
    if before is not None:
        disk.copy_in(before)
    for operation in operations:
        disk.do(operation)
    return disk


def _apply(change: Change, names: dict[str, Node]) -> None:
    if change.node is None:
        names.pop(change.name, None)
    else:
        names[change.name] = change.node


def _collect(node: Node, held: dict[int, dict[str, Node]]) -> None:
    if not node.folder or id(node) in held:
        return
    held[id(node)] = dict(node.held)
    for below in [*node.held.values(), *node.names.values()]:
        _collect(below, held)


def _node_of(path: Path, known: dict[int, Node]) -> Node:
    if not path.is_dir():
        inode = path.stat().st_ino
        if inode not in known:
            data = path.read_bytes()
            known[inode] = Node(folder=False, data=bytearray(data), synced=data)
        return known[inode]
    names = {each.name: _node_of(each, known) for each in path.iterdir()}
    return Node(folder=True, names=names, held=dict(names))


def _write(
    node: Node,
    held: dict[int, dict[str, Node]],
    seed: random.Random,
    target: Path,
    written: dict[int, Path],
    above: set[int],
) -> None:
    if not node.folder:
        if id(node) in written:
            target.hardlink_to(written[id(node)])
        else:
            target.write_bytes(_torn(node, seed))
            written[id(node)] = target
        return
    if id(node) in above:  # a folder renamed into itself by changes that lost their order
        return
    target.mkdir(exist_ok=True)
    for name, below in held.get(id(node), node.held).items():
        _write(below, held, seed, target / name, written, above | {id(node)})


def _torn(node: Node, seed: random.Random) -> bytes:
    """What a file may hold."""
    now = bytes(node.data)
    if now == node.synced:
        return now
    kind = seed.randrange(5)
    if kind == 0:
        return node.synced
    if kind == 1:
        return now
    if kind == 2:
        return now[: seed.randrange(len(now) + 1)]
    start = seed.randrange(len(now) + 1)
    if kind == 3:  # as long, and zeros where nothing had been written yet
        return now[:start] + bytes(len(now) - start)
    return node.synced[:start] + now[start:]
