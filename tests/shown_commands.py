"""Runs the commands that pages show, with tiny files under the names the pages use.

A command is a line of a ```console block that begins with "$ "; a backslash at its end goes on.
Model files, checkpoints and texts that no earlier command of the page makes are put there first.
"""

from __future__ import annotations

import importlib
import json
import lzma
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import registries
from warm import Warm

from edgeslm.bundle.delta_inventory import inventory_of, write_inventory
from edgeslm.bundle.delta_making import make_delta
from edgeslm.bundle.planning import Parts
from edgeslm.bundle.store import Store
from edgeslm.bundle.writing import write_bundle
from edgeslm.packager.pipeline import pack
from edgeslm.targets.loading import load_target
from edgeslm.testing import CHAT_TEMPLATE, tiny_adapter, tiny_imatrix

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"

NOT_RUN = ("git", "cd", "pip", "sudo", "apt", "ssh", "scp", "rsync", "python3", "source", "openssl")
"""What sets a machine up or reaches another one; such commands are shown but not run."""

REGISTRY = "localhost:5000"
"""Where pages have their registry; commands with it are run where one is installed."""

RUN_ELSEWHERE = ("llama-perplexity",)
"""Tools built from source; the slow tests run these commands as they are shown."""

RUN_SLOWLY = ("edgeslm wheels",)
"""Compiles and fetches for minutes; slow tests do."""

_EXAMPLES = (".json", ".jsonl", ".gbnf", ".jinja", ".toml")
CHAT = "hello\n/quit\n"
_seen: set[str] = set()
"""Commands that some page has run: one that writes nothing need not run for the next page too."""
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)


@dataclass(frozen=True)
class StandIns:
    """What is copied where a page names a file it does not make."""

    model: Path
    checkpoint: Path
    packed: Path
    tar: Path
    key: Path
    warm: Warm
    """What starts the commands."""


def make_stand_ins(model: Path, folder: Path, warm: Warm) -> StandIns:
    """A checkpoint that transformers saved, bundles, and a pair of keys."""
    sys.path += [str(ROOT / "tests" / "packager" / "convert"), str(ROOT / "tests" / "bundle")]
    import checkpoints
    import made_bundles
    import made_tokenizers

    tokenizer = made_tokenizers.byte_level("smollm", checkpoints.VOCABULARY - 1)
    checkpoint = checkpoints.save(
        checkpoints.build("llama", num_hidden_layers=1, max_position_embeddings=512),
        folder / "checkpoint",
        lambda directory: made_tokenizers.write(
            tokenizer, directory, eos_token="<|end|>", chat_template=CHAT_TEMPLATE
        ),
    )
    packed, tar = folder / "packed", folder / "packed.tar"
    for place in (packed, tar):
        pack(model, place, target=load_target("rpi4-4gb"))
    key = made_bundles.write_pair(folder / "key.pem", made_bundles.ec.SECP256R1())
    return StandIns(model, checkpoint, packed, tar, key, warm)


def shown_commands(page: Path) -> list[str]:
    """The commands of a page in their order."""
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [command for block in blocks for command in _COMMAND.findall(block)]


def is_run(command: str) -> bool:
    """Whether a command is run; a script of ours is only looked for."""
    first = command.split()[0]
    if first.startswith("scripts/"):
        script = ROOT / first
        assert os.access(script, os.X_OK), f"{first} is shown but is no script"
        return False
    if REGISTRY in command and registries.program() is None:
        return False
    if "--to /dev/" in command or "--to ssh://" in command:
        return False
    if " store activate " in command:  # a version of somebody else's
        return False
    return first not in NOT_RUN + RUN_ELSEWHERE and not command.startswith(RUN_SLOWLY)


def run_page(page: Path, folder: Path, stand_ins: StandIns) -> int:
    """Run the commands of a page in `folder`; how many those were.

    Raises:
        AssertionError: one failed; the message has what it printed.
    """
    commands = [command for command in shown_commands(page) if is_run(command)]
    environment = _environment(folder, stand_ins.warm)
    folder = folder / "work"
    folder.mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(closing(ServerOfPage(folder, environment)))
        if any(REGISTRY in command for command in commands):
            there = stack.enter_context(registries.running(folder.parent / "registry"))
            commands = [command.replace(REGISTRY, there) for command in commands]
        _run_all(page, commands, folder, environment, stand_ins, server)
    return len(commands)


def _run_all(
    page: Path,
    commands: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    stand_ins: StandIns,
    server: ServerOfPage,
) -> None:
    for command in commands:
        if command in _seen and not _writes(command):
            continue
        _seen.add(command)
        _put_inputs(command, folder, stand_ins)
        if " serve " in command:
            server.start(command)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", server.reach(command)],
            input=CHAT if " chat " in command else "",
            capture_output=True,
            text=True,
            errors="replace",
            cwd=folder,
            env=environment,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{page.name}: {command}\n{done.stdout}{done.stderr}"


class ServerOfPage:
    """The server that a page has started last, at a port that is free here."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._address = "http://localhost:8080"

    def start(self, command: str) -> None:
        self.close()
        self._process = subprocess.Popen(
            [*shlex.split(command), "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env=self._environment,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, command
        self._address = json.loads(line)["address"]

    def close(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.communicate(timeout=60)
            assert self._process.returncode == 0
            self._process = None

    def reach(self, text: str) -> str:
        """A command or a program that asks this server, not one at the usual port."""
        return text.replace("http://localhost:8080", self._address)


def run_python(page: Path, folder: Path, stand_ins: StandIns) -> int:
    """Run the Python examples of a page in `folder`; how many those were."""
    examples = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    for example in examples:
        named = re.findall(r'Path\("([^"]+)"\)', example)
        _put_inputs(" ".join(["packed/", *named]), folder, stand_ins)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_THREAD_LIMIT": "1"}
        with closing(ServerOfPage(folder, environment)) as server:
            if "localhost:8080" in example:
                module = shlex.join([sys.executable, "-m", "edgeslm"])
                server.start(f"{module} serve packed/ --name helper")
            subprocess.run(
                [sys.executable, "-c", server.reach(example)],
                cwd=folder,
                env=environment,
                check=True,
                timeout=60,
            )
    return len(examples)


def _writes(command: str) -> bool:
    words = {"-o", "--output", ">", "bench", "sign", "push", "flash", "store"}
    return not words.isdisjoint(command.split())


def _environment(folder: Path, warm: Warm) -> dict[str, str]:
    """Ours, with an `edgeslm` on PATH that is the one under test."""
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "edgeslm"
    program.write_text(f'#!/bin/sh\nexec {warm.shell_command()} "$@"\n')
    program.chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EDGESLM_STORE": str(folder / "store"),
        "EDGESLM_TARGETS": str(folder / "targets"),
        "OMP_THREAD_LIMIT": "1",
        "NO_COLOR": "1",
    }


def _measure(stand_ins: StandIns, target: Path) -> None:
    """What `profile` says of the model, on one line."""
    command = ["profile", str(stand_ins.model), "-p", "16", "-n", "8", "-r", "1", "--json"]
    done = stand_ins.warm.run(command)
    assert done.returncode == 0, done.stderr
    target.write_text(json.dumps(json.loads(done.stdout)) + "\n")


def _put_inputs(command: str, folder: Path, stand_ins: StandIns) -> None:
    """Put there what the command reads and nothing has made so far."""
    words = shlex.split(command)
    _put_store(words, Store(folder.parent / "store"), stand_ins)
    for before, word in zip(["", *words], words, strict=False):
        target = folder / word
        if before in ("-o", "--output", ">") or target.exists():
            continue
        if before == "--adapter" and word.endswith(".gguf"):
            base = next(name for name in words if name.endswith(".gguf"))
            tiny_adapter(folder / word.rpartition("=")[2], folder / base)
        elif word.endswith(".img.xz"):
            _put_system(target)
        elif before == "--runtime":
            _made("made_wheels").make_several(target, ("3.11", "3.13"))
        elif word.endswith(".gguf"):
            _put_model(target, words, stand_ins)
        elif word.endswith("/"):
            _put_folder(target, word, stand_ins)
        elif "report" in words and word.endswith((".json", ".jsonl")):
            _measure(stand_ins, target)
        else:
            _put_file(target, word, stand_ins)


def _put_store(words: Sequence[str], store: Store, stand_ins: StandIns) -> None:
    """A store with a version before the current one, for commands that use one."""
    if store.root.exists() or {"store", "inventory.json"}.isdisjoint(words):
        return
    older = store.root.with_name("older")
    write_bundle(older, Parts(stand_ins.model))
    for bundle in (older, stand_ins.packed):
        store.activate(store.add(bundle).version)


def _put_system(target: Path) -> None:
    """The image of a system, packed."""
    image = _made("made_images").make_image(target.parent.parent, "trixie")
    target.write_bytes(lzma.compress(image.read_bytes(), preset=0))


def _made(name: str) -> ModuleType:
    """A module of the tests that makes such files."""
    for folder in (ROOT / "tests" / "flash", ROOT / "tests" / "flash" / "wheels"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return importlib.import_module(name)


def _put_model(target: Path, words: Sequence[str], stand_ins: StandIns) -> None:
    if target.name.endswith("imatrix.gguf"):
        models = (target.with_name(name) for name in words if name.endswith(".gguf"))
        tiny_imatrix(target, next(models))
    else:
        os.link(stand_ins.model, target)  # the same file: its first load is paid for once


def _put_folder(target: Path, word: str, stand_ins: StandIns) -> None:
    if word == "packed-whole/":
        wheels = _made("made_wheels").make_several(target.parent.parent / "wheels", ("3.13",))
        runtimes = (wheels / "runtime.json").read_bytes()
        parts = Parts(stand_ins.model, wheels=sorted(wheels.glob("*.whl")), runtimes=runtimes)
        write_bundle(target, parts)
    elif re.fullmatch(r"packed[\w-]*/", word):
        shutil.copytree(stand_ins.packed, target, copy_function=os.link)
    elif re.fullmatch(r"[\w.-]+/", word):
        shutil.copytree(stand_ins.checkpoint, target)


def _put_file(target: Path, word: str, stand_ins: StandIns) -> None:
    if word.endswith(".txt"):
        target.write_text("Dear friend, how are you?\n" * (50 if word == "letters.txt" else 1))
    elif word.endswith(_EXAMPLES) and (EXAMPLES / word).exists():
        _put_example(word, target.parent, stand_ins)
    elif word == "config.json":
        shutil.copy(stand_ins.checkpoint / word, target)
    elif word.endswith("/config.json"):
        shutil.copytree(stand_ins.checkpoint, target.parent)
    elif word.endswith(".tar"):
        shutil.copy(stand_ins.tar, target)
    elif word == "inventory.json":
        target.write_bytes(write_inventory(inventory_of(target.parent.parent / "store")))
    elif word == "update.delta":
        known = inventory_of(target.parent.parent / "store")
        make_delta(stand_ins.packed, known, target)
    elif word in ("key.pem", "key.pub"):
        for kind in (".pem", ".pub"):
            shutil.copy(stand_ins.key.with_suffix(kind), target.with_suffix(kind))


def _put_example(name: str, folder: Path, stand_ins: StandIns) -> None:
    """An example, and the models that it names; nobody waits for these to warm up."""
    text = (EXAMPLES / name).read_text()
    (folder / name).write_text(text.replace("[runs]\n", "[runs]\nwarm_up_seconds = 0\n"))
    for model in re.findall(r'"([\w-]+\.gguf)"', text):
        if not (folder / model).exists():
            os.link(stand_ins.model, folder / model)
