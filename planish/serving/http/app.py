"""The HTTP service: predictions for tensors (Open Inference Protocol) or image files; health, readiness and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from planish.serving.batching import Batcher
from planish.serving.health import Health, keep_checking
from planish.serving.http.errors import RefusedError
from planish.serving.http.handling import RequestHandler, error_response
from planish.serving.http.headers import HeadRequests, SecurityHeaders
from planish.serving.http.keys import KeyCheck
from planish.serving.http.openapi import (
    HEALTH,
    IMAGE_FILE,
    INFERRED,
    INSTANCES,
    METRICS,
    PREDICTED,
    PREDICTED_V1,
    READY,
    TENSORS,
    describe,
    failures,
)
from planish.serving.http.protocol import HEADER_LENGTH, model_metadata
from planish.serving.limits import DEFAULT_LIMITS, Limits
from planish.serving.metrics import Metrics
from planish.serving.model import ServedModel
from planish.serving.models import Entry, Models
from planish.serving.monitoring.recorder import SOURCE, Recorder

_LOG = logging.getLogger("planish.serving")
_PREFLIGHT_S = 600
_PAGE = Path(__file__).parent / "page"
Threshold = Annotated[float | None, Query(ge=0, le=1)]


def service(
    models: Sequence[ServedModel],
    limits: Limits = DEFAULT_LIMITS,
    *,
    shares: Mapping[tuple[str, str], float] = MappingProxyType({}),
    reload_s: float | None = None,
    recorder: Recorder | None = None,
) -> FastAPI:
    """Return the FastAPI application; run it with any ASGI server.

    Args:
        models: at least one; of several models with the same name, the first answers requests without a version.
        limits: limits on requests.
        shares: share of the requests without a version that a version answers, by name and version.
        reload_s: seconds between checks for newer bundles in the models' folders; None never checks.
        recorder: checks predictions for drift and logs them; it is closed with the service.
    """
    metrics = Metrics()

    def start(model: ServedModel) -> Entry:
        health = Health(model, lambda reason: metrics.failures.labels(*model.key, reason).inc())
        batcher = Batcher(
            model.run, max_batch=limits.max_batch, max_queue=limits.max_queue,
            watch=partial(metrics.batch, model), failed=partial(health.failed, "runtime"),
        )  # fmt: skip
        metrics.watch(model, lambda: batcher.queued, lambda: health.ready)
        return Entry(model, batcher, health)

    served = Models(models, start, shares)
    handler = RequestHandler(limits, metrics, recorder)

    @asynccontextmanager
    async def whole_life(app: FastAPI) -> AsyncIterator[None]:
        for entry in served:
            await entry.health.check(entry.batcher, limits.timeout_s)
        tasks = [asyncio.create_task(keep_checking(lambda: served, limits.timeout_s))]
        if reload_s:
            tasks.append(asyncio.create_task(served.reload(reload_s, lambda model: metrics.reload_failures.labels(*model.key).inc())))
        yield
        for task in tasks:
            task.cancel()
        await served.close()
        handler.close()
        if recorder is not None:
            await asyncio.to_thread(recorder.close)

    app = FastAPI(title="Planish", description="Images in, answers out.", lifespan=whole_life, docs_url=None, redoc_url=None)
    if limits.keys:
        app.add_middleware(KeyCheck, keys=limits.keys)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(HeadRequests)
    if limits.cors_origins:  # handled before the keys are checked, as browsers' preflight requests have none
        app.add_middleware(
            CORSMiddleware, allow_origins=limits.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Encoding", "Content-Type", HEADER_LENGTH, "X-API-Key", SOURCE],
            expose_headers=[HEADER_LENGTH, "Retry-After"], max_age=_PREFLIGHT_S,
        )  # fmt: skip

    def find(name: str | None, version: str | None = None) -> Entry:
        entry = served.find(name, version)
        if entry is None:
            known = ", ".join(f"{entry.model.name} version {entry.model.version}" for entry in served)
            raise RefusedError(404, f"there is no such model; there are {known}")
        return entry

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return error_response(error.status, str(error), error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return error_response(error.status_code, error.detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        return error_response(400, "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        metrics.failures.labels("", "", "error").inc()
        _LOG.error(json.dumps({"time": time.time(), "failure": "error", "error": f"{type(error).__name__}: {error}"[:500]}))
        return error_response(500, "the service failed; that is counted and logged")

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", responses=HEALTH)
    async def all_ready() -> Response:
        ready = all(entry.health.ready for entry in served)
        return JSONResponse({"live": True, "ready": ready}, 200 if ready else 503)

    @app.get("/v2", responses=failures())
    async def server() -> dict[str, Any]:
        return {"name": "planish", "version": "2", "extensions": ["binary_tensor_data", "classification"]}

    @app.get("/v2/models/{name}/ready", responses=READY)
    @app.get("/v2/models/{name}/versions/{version}/ready", responses=READY)
    async def ready(name: str, version: str | None = None) -> Response:
        entry = find(name, version)
        if entry.health.ready:
            return JSONResponse({"name": entry.model.name, "ready": True})
        return JSONResponse({"name": entry.model.name, "ready": False, "reason": entry.health.fault}, 503)

    @app.get("/v2/models/{name}", responses=failures(404))
    @app.get("/v2/models/{name}/versions/{version}", responses=failures(404))
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        return model_metadata(find(name, version).model, served.versions(name))

    @app.post("/v2/models/{name}/infer", responses=INFERRED, openapi_extra=TENSORS)
    @app.post("/v2/models/{name}/versions/{version}/infer", responses=INFERRED, openapi_extra=TENSORS)
    async def infer_by_name(request: Request, name: str, version: str | None = None) -> Response:
        return await handler.infer(request, find(name, version))

    @app.get("/v1/models", responses=failures())
    async def names_v1() -> dict[str, list[str]]:
        return {"models": list(dict.fromkeys(entry.model.name for entry in served))}

    @app.get("/v1/models/{name}", responses=READY)
    async def ready_v1(name: str) -> Response:
        return await ready(name)

    @app.post("/v1/models/{name}:predict", responses=PREDICTED_V1, openapi_extra=INSTANCES)
    @app.post("/v1/models/{name}/versions/{version}:predict", responses=PREDICTED_V1, openapi_extra=INSTANCES)
    async def predict_v1(request: Request, name: str, version: str | None = None, threshold: Threshold = None) -> Response:
        """KServe's V1 protocol, and the predict API of TensorFlow Serving: ``{"instances": [{"b64": "..."}]}``."""
        return await handler.predict_v1(request, find(name, version), threshold)

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
        return FileResponse(_PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=_PAGE))

    @app.post("/predict", responses=PREDICTED, openapi_extra=IMAGE_FILE)
    async def predict_first(request: Request, why: bool = False, threshold: Threshold = None) -> Response:
        """Predict with the first model. The body is an image file, a form with files, or JSON with base64. For several images,
        ``predictions``
        has one answer per image. Options depend on the model, see ``/models``: ``why`` adds an occlusion map, the importance of 8 x 8
        parts of
        the image; objects with a score below ``threshold`` (default 0.3) are left out."""
        return await handler.predict(request, find(None), why, threshold)

    @app.post("/models/{name}/predict", responses=PREDICTED, openapi_extra=IMAGE_FILE)
    async def predict_by_name(
        request: Request, name: str, version: str | None = None, why: bool = False, threshold: Threshold = None
    ) -> Response:
        """Like ``/predict``, with the model of this name."""
        return await handler.predict(request, find(name, version), why, threshold)

    @app.get("/metrics", response_class=Response, responses=METRICS)
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    describe(app, keys=bool(limits.keys))
    return app
