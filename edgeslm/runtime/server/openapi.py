"""The API's description as an OpenAPI document, made of the types that are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edgeslm.runtime.server import bodies, wire

_REFERENCE = "#/components/schemas/{name}"
_PROBLEMS = {
    "400": "The request cannot be answered; the message says why.",
    "401": "An API key is needed.",
    "403": "The host or the origin is not allowed.",
    "404": "There is no such model.",
    "408": "The body did not arrive in time.",
    "413": "The body is too long.",
    "415": "The body is not said to be JSON.",
    "429": "Too many requests are waiting.",
    "500": "Something went wrong in the server.",
}
_POSTS = {
    "/v1/chat/completions": (wire.ChatRequest, bodies.Chat, "Answer a conversation", True),
    "/v1/completions": (wire.CompletionRequest, bodies.Completion, "Continue a text", True),
    "/v1/embeddings": (wire.EmbeddingRequest, bodies.Embeddings, "Make vectors of texts", False),
}
_GETS: dict[str, tuple[type[msgspec.Struct] | None, str, str]] = {
    "/v1/models": (bodies.ModelList, "application/json", "The models that can be asked"),
    "/v1/models/{name}": (bodies.ModelCard, "application/json", "One of them"),
    "/health": (bodies.Health, "application/json", "Whether the server answers"),
    "/metrics": (None, "text/plain", "Figures for Prometheus"),
    "/openapi.json": (None, "application/json", "This document"),
}


def document(models: Sequence[str]) -> dict[str, Any]:
    """The whole of it.

    Args:
        models: Names by which models are asked for.
    """
    kinds = [each for post in _POSTS.values() for each in post[:2]]
    kinds += [get[0] for get in _GETS.values() if get[0] is not None]
    kinds.append(bodies.ProblemBody)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    reference = dict(zip(kinds, schemas, strict=True))
    problem = _content(reference[bodies.ProblemBody], "application/json")
    problems = {
        status: {"description": text, "content": problem} for status, text in _PROBLEMS.items()
    }
    paths: dict[str, Any] = {}
    for path, (request, answer, summary, streams) in _POSTS.items():
        content = _content(reference[answer], "application/json")
        if streams:
            content["text/event-stream"] = {}
        paths[path] = {
            "post": {
                "summary": summary,
                "operationId": path.strip("/").replace("/", "_"),
                "requestBody": {
                    "required": True,
                    "content": _content(reference[request], "application/json"),
                },
                "responses": {"200": {"description": "Done.", "content": content}, **problems},
            }
        }
    for path, (body, kind, summary) in _GETS.items():
        schema = reference[body] if body is not None else _free(kind)
        paths[path] = {"get": _get(path, summary, _content(schema, kind), problems)}
    paths["/v1/models/{name}"]["get"]["parameters"] = [_name_of(models)]
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgeslm", "version": "1", "description": "Small models over HTTP."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _get(path: str, summary: str, content: Any, problems: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": path.strip("/").replace("/", "_").replace(".", "_").replace("{name}", "one"),
        "responses": {
            "200": {"description": "Done.", "content": content},
            **{status: problems[status] for status in ("401", "403", "404", "500")},
        },
    }


def _name_of(models: Sequence[str]) -> dict[str, Any]:
    schema = {"type": "string", "enum": list(models)}
    return {"name": "name", "in": "path", "required": True, "schema": schema}


def _content(schema: Any, kind: str) -> dict[str, Any]:
    return {kind: {"schema": schema}}


def _free(kind: str) -> dict[str, Any]:
    return {"type": "string"} if kind == "text/plain" else {"type": "object"}
