"""The page's HTTP interface: HTML made on the server, for one user of this machine."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from planish.errors import GoalError, PlanishError
from planish.models.builtin import NAMES
from planish.ui import jobs
from planish.ui.images import look_at
from planish.ui.plots import frontier
from planish.ui.runs import RunSummary, find_runs
from planish.ui.side_by_side import side_by_side
from planish.ui.templates import STATIC, page

_COOKIE = "planish_ui"
_HOSTS = ("127.0.0.1", "localhost")
_SUGGESTED = (
    *NAMES[:4],
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_small",
    "torchvision:resnet18",
    "timm:tf_efficientnet_lite0",
)
_LARGEST_FILE = 32_000_000
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'"
)


def ui_app(root: Path, token: str) -> FastAPI:
    """Build the application.

    Every request needs the token, in the address or in the cookie that the first address sets. Requests with another host name, as in an
    attack by DNS rebinding, and forms from other pages are refused.

    Args:
        root: folder below which runs are looked for, and in which new ones are started.
        token: the secret in the address.
    """
    app = FastAPI(title="Planish", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guarded(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if (request.url.hostname or "") not in _HOSTS:
            return _plain("this page is for this machine only", 421)
        given = request.query_params.get("token")
        if given is not None and hmac.compare_digest(given.encode(), token.encode()):
            found: Response = RedirectResponse(request.url.path, 303)
            found.set_cookie(_COOKIE, token, httponly=True, samesite="strict")
            return found
        if not hmac.compare_digest(request.cookies.get(_COOKIE, "").encode(), token.encode()):
            return _plain("open the address that planish ui printed: it contains the token", 403)
        if request.method == "POST" and not _own(request):
            return _plain("this form was not sent from this page", 403)
        found = await go_on(request)
        found.headers.setdefault("Content-Security-Policy", _POLICY)
        found.headers["X-Content-Type-Options"] = "nosniff"
        found.headers["Referrer-Policy"] = "no-referrer"
        found.headers["Cache-Control"] = "no-store"
        return found

    def run_of(name: str) -> RunSummary | None:
        """The run of this id, if it is one of those below the folder."""
        return next((run for run in find_runs(root) if run.id == name), None)

    @app.get("/")
    def runs() -> HTMLResponse:
        return HTMLResponse(page("runs", runs=find_runs(root), root=root))

    @app.get("/runs")
    def one(id: str) -> Response:
        run = run_of(id)
        return _missing(id) if run is None else HTMLResponse(page("run", run=run, **_about(run)))

    @app.get("/runs/now")
    def now(id: str) -> Response:
        """The part of a run's page that changes while it runs."""
        run = run_of(id)
        return _missing(id) if run is None else HTMLResponse(page("now", run=run, **_about(run)))

    @app.get("/runs/report")
    def report(id: str) -> Response:
        run = run_of(id)
        if run is None or not run.has_report:
            return _missing(id)
        return FileResponse(run.path / "report.html", media_type="text/html", headers={"Content-Security-Policy": "frame-ancestors 'none'"})

    @app.post("/runs/answers")
    async def answers(id: str, request: Request) -> Response:
        """What the original and the chosen model of a run say to the image file in the body."""
        run = await run_in_threadpool(run_of, id)
        if run is None or run.state != "finished":
            return _missing(id)
        if int(request.headers.get("content-length") or 0) > _LARGEST_FILE:
            return _plain("the file is too large", 413)
        try:
            sides = await run_in_threadpool(side_by_side, run.path, await request.body())
        except PlanishError as error:
            return HTMLResponse(page("answers", sides=(), problem=str(error)))
        return HTMLResponse(page("answers", sides=sides, problem=""))

    @app.get("/compare")
    def compare(request: Request) -> Response:
        wanted = request.query_params.getlist("id")
        chosen = [run for run in find_runs(root) if run.id in wanted]
        units = {run.unit for run in chosen}
        plot = frontier([(run.id, run.points) for run in chosen], units.pop()) if len(units) == 1 else ""
        return HTMLResponse(page("compare", runs=chosen, plot=plot))

    @app.post("/runs/stop")
    async def stop(request: Request) -> Response:
        run = await run_in_threadpool(run_of, (await _form(request)).get("id", ""))
        if run is not None:
            await run_in_threadpool(jobs.stop, run)
        return _to(run)

    @app.post("/runs/resume")
    async def resume(request: Request) -> Response:
        run = await run_in_threadpool(run_of, (await _form(request)).get("id", ""))
        if run is not None:
            try:
                await run_in_threadpool(jobs.resume, run)
            except PlanishError as error:
                return HTMLResponse(page("run", run=run, error=str(error), **_about(run)), 400)
        return _to(run)

    @app.get("/new")
    def new() -> HTMLResponse:
        return HTMLResponse(page("new", form=_usual(root), suggested=_SUGGESTED))

    @app.post("/new/look")
    async def look(request: Request) -> HTMLResponse:
        """What the folder of the form holds, and the command line that the form stands for."""
        form = await _form(request)
        return HTMLResponse(await run_in_threadpool(_looked, root, form))

    @app.post("/new")
    async def begin(request: Request) -> Response:
        form = await _form(request)
        try:
            words = jobs.command(form)
            out = (root / form["out"].strip()).resolve()
            if (out / "store.sqlite").exists():
                raise GoalError(f"{form['out']} holds a run already", "each run has a folder of its own", "choose another name")
            await run_in_threadpool(look_at, _place(root, form["data"]))
            await run_in_threadpool(jobs.start, words, root, out)
        except PlanishError as error:
            return HTMLResponse(page("new", form=form, suggested=_SUGGESTED, error=str(error)), 400)
        if not out.is_relative_to(root):
            return RedirectResponse("/", 303)
        return RedirectResponse(f"/started?id={quote(out.relative_to(root).as_posix())}", 303)

    @app.get("/started")
    def started(id: str) -> Response:
        """A run that was started and whose folder may not exist yet."""
        out = (root / id).resolve()
        if run_of(id) is not None:
            return RedirectResponse(f"/runs?id={quote(id)}", 303)
        if not out.is_relative_to(root) or not jobs.log_of(out).is_file():
            return _missing(id)
        waiting = RunSummary(id, out, "stopped")
        return HTMLResponse(page("started", id=id, log=jobs.log_tail(waiting)))

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in STATIC:
            return _missing(name)
        kind, text = STATIC[name]
        return Response(text, media_type=kind)

    return app


def _about(run: RunSummary) -> dict[str, Any]:
    """What a run's page shows besides the run: its plot and its log."""
    return {"plot": frontier([(run.id, run.points)], run.unit), "log": jobs.log_tail(run)}


def _looked(root: Path, form: dict[str, str]) -> str:
    try:
        words, problem = jobs.shown(jobs.command(form)), ""
    except PlanishError as error:
        words, problem = "", str(error)
    found = None
    if form.get("data", "").strip():
        try:
            found = look_at(_place(root, form["data"]))
        except PlanishError as error:
            problem = str(error)
    return page("look", command=words, problem=problem, found=found)


def _place(root: Path, data: str) -> str:
    """The images of a form, whose path is relative to the folder that runs are started in."""
    given = data.strip()
    return str(root / given) if (root / given).exists() else given


def _usual(root: Path) -> dict[str, str]:
    """The values of a new form."""
    number = next(i for i in range(1, 10_000) if not (root / f"run-{i}").exists() and not jobs.log_of(root / f"run-{i}").exists())
    return {"model": "torchvision:mobilenet_v2", "weights": "imagenet", "max_drop": "1", "budget": "30m", "out": f"run-{number}"}


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))


def _own(request: Request) -> bool:
    """Whether a form was sent from this page: browsers name the origin of every POST."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host", "")


def _to(run: RunSummary | None) -> Response:
    return RedirectResponse("/" if run is None else f"/runs?id={quote(run.id)}", 303)


def _missing(name: str) -> HTMLResponse:
    return HTMLResponse(page("missing", missing=name), 404)


def _plain(text: str, status: int) -> Response:
    return Response(text, status, media_type="text/plain; charset=utf-8")
