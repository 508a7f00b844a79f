"""What stands for `edgeslm store` on a board: its commands, its folders, without its checks."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path


def main(words: list[str]) -> int:
    verb, store = words[0], Path(words[words.index("--store") + 1])
    state = _state(store)
    if verb == "add":
        return _add(store, Path(words[1]))
    if verb == "activate":
        if state["current"] != words[1]:
            _write(store, {**state, "current": words[1], "previous": state["current"]})
    elif verb == "rollback":
        _write(store, {**state, "current": state["previous"], "previous": state["current"]})
    elif verb == "collect":
        for path in (store / "versions").iterdir():
            if path.name not in (state["current"], state["previous"]):
                path.rename(store / "incoming" / path.name)
                shutil.rmtree(store / "incoming" / path.name)
    return 0


def current(store: Path) -> Path:
    return store / "versions" / str(_state(store)["current"])


def _add(store: Path, bundle: Path) -> int:
    from edgeslm.bundle.verification import verify_bundle

    version = (verify_bundle(bundle).contents.digest or "")[:32]
    incoming = store / "incoming" / version
    shutil.rmtree(incoming, ignore_errors=True)
    for name in ("versions", "incoming"):
        (store / name).mkdir(parents=True, exist_ok=True)
    if not (store / "versions" / version).exists():
        shutil.copytree(bundle, incoming)
        incoming.rename(store / "versions" / version)
    if (bundle / "model.sig").exists():
        shutil.copy(bundle / "model.sig", store / "versions" / version)
    return 0


def _state(store: Path) -> dict[str, object]:
    usual = {"schema": "edgeslm.store/1", "current": None, "previous": None, "refused": []}
    file = store / "state.json"
    return {**usual, **(json.loads(file.read_text()) if file.exists() else {})}


def _write(store: Path, state: dict[str, object]) -> None:
    new = store / "state.new"
    new.write_text(json.dumps(state))
    new.replace(store / "state.json")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
