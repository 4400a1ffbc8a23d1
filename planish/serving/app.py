"""The HTTP service: images in, answers out, by the Open Inference Protocol or as plain files; health, readiness and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import Counter as Counts
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from planish.errors import DataError, PlanishError
from planish.serving.batching import Batcher, BusyError
from planish.serving.description import IMAGE_FILE, INFERRED, METRICS, PREDICTED, TENSORS, describe, failures
from planish.serving.keys import KeyCheck
from planish.serving.model import ServedModel
from planish.serving.models import Entry, Models
from planish.serving.protocol import HEADER_LENGTH, model_metadata, read_request, write_response
from planish.serving.recorder import SOURCE, Recorder
from planish.serving.why import covered, lost
from planish.tasks.answers import PLAIN, Asked

if TYPE_CHECKING:
    from planish.artifact import Pixels

_LOG = logging.getLogger("planish.serving")
_PAGE = Path(__file__).parent / "page"
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'"
_GONE = 499  # in metrics and log alone: nobody is there to read it
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
_QUICKLY_SAID = 10_000  # values that are put into words beside other requests; more are in a thread
Threshold = Annotated[float | None, Query(ge=0, le=1)]


@dataclass(frozen=True)
class Limits:
    """What a service takes on.

    Args:
        max_batch: images a call of the model.
        max_queue: images that may wait; beyond that requests are answered 429.
        max_bytes: of a request's body.
        max_pixels: of an image file, before it is shrunk.
        timeout_s: after which a request is answered 504.
        keys: one of which requests must bring as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``; none are needed where it is empty.
    """

    max_batch: int = 16
    max_queue: int = 128
    max_bytes: int = 16_000_000
    max_pixels: int = 32_000_000
    timeout_s: float = 30.0
    keys: tuple[str, ...] = ()


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class _Metrics:
    """Of one service, in a registry of its own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        of_model = ["model", "version"]
        self.requests = Counter("planish_requests", "Requests by status.", [*of_model, "status"], registry=self.registry)
        self.seconds = Histogram("planish_request_seconds", "From request to answer.", of_model, buckets=_SECONDS, registry=self.registry)
        self.model_seconds = Histogram("planish_model_seconds", "Of one batch.", of_model, buckets=_SECONDS, registry=self.registry)
        self.batches = Histogram("planish_batch_images", "Images a batch.", of_model, buckets=_IMAGES, registry=self.registry)
        self.queued = Gauge("planish_queued_images", "Images that wait.", of_model, registry=self.registry)
        self.classes = Counter("planish_predictions", "Answers by class.", [*of_model, "class"], registry=self.registry)
        self.watched = Gauge("planish_drift_images", "Looked at in this period.", of_model, registry=self.registry)
        self.compared = Gauge("planish_drift_compared_images", "Compared for drift in this period.", of_model, registry=self.registry)
        self.drift = Gauge("planish_drift", "1 where this drifted in this period.", [*of_model, "of"], registry=self.registry)

    def watch(self, model: ServedModel, batcher: Batcher) -> None:
        """Show what these two say of themselves."""
        labels, drift = (model.name, model.version), model.drift
        self.queued.labels(*labels).set_function(lambda: batcher.queued)
        self.watched.labels(*labels).set_function(lambda: drift.images)
        self.compared.labels(*labels).set_function(lambda: drift.compared)
        for kind in drift.kinds:
            self.drift.labels(*labels, kind).set_function(partial(drift.drifted, kind))


def service(
    models: Sequence[ServedModel],
    limits: Limits = Limits(),
    *,
    shares: Mapping[tuple[str, str], float] = MappingProxyType({}),
    reload_s: float | None = None,
    recorder: Recorder | None = None,
) -> FastAPI:
    """The application; run it with any ASGI server.

    Args:
        models: at least one; of several with one name the first is the one that is meant without a version.
        limits: what it takes on.
        shares: of those requests that others of that name answer, by name and version.
        reload_s: seconds between looks for newer bundles in the models' folders; None for none.
        recorder: looks at predictions for drift, and logs them; the service closes it.
    """
    metrics = _Metrics()

    def start(model: ServedModel) -> Batcher:
        batcher = Batcher(model.run, max_batch=limits.max_batch, max_queue=limits.max_queue, watch=_watch(metrics, model))
        metrics.watch(model, batcher)
        return batcher

    served = Models(models, start, shares)

    @asynccontextmanager
    async def whole_life(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(served.reload(reload_s)) if reload_s else None
        yield
        if watching is not None:
            watching.cancel()
        await served.close()
        if recorder is not None:
            await asyncio.to_thread(recorder.close)

    app = FastAPI(title="Planish", description="Images in, answers out.", lifespan=whole_life, docs_url=None, redoc_url=None)
    if limits.keys:
        app.add_middleware(KeyCheck, keys=limits.keys)

    def find(name: str | None, version: str | None = None) -> Entry:
        entry = served.find(name, version)
        if entry is None:
            known = ", ".join(f"{entry.model.name} version {entry.model.version}" for entry in served)
            raise _RefusedError(404, f"there is no such model; there are {known}")
        return entry

    under_way = Counts[tuple[str, str]]()  # requests by model: their bodies, files and images are what fills the memory

    async def answer(entry: Entry, work: Callable[[], Awaitable[Response]]) -> Response:
        model, begun = entry.model, time.perf_counter()
        under_way[model.key] += 1
        try:
            if under_way[model.key] > limits.max_queue + limits.max_batch:
                raise entry.batcher.busy()
            async with asyncio.timeout(limits.timeout_s):
                response = await work()
        except _RefusedError as refused:
            response = _error(refused.status, str(refused))
        except PlanishError as error:
            response = _error(400, str(error))
        except BusyError as busy:
            response = _error(429, str(busy), {"Retry-After": str(math.ceil(busy.retry_after_s))})
        except TimeoutError:
            response = _error(504, f"no answer within {limits.timeout_s:g} s")
        except ClientDisconnect:
            response = _error(_GONE, "the client has gone")
        finally:
            under_way[model.key] -= 1
        metrics.requests.labels(model.name, model.version, str(response.status_code)).inc()
        seconds = time.perf_counter() - begun
        metrics.seconds.labels(model.name, model.version).observe(seconds)
        said = {"time": time.time(), "model": model.name, "version": model.version, "status": response.status_code, "seconds": seconds}
        _LOG.info(json.dumps(said))
        return response

    async def reasons(entry: Entry, pixels: Pixels, said: dict[str, Any]) -> list[list[float]]:
        found = entry.model.answers(await entry.batcher(covered(pixels)), asked=Asked(top=len(entry.model.bundle.class_names)))
        return lost(said["confidence"], [next(c["confidence"] for c in one["classes"] if c["name"] == said["class"]) for one in found])

    async def predict(request: Request, entry: Entry, why: bool, threshold: float | None) -> Response:
        model = entry.model
        asked = PLAIN if threshold is None else Asked(threshold=threshold)

        async def work() -> Response:
            begun = time.perf_counter()
            data = await _body(request, limits.max_bytes)
            _refuse_options(model, why=why, threshold=threshold is not None)
            pixels, view = await asyncio.to_thread(model.pixels, data, limits.max_pixels)
            outputs = await entry.batcher(pixels)
            if recorder is not None:
                recorder.offer(model, pixels, outputs, time.perf_counter() - begun, data, source=request.headers.get(SOURCE))
            if sum(values.size for values in outputs.values()) < _QUICKLY_SAID:
                said = model.answers(outputs, [view], asked)[0]
            else:
                said = (await asyncio.to_thread(model.answers, outputs, [view], asked))[0]
            for name in model.classes_told(said):
                metrics.classes.labels(model.name, model.version, name).inc()
            if why:
                said |= {"why": await reasons(entry, pixels, said), "region": view.region}
            return JSONResponse({"model": model.name, "version": model.version, **said})

        return await answer(entry, work)

    async def infer(request: Request, entry: Entry) -> Response:
        model = entry.model

        async def work() -> Response:
            begun = time.perf_counter()
            body = await _body(request, limits.max_bytes)
            images, asked = read_request(body, request.headers.get(HEADER_LENGTH), model.input_shape)
            outputs = await entry.batcher(images)
            if recorder is not None:
                recorder.offer(model, images, outputs, time.perf_counter() - begun, source=request.headers.get(SOURCE))
            content, head = write_response(model, outputs, asked)
            if head is None:
                return Response(content, media_type="application/json")
            return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(head)})

        return await answer(entry, work)

    @app.exception_handler(_RefusedError)
    async def refused(request: Request, error: _RefusedError) -> Response:
        return _error(error.status, str(error))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, error.detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        return _error(400, "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()))

    @app.get("/v2/health/live")
    @app.get("/v2/health/ready")
    async def health() -> dict[str, bool]:
        return {"live": True, "ready": True}

    @app.get("/v2", responses=failures())
    async def server() -> dict[str, Any]:
        return {"name": "planish", "version": "2", "extensions": ["binary_tensor_data"]}

    @app.get("/v2/models/{name}/ready", responses=failures(404))
    @app.get("/v2/models/{name}/versions/{version}/ready", responses=failures(404))
    async def ready(name: str, version: str | None = None) -> dict[str, Any]:
        return {"name": find(name, version).model.name, "ready": True}

    @app.get("/v2/models/{name}", responses=failures(404))
    @app.get("/v2/models/{name}/versions/{version}", responses=failures(404))
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        return model_metadata(find(name, version).model, served.versions(name))

    @app.post("/v2/models/{name}/infer", responses=INFERRED, openapi_extra=TENSORS)
    @app.post("/v2/models/{name}/versions/{version}/infer", responses=INFERRED, openapi_extra=TENSORS)
    async def infer_by_name(request: Request, name: str, version: str | None = None) -> Response:
        return await infer(request, find(name, version))

    @app.get("/models", responses=failures())
    async def models_served() -> dict[str, Any]:
        return {
            "models": [
                {"name": model.name, "version": model.version, "classes": model.bundle.class_names, "options": model.options}
                for model in (entry.model for entry in served)
            ]
        }

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html", headers={"Content-Security-Policy": _POLICY})

    app.mount("/page", StaticFiles(directory=_PAGE))

    @app.post("/predict", responses=PREDICTED, openapi_extra=IMAGE_FILE)
    async def predict_first(request: Request, why: bool = False, threshold: Threshold = None) -> Response:
        """The first model; the body is an image file. What else may be asked depends on the model, see ``/models``: ``why`` adds how much
        each part of the image mattered, 8 x 8 of them; of objects those below the ``threshold`` are not told, 0.3 where none is given."""
        return await predict(request, find(None), why, threshold)

    @app.post("/models/{name}/predict", responses=PREDICTED, openapi_extra=IMAGE_FILE)
    async def predict_by_name(
        request: Request, name: str, version: str | None = None, why: bool = False, threshold: Threshold = None
    ) -> Response:
        """The body is an image file."""
        return await predict(request, find(name, version), why, threshold)

    @app.get("/metrics", response_class=Response, responses=METRICS)
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    describe(app, keys=bool(limits.keys))
    return app


def _refuse_options(model: ServedModel, **asked: bool) -> None:
    for name, given in asked.items():
        if given and name not in model.options:
            raise DataError(f"{name} is asked of {model.name}", f"it may be asked for {' and '.join(model.options) or 'nothing more'}")


def _watch(metrics: _Metrics, model: ServedModel) -> Callable[[int, float], None]:
    def watch(images: int, seconds: float) -> None:
        metrics.batches.labels(model.name, model.version).observe(images)
        metrics.model_seconds.labels(model.name, model.version).observe(seconds)

    return watch


async def _body(request: Request, max_bytes: int) -> bytes:
    """The whole body; more than ``max_bytes`` is refused before it is read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _RefusedError(413, f"a request may have {max_bytes} bytes")
    if not body:
        raise DataError("the request has no body", "an image file or a request of the protocol is needed")
    return bytes(body)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    content = json.dumps({"error": message})  # in ASCII: a message may quote what is no text
    return Response(content, status, headers, media_type="application/json")
