"""The OpenAPI document: schemas of requests and responses that FastAPI cannot infer from the routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from planish.serving.http.keys import OPEN
from planish.serving.http.request_images import FORM, JSON

_BINARY = {"schema": {"type": "string", "format": "binary"}}


class Failure(BaseModel):
    """The response to a failed request."""

    error: str


class Mask(BaseModel):
    """Compressed COCO run-length encoding, at the size of the image that was sent."""

    size: list[int]
    counts: str


class Object(BaseModel):
    """A detected object. The box is left, top, right and bottom: ``box`` in pixels, ``shares`` normalized to the image's sides."""

    name: str = Field(alias="class")
    confidence: float
    box: list[float]
    shares: list[float]
    mask: Mask | None = None


class Region(BaseModel):
    """All pixels of one class; ``share`` is their share of the image region that the model receives."""

    name: str = Field(alias="class")
    share: float
    confidence: float
    mask: Mask


class Class(BaseModel):
    """One of the classes of an image, with its confidence."""

    name: str
    confidence: float


class Answer(BaseModel):
    """The answer for one of several images."""

    name: str | None = Field(None, alias="class")
    confidence: float | None = None
    classes: list[Class] | None = None
    height: int | None = None
    width: int | None = None
    objects: list[Object] | None = None
    regions: list[Region] | None = None


class Prediction(Answer):
    """The response for one image: its ``classes``, the ``objects`` in it, or its ``regions``; for several images, ``predictions``."""

    model: str
    version: str
    predictions: list[Answer] | None = None


class PredictionsBody(BaseModel):
    """The response of KServe's V1 protocol."""

    predictions: list[Answer]


class TensorBody(BaseModel):
    """An output tensor of the Open Inference Protocol, version 2."""

    name: str
    datatype: str
    shape: list[int]


class Inference(BaseModel):
    """The response of the Open Inference Protocol, version 2."""

    model_name: str
    model_version: str
    outputs: list[TensorBody]


class ServerReady(BaseModel):
    """Whether all models are ready."""

    live: bool
    ready: bool


class ModelReady(BaseModel):
    """Whether a model gives the expected outputs for its golden samples, and the reason if it does not."""

    name: str
    ready: bool
    reason: str | None = None


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route, for its ``responses``: those with these statuses, 401 and 414."""
    descriptions = {
        400: "The request is wrong", 401: "A key is needed", 404: "There is no such model", 413: "The request is too large",
        414: "The address is too long",
        415: "The request has a form that is not supported; see Accept and Accept-Encoding",
        429: "Too many requests are waiting; see Retry-After", 500: "The model failed", 504: "No answer in time",
    }  # fmt: skip
    return {status: {"model": Failure, "description": descriptions[status]} for status in (*statuses, 401, 414)}


ASKED = failures(400, 404, 413, 415, 429, 500, 504)
PREDICTED = ASKED | {200: {"model": Prediction}}
PREDICTED_V1 = ASKED | {200: {"model": PredictionsBody}}
INFERRED = ASKED | {200: {"model": Inference, "content": {"application/octet-stream": _BINARY}}}
HEALTH: dict[int | str, dict[str, Any]] = {200: {"model": ServerReady}, 503: {"model": ServerReady, "description": "Not ready"}}
READY = failures(404) | {200: {"model": ModelReady}, 503: {"model": ModelReady, "description": "Not ready"}}
METRICS = failures() | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

_BASE64 = {"type": "string", "description": "base64, or a data URL"}
_B64 = {"type": "object", "required": ["b64"], "properties": {"b64": _BASE64}, "additionalProperties": False}
_IMAGES = {"type": "array", "items": {"anyOf": [_B64, _BASE64]}, "minItems": 1}
_ONE = {"type": "object", "required": ["image"], "properties": {"image": _BASE64}, "additionalProperties": False}
_SEVERAL = {"type": "object", "required": ["instances"], "properties": {"instances": _IMAGES}, "additionalProperties": False}
_FORM = {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}, "minProperties": 1}
IMAGE_FILE = {
    "requestBody": {
        "required": True,
        "content": {
            **dict.fromkeys(("application/octet-stream", "image/jpeg", "image/png"), _BINARY),
            FORM: {"schema": _FORM},
            JSON: {"schema": {"anyOf": [_ONE, _SEVERAL]}},
        },
    }
}
INSTANCES = {"requestBody": {"required": True, "content": {JSON: {"schema": _SEVERAL}}}}
_INPUT = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"const": "images"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 4, "maxItems": 4},
        "datatype": {"const": "UINT8"},
        "data": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
        "parameters": {"type": "object"},
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _INPUT, "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
        "parameters": {"type": "object"},
    },
}
TENSORS = {"requestBody": {"required": True, "content": {"application/json": {"schema": _REQUEST}, "application/octet-stream": _BINARY}}}


def describe(app: FastAPI, keys: bool) -> None:
    """Complete the application's OpenAPI document: invalid parameters are answered 400, and keys may be required."""
    document = app.openapi()  # cached by the application, which serves this very object
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    if keys:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{"bearer": []}, {"key": []}]
        for path in OPEN & document["paths"].keys():
            document["paths"][path]["get"]["security"] = []
