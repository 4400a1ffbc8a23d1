"""Handles prediction requests: body, pixels, model outputs, response."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from planish.errors import DataError
from planish.serving.http.bodies import Bodies
from planish.serving.http.errors import BusyError, InferenceError, RefusedError
from planish.serving.http.protocol import HEADER_LENGTH, read_request, response_parts, write_response
from planish.serving.http.request_images import read_images
from planish.serving.limits import BODIES, Limits, MemoryBudget
from planish.serving.metrics import Metrics
from planish.serving.model import ServedModel, finite
from planish.serving.models import Entry
from planish.serving.monitoring.recorder import SOURCE, Recorder
from planish.serving.occlusion import covered, lost
from planish.tasks.responses import PLAIN, ResponseOptions

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels
    from planish.tasks.localisation import View

_LOG = logging.getLogger("planish.serving")
_GONE = 499  # only for metrics and log: the client has disconnected
_QUICKLY_DONE = 10_000  # values or bytes that are processed on the event loop; more are processed in a thread
_DECODERS = 4  # threads; the memory limit bounds how many large images they decode at the same time
_NOT_FINITE = "the model's outputs are not finite; that is counted and logged"


class RequestHandler:
    """Answers requests to a model, within limits. Every request is counted, timed and logged, whether it succeeds or fails.

    Args:
        limits: limits on requests.
        metrics: metrics of the service.
        recorder: receives every prediction; None for no recording.
    """

    def __init__(self, limits: Limits, metrics: Metrics, recorder: Recorder | None) -> None:
        self._limits, self._metrics, self._recorder = limits, metrics, recorder
        self._bodies = Bodies(limits.max_bytes, BODIES * limits.max_bytes)
        self._memory = MemoryBudget(limits.max_decoding_bytes)
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="planish-decoder")
        self._under_way = Counter[tuple[str, str]]()  # number of requests in progress whose body has arrived, by model

    def close(self) -> None:
        """Shut down the decoding threads, after the images being decoded."""
        self._decoders.shutdown()

    async def predict(self, request: Request, entry: Entry, why: bool, threshold: float | None) -> Response:
        """Answer a request with image files; for several images, ``predictions`` has one answer per image."""
        model = entry.model

        async def work(body: bytes) -> Response:
            several, found = await self._predictions(body, request, entry, why, threshold)
            content = {"predictions": found} if several else found[0]
            return await _json_response({"model": model.name, "version": model.version, **content}, len(found))

        return await self._answer(request, entry, work)

    async def predict_v1(self, request: Request, entry: Entry, threshold: float | None) -> Response:
        """Answer a request of KServe's V1 protocol."""

        async def work(body: bytes) -> Response:
            _several, found = await self._predictions(body, request, entry, False, threshold)
            return await _json_response({"predictions": found}, len(found))

        return await self._answer(request, entry, work)

    async def infer(self, request: Request, entry: Entry) -> Response:
        """Answer a request of the Open Inference Protocol. Non-finite numbers are sent as binary data only, as JSON has none."""
        model = entry.model

        async def work(body: bytes) -> Response:
            begun = time.perf_counter()
            most = max(self._limits.max_queue, self._limits.max_batch)
            read = partial(read_request, body, request.headers.get(HEADER_LENGTH), model.input_shape, most)
            images, asked = await asyncio.to_thread(read) if len(body) > _QUICKLY_DONE else read()
            outputs = await _run(entry, images)
            wanted = response_parts(outputs, asked, model.bundle.class_names)
            if not finite({name: outputs[name] for name, part in wanted.items() if part.is_text}):
                raise InferenceError(f"{_NOT_FINITE}; JSON has no such numbers, binary data has")
            if self._recorder is not None and finite(outputs):
                self._recorder.offer(model, images, outputs, time.perf_counter() - begun, source=request.headers.get(SOURCE))
            write = partial(write_response, model, outputs, wanted, asked)
            content, head = await asyncio.to_thread(write) if _values(outputs) > _QUICKLY_DONE else write()
            if head is None:
                return Response(content, media_type="application/json")
            return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(head)})

        return await self._answer(request, entry, work)

    async def _predictions(
        self, body: bytes, request: Request, entry: Entry, why: bool, threshold: float | None
    ) -> tuple[bool, list[dict[str, Any]]]:
        """Return whether the request has several images, and one answer per image."""
        model, begun, loop = entry.model, time.perf_counter(), asyncio.get_running_loop()
        _refuse_options(model, why=why, threshold=threshold is not None)
        asked = PLAIN if threshold is None else ResponseOptions(threshold=threshold)
        most = max(self._limits.max_queue, self._limits.max_batch)
        read = partial(read_images, body, request.headers.get("Content-Type", ""), most)
        images = await loop.run_in_executor(self._decoders, read) if len(body) > _QUICKLY_DONE else read()
        if why and images.several:
            raise DataError("why is asked of several images", "it is answered for one at a time")
        decoded: list[tuple[Pixels, View]] = []
        for number, file in enumerate(images.files):  # one after the other, so that a request occupies only one of the threads
            try:
                found = await loop.run_in_executor(self._decoders, model.pixels, file, self._limits.max_pixels, self._memory)
            except DataError as error:
                raise images.refusal(number, error) from error
            decoded.append(found)
        pixels, views = np.concatenate([one for one, _ in decoded]), [view for _, view in decoded]
        outputs = await _run(entry, pixels)
        if not finite(outputs):
            raise InferenceError(_NOT_FINITE)
        if self._recorder is not None:
            self._recorder.offer(model, pixels, outputs, time.perf_counter() - begun, images.files, source=request.headers.get(SOURCE))
        say = partial(model.responses, outputs, views, asked)
        responses = say() if _values(outputs) < _QUICKLY_DONE else await asyncio.to_thread(say)
        for name in (name for answer in responses for name in model.response_classes(answer)):
            self._metrics.classes.labels(*model.key, name).inc()
        if why:
            responses[0] |= {"why": await _occlusion(entry, pixels, responses[0]), "region": views[0].region}
        return images.several, responses

    async def _answer(self, request: Request, entry: Entry, work: Callable[[bytes], Awaitable[Response]]) -> Response:
        """Read the body, call ``work``, map errors to status codes, and count, time and log the request."""
        model, begun = entry.model, time.perf_counter()
        try:
            async with asyncio.timeout(self._limits.timeout_s), self._bodies.read(request) as body:
                self._under_way[model.key] += 1
                try:
                    if self._under_way[model.key] > self._limits.max_queue + self._limits.max_batch:
                        raise entry.batcher.busy()
                    response = await work(body)
                finally:
                    self._under_way[model.key] -= 1
        except RefusedError as refused:
            response = error_response(refused.status, str(refused), refused.headers)
        except DataError as error:
            response = error_response(400, str(error))
        except BusyError as busy:
            response = error_response(429, str(busy), {"Retry-After": str(math.ceil(busy.retry_after_s))})
        except TimeoutError:
            response = error_response(504, f"no answer within {self._limits.timeout_s:g} s")
        except ClientDisconnect:
            response = error_response(_GONE, "the client has gone")
        except InferenceError as error:
            response = error_response(500, str(error))
        except Exception as error:
            entry.health.report("error", error)
            response = error_response(500, "the service failed; that is counted and logged")
        self._metrics.requests.labels(*model.key, str(response.status_code)).inc()
        seconds = time.perf_counter() - begun
        self._metrics.seconds.labels(*model.key).observe(seconds)
        line = {
            "time": time.time(),
            "model": model.name,
            "version": model.version,
            "status": response.status_code,
            "seconds": seconds,
        }
        _LOG.info(json.dumps(line))
        return response


async def _run(entry: Entry, images: Pixels) -> Outputs:
    """Run the model, and record in its health whether the outputs are finite."""
    outputs = await entry.batcher(images)
    if finite(outputs):
        entry.health.succeeded()
    else:
        entry.health.failed("not_finite", "outputs are not finite")
    return outputs


async def _occlusion(entry: Entry, pixels: Pixels, response: dict[str, Any]) -> list[list[float]]:
    """Return the occlusion map for the predicted class."""
    outputs = await _run(entry, covered(pixels))
    if not finite(outputs):
        raise InferenceError(_NOT_FINITE)
    found = entry.model.responses(outputs, asked=ResponseOptions(top=len(entry.model.bundle.class_names)))
    return lost(response["confidence"], [next(c["confidence"] for c in one["classes"] if c["name"] == response["class"]) for one in found])


async def _json_response(content: dict[str, Any], images: int) -> Response:
    """Serialize the response: of one image directly, of several, which may have many masks, in a thread."""
    return await asyncio.to_thread(JSONResponse, content) if images > 1 else JSONResponse(content)


def _refuse_options(model: ServedModel, **asked: bool) -> None:
    """Raise ``DataError`` for options that the model does not support."""
    for name, given in asked.items():
        if given and name not in model.options:
            raise DataError(f"{name} is asked of {model.name}", f"it may be asked for {' and '.join(model.options) or 'nothing more'}")


def _values(outputs: Outputs) -> int:
    return sum(values.size for values in outputs.values())


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error as documented in the API."""
    content = json.dumps({"error": message})  # ASCII only: a message may quote bytes that are not valid text
    return Response(content, status, headers, media_type="application/json")
