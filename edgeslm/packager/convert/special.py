"""Which tokens begin and end a text, and the chat templates that use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeslm.errors import InvalidCheckpoint, reading
from edgeslm.gguf.types import Field
from edgeslm.packager.convert.checkpoint import Checkpoint, read_optional_json
from edgeslm.packager.convert.fields import text, texts
from edgeslm.packager.convert.values import section

_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Roles as Hugging Face and as GGUF call them."""

_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>")
_RECOGNISED = frozenset((*_TURN_ENDS, "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "</s>"))
"""What llama.cpp takes for an end of generation by its text alone."""


def special_ids(
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    ids: Mapping[str, int],
    added: Mapping[str, int],
) -> dict[str, int]:
    """Token ids by role, as GGUF names them.

    A role comes from tokenizer_config.json or special_tokens_map.json, else from what the
    tokenizer adds to texts, else from the ids in generation_config.json and config.json,
    which are often a class's defaults. Further ends of generation become the "eot" and
    "eom" tokens, the two more that GGUF has room for.

    Args:
        checkpoint: Its side files name the tokens.
        settings: tokenizer_config.json.
        tokenizer: tokenizer.json.
        ids: The vocabulary by text.
        added: By role, the tokens that the tokenizer puts around a text.
    """
    named = read_optional_json(checkpoint.directory / "special_tokens_map.json") | {
        key: value for key, value in settings.items() if value is not None
    }
    if tokenizer["model"].get("unk_token"):
        named.setdefault("unk_token", tokenizer["model"]["unk_token"])
    special: dict[str, int] = {}
    for role, key in _ROLES.items():
        number = ids.get(_content(named.get(f"{role}_token")))
        listed = _listed(checkpoint, role, len(ids))
        if number is None:
            number = added.get(role, listed[0] if listed else None)
        if number is not None:
            special[key] = number
    return special | _further_ends(_listed(checkpoint, "eos", len(ids)), special, ids)


def chat_templates(checkpoint: Checkpoint) -> list[Field]:
    """The chat templates, wherever the checkpoint keeps them.

    Raises:
        InvalidCheckpoint: they are not text.
    """
    templates = _templates(checkpoint)
    default = templates.pop("default", None)
    fields = [] if default is None else [text("tokenizer.chat_template", default)]
    for name, template in sorted(templates.items()):
        fields.append(text(f"tokenizer.chat_template.{name}", template))
    if templates:
        fields.append(texts("tokenizer.chat_templates", sorted(templates)))
    return fields


def _content(token: Any) -> str:
    """A token's text, written plainly or as an object with `content`."""
    value = token.get("content") if isinstance(token, Mapping) else token
    return value if isinstance(value, str) else ""


def _listed(checkpoint: Checkpoint, role: str, count: int) -> list[int]:
    """The ids of a role in the configs; a negative or too large one means none."""
    inner = section(checkpoint.config, "text_config")
    for config in (checkpoint.generation, checkpoint.config, inner):
        value = config.get(f"{role}_token_id")
        values = value if isinstance(value, list) else [value]
        found = [number for number in values if type(number) is int and 0 <= number < count]
        if found:
            return found
    return []


def _further_ends(
    listed: list[int], special: Mapping[str, int], ids: Mapping[str, int]
) -> dict[str, int]:
    """End-of-turn and end-of-message ids."""
    texts_by_id = {number: token for token, number in ids.items() if number in listed}
    others = [number for number in listed if number != special.get("eos")]
    turn_ends = [number for number in others if texts_by_id[number] in _TURN_ENDS]
    unrecognised = [number for number in others if texts_by_id[number] not in _RECOGNISED]
    return dict(zip(("eot", "eom"), turn_ends[:1] + unrecognised, strict=False))


def _templates(checkpoint: Checkpoint) -> dict[str, str]:
    """By name; files of their own go before what tokenizer_config.json holds."""
    directory = checkpoint.directory
    templates: dict[str, str] = {}
    for name in ("tokenizer_config.json", "chat_template.json"):
        templates |= _named(read_optional_json(directory / name).get("chat_template"), name)
    files = {"default": directory / "chat_template.jinja"}
    files |= {path.stem: path for path in (directory / "additional_chat_templates").glob("*.jinja")}
    for name, path in files.items():
        if path.is_file():
            templates[name] = _text(path)
    return templates


def _text(path: Path) -> str:
    with reading(path):
        data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidCheckpoint(
            f"{path}: not UTF-8 text", hint="Download or copy it again."
        ) from error


def _named(value: Any, file: str) -> dict[str, str]:
    """One template, or a list of {name, template}."""
    if value is None:
        return {}
    entries = [{"name": "default", "template": value}] if isinstance(value, str) else value
    try:
        found = {entry["name"]: entry["template"] for entry in entries}
    except (TypeError, KeyError):
        found = {"": None}
    if not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise InvalidCheckpoint(
            f"{file}: the chat template is neither text nor a list of named ones",
            hint="Compare it with the original model's.",
        )
    return found
