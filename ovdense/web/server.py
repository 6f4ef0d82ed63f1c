"""The web page's HTTP side: routes, limits on what is read, one queue. Starlette and uvicorn come with the extra `web`."""
import asyncio
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from ovdense.compat.json_text import loads
from ovdense.web.engine import Engine
from ovdense.web.examples import example_scenes
from ovdense.web.limits import Limits, Refused

PAGE = {"page.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
DECODING = 2  # pictures at once, hundreds of megabytes each while they are decoded
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]", "[")  # the last: older Starlettes cut "[::1]:7860" at its first colon
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
}  # fmt: skip


class Queue:
    """One question at a time; `waiting` more may wait, further ones are refused at once."""

    def __init__(self, waiting: int) -> None:
        self.waiting, self.inside, self._turn = waiting, 0, asyncio.Lock()

    async def run(self, work: Any, *args: Any) -> Any:
        """Return `work(*args)`, run in a thread when it is its turn; Refused when the queue is full."""
        if self.inside > self.waiting:
            raise Refused(503, f"{self.inside} questions are being answered or wait already; please ask again in a moment")
        self.inside += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(work, *args)
        finally:
            self.inside -= 1


def build_app(engine: Engine, *, hosts: Sequence[str] = LOOPBACK) -> Any:
    """Return the ASGI application. `hosts`: names by which it may be called (another one is a page elsewhere that points here); "*" allows all.

    ImportError says how to install what it needs.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise ImportError('the web page needs starlette and uvicorn, which are not installed: pip install "ovdense[web]"') from error
    queue, limits, decoding = Queue(engine.limits.waiting), engine.limits, asyncio.Semaphore(DECODING)

    def refused(error: Refused) -> JSONResponse:
        headers = {503: {"Retry-After": "5"}, 413: {"Connection": "close"}}.get(error.status)
        return JSONResponse({"error": str(error)}, error.status, headers)

    def served(handler: Any) -> Any:
        async def run(request: Any) -> Any:
            try:
                answer = await handler(request)
            except Refused as error:
                answer = refused(error)
            answer.headers.update(_HEADERS)
            return answer

        return run

    async def page(request: Any) -> Response:
        name = request.path_params.get("name", "page.html")
        if name not in PAGE:
            raise Refused(404, "there is no such page")
        return Response((files("ovdense.web") / name).read_text(encoding="utf8"), media_type=PAGE[name])

    async def about(request: Any) -> JSONResponse:
        examples = [{"url": f"example/{n}.png", "texts": list(texts)} for n, (_, texts) in enumerate(example_scenes())]
        captions = await asyncio.to_thread(lambda: {name: engine.reads_captions(name) for name in engine.choices})
        models = [{"name": c.name, "about": c.about, "captions": captions[c.name]} for c in engine.choices.values()]
        return JSONResponse({"models": models, "examples": examples, "limits": {"upload_mib": limits.upload_mib, "classes": limits.classes}})

    async def example(request: Any) -> Response:
        number = request.path_params["number"]
        if number >= len(example_scenes()):
            raise Refused(404, "there is no such example")
        return Response(example_scenes()[number][0], media_type="image/png")

    async def add_image(request: Any) -> JSONResponse:
        content = await _body(request, limits)
        async with decoding:
            return JSONResponse(await asyncio.to_thread(engine.add_image, content))

    async def ask(request: Any) -> JSONResponse:
        content = await _body(request, limits, most=64 * 1024)
        try:
            question = loads(content)
        except ValueError:
            question = None
        if not isinstance(question, Mapping) or not isinstance(question.get("texts"), list) and not isinstance(question.get("caption"), str):
            raise Refused(422, "a question must be a JSON object with image, texts (a list) or caption (a string), model and score_thr")
        return JSONResponse(await queue.run(engine.ask, question))

    async def heat(request: Any) -> Response:
        found = await queue.run(engine.heat, request.path_params["answer"], request.path_params["number"])
        return Response(found, media_type="image/png")

    routes = [
        Route("/", served(page)), Route("/about", served(about)), Route("/example/{number:int}.png", served(example)),
        Route("/image", served(add_image), methods=["POST"]), Route("/ask", served(ask), methods=["POST"]),
        Route("/heat/{answer:str}/{number:int}.png", served(heat)), Route("/{name:str}", served(page)),
    ]  # fmt: skip
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))])


async def _body(request: Any, limits: Limits, most: int | None = None) -> bytes:
    """Return a request's body; Refused where it is too large, or where another site's form may have sent it.

    Of a body that is too large nothing is kept; a little more of it is read, so that an honest sender gets the answer.
    """
    if request.headers.get("x-ovdense") != "1":
        raise Refused(403, "only the page itself may ask; send the header X-Ovdense: 1")
    room = int(limits.upload_mib * 2**20) if most is None else most
    content, count = bytearray(), 0
    async for part in request.stream():
        count += len(part)
        if count <= room:
            content += part
        elif count > 4 * room:
            break
    if most is None:
        limits.check_bytes(count)
    elif count > most:
        raise Refused(413, f"a question may have {most} bytes at most")
    return bytes(content)
