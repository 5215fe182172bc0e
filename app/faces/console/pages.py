"""The pages for people: the console's shell, the reference, the guides. They load nothing from elsewhere."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from html import escape
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from posixpath import normpath
from string import Template
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from app.catalogue import Catalogue
from app.client_configs import ClientConfig, LaunchedByClients, call_by_curl, client_configs
from app.errors import NotFound
from app.faces.console.door import Viewer, send_json
from app.faces.http import call_context
from app.faces.identity import Identity
from app.faces.rest import list_servers
from app.gateway import Gateway
from app.version import VERSION

_FILES = Path(__file__).parents[2] / "console"
_PACKAGES_OF_PAGES = "fastapi_standalone_docs"
"""Brings Swagger UI and Redoc as files."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_POLICY_OF_REDOC = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'") + "; worker-src blob:"
"""Redoc writes styles into the page, and searches in a worker that it makes itself."""
_AS_DOCUMENT = "openapi"
"""Asks for a guide in the form that Redoc reads: the description of an API without addresses."""
_WITHOUT_ADDRESSES = """hide-download-button disable-search theme='{"rightPanel": {"width": "0"}}'"""
"""How Redoc shows that."""
_NO_MODULES = ("docs.js", "theme.js")
_PLACES_OF_GUIDES = (_FILES / "guides", _FILES.parents[1] / "docs")
"""In an installed package, and in a checkout."""
_KINDS = {".webp": "image/webp", ".json": "application/json", ".yml": "text/plain; charset=utf-8"}
"""What guides show and lead to, beside each other."""
_LINK = re.compile(r"\[(?P<label>[^]\n]*)\]\((?P<path>[^()#\s]*)(?P<anchor>#[\w-]+)?\)")
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_NO_WORD = re.compile(r"[^\w\s$*+~.()'\"!:@-]+")


class Pages:
    """Serves the pages.

    Args:
        gateway: whose servers are shown.
        launched: what the page tells clients that launch a process; a placeholder where we don't know.
        identity: whether callers need a key; None where everybody may call.
    """

    def __init__(self, gateway: Gateway, launched: LaunchedByClients | None, identity: Identity | None) -> None:
        self._gateway = gateway
        self._needs_key = identity is not None and identity.needs_key
        self._launched = launched or LaunchedByClients()
        self._guide_files = _find_guides()
        self._guides = {name: _title(path) for name, path in self._guide_files.items() if _is_guide(name)}
        """The title of each by its name."""
        # One round trip for all modules, where a browser would find them one behind the other.
        self._modules = [file.name for file in sorted(_FILES.glob("*.js")) if file.name not in _NO_MODULES]
        self._pages = {name: Template((_FILES / f"{name}.html").read_text()) for name in ("home", "docs", "redoc")}

    def signs(self) -> list[BaseRoute]:
        """Return where Redoc looks for a picture, behind the addresses of guides: they come before those."""
        folders = ("/guides", "/console/guides")
        return [Route(f"{folder}/{{name:path}}/logo-mini.svg", self._sign_of_redoc) for folder in folders]

    def routes(self) -> list[BaseRoute]:
        """Return the addresses of the pages and of their files."""
        packaged = _packaged()
        return [
            Route("/", self._home),
            Route("/docs", self._docs),
            Route("/redoc", self._redoc),
            Route("/favicon.ico", self._favicon),
            Route("/guides/{name:path}", self._public_guide),
            Mount("/console/swagger", StaticFiles(directory=packaged / "swagger")),
            Mount("/console/redoc", StaticFiles(directory=packaged / "redoc")),
            Mount("/redoc", StaticFiles(directory=packaged / "redoc")),
            Mount("/console", _Files(directory=_FILES)),
        ]

    async def connect(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with how clients are told of this gateway, and which guides there are."""
        url = viewer.url or str(Request(scope).base_url).rstrip("/")
        context = call_context(scope, "rest")
        curl = await self._gateway.show(None, "console/connect", context, partial(_curl, url, self._needs_key))
        configs = [*client_configs(url, self._launched, asks_for_key=self._needs_key), *curl]
        answer = {
            "url": url,
            "websocket_url": "ws" + url.removeprefix("http"),
            "configs": [asdict(config) for config in configs],
            "guides": [{"name": name, "title": title} for name, title in self._guides.items()],
        }
        await send_json(scope, send, answer)

    async def guide(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with a guide."""
        await self._guide(Request(scope))(scope, receive, send)

    async def _home(self, request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return await list_servers(self._gateway, request.scope)
        return self._page("home", request)  # the same for everybody: what it shows it asks for as the viewer

    async def _docs(self, request: Request) -> Response:
        return self._page("docs", request)

    async def _redoc(self, request: Request) -> Response:
        spec = escape(request.scope.get("root_path", "")) + "/openapi.json"
        return self._page("redoc", request, policy=_POLICY_OF_REDOC, title="reference", spec=spec, options="")

    async def _favicon(self, request: Request) -> Response:
        return FileResponse(_FILES / "favicon.svg")

    async def _sign_of_redoc(self, request: Request) -> Response:
        """Redoc looks for it behind the address of the page."""
        return FileResponse(_packaged() / "redoc" / "logo-mini.svg")

    async def _public_guide(self, request: Request) -> Response:
        return self._guide(request)

    def _guide(self, request: Request) -> Response:
        """Return a guide: to browsers as a page, which Redoc makes of it, to others as it is written."""
        name = request.path_params["name"]
        path = self._guide_files.get(name)
        if path is None:
            raise NotFound(f"There is no such guide. Guides: {', '.join(self._guides)}.")
        if (kind := _KINDS.get(path.suffix)) is not None:
            return FileResponse(path, media_type=kind, headers=_headers(_POLICY))
        title = _title(path)
        if _AS_DOCUMENT in request.query_params:
            _, _, text = path.read_text().partition("\n")
            text = _LINK.sub(partial(self._link, name), text)
            info = {"title": title, "version": VERSION, "description": text}
            return JSONResponse({"openapi": "3.1.0", "info": info, "paths": {}}, headers=_headers(_POLICY))
        if "text/html" in request.headers.get("accept", ""):
            shown = {"title": escape(title), "spec": f"?{_AS_DOCUMENT}", "options": _WITHOUT_ADDRESSES}
            return self._page("redoc", request, policy=_POLICY_OF_REDOC, **shown)
        return FileResponse(path, media_type="text/plain; charset=utf-8", headers=_headers(_POLICY))

    def _link(self, guide: str, found: re.Match[str]) -> str:
        """Return a guide's link as it leads on among the pages; what is not served here becomes text."""
        label, path, anchor = found.groups()
        if "://" in path:
            return found[0]
        name = normpath(PurePosixPath(guide).parent / path) if path else guide
        target = self._guide_files.get(name)
        if target is None:
            return str(label)
        if anchor is None:
            return found[0]
        # Redoc names a heading in its own way, and GitHub in another one.
        headings = {_as_anchor(heading): heading for heading in _HEADING.findall(target.read_text())}
        heading = headings.get(anchor, "")
        return f"[{label}]({path}#section/{quote(_NO_WORD.sub('', heading).strip().replace(' ', '-'))})"

    def _page(self, name: str, request: Request, *, policy: str = _POLICY, **further: str) -> Response:
        root = escape(request.scope.get("root_path", ""))
        preload = "".join(f'<link rel="modulepreload" href="{root}/console/{file}">\n' for file in self._modules)
        page = self._pages[name].substitute(root=root, preload=preload, **further)
        return HTMLResponse(page, headers=_headers(policy))


class _Files(StaticFiles):
    """Files that a browser asks for again, so that no module of an older version is run beside a newer one."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update({"cache-control": "no-cache", "x-content-type-options": "nosniff"})
        return answer


def _packaged() -> Path:
    """Return where the files of Swagger UI and Redoc are."""
    spec = find_spec(_PACKAGES_OF_PAGES)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "static"


def _headers(policy: str) -> Mapping[str, str]:
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }


def _find_guides() -> dict[str, Path]:
    """Return the guides and what they show and lead to, by name; none where the documents were not installed."""
    directory = next((place for place in _PLACES_OF_GUIDES if place.is_dir()), None)
    found = sorted(directory.rglob("*")) if directory else []
    return {path.relative_to(directory or path).as_posix(): path for path in found if path.suffix in (".md", *_KINDS)}


def _is_guide(name: str) -> bool:
    return name.endswith(".md") and "/" not in name


def _as_anchor(heading: str) -> str:
    """Return how GitHub leads to a heading."""
    return "#" + re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-")


def _title(guide: Path) -> str:
    return guide.read_text().partition("\n")[0].removeprefix("# ").replace("`", "")


def _curl(url: str, asks_for_key: bool, offered: Catalogue) -> list[ClientConfig]:
    """Return a call that only reads, of the tool whose example is the quickest to read."""
    calls = [
        call_by_curl(url, offer.kind.server_id, offer.declared.name, offer.declared.example, asks_for_key=asks_for_key)
        for offer in offered.tools()
        if offer.declared.read_only and offer.declared.example is not None
    ]
    return [ClientConfig("curl", "curl", "a shell", min(calls, key=len))] if calls else []
