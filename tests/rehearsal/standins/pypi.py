"""The public package index and its files: the simple index over this machine's own package indexes."""

from __future__ import annotations

import html
import re
from pathlib import Path
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

from . import http
from .http import Request, Response, file_response, text
from .upstream import Upstream

PAGE_TTL_S = 6 * 3600.0
LINK = re.compile(r"<a\s+([^>]*)>(.*?)</a>", re.S | re.I)
HREF = re.compile(r"""href\s*=\s*(["'])(.*?)\1""", re.I)
REQUIRES = re.compile(r"""data-requires-python\s*=\s*(["'])(.*?)\1""", re.I)


class PypiProxy:
    """PEP 503 pages, merged from all indexes that this machine's pip uses; hashes stay, links lead to us."""

    name = "pypi"

    def __init__(self, indexes: list[str], files_name: str, cache: Path) -> None:
        self._files_name, self._files = files_name, f"https://{files_name}"
        self._indexes = indexes
        self._upstream = Upstream(cache)

    def serve(self, request: Request) -> Response:
        if request.host == self._files_name:
            return self._file(request)
        found = re.fullmatch(r"/simple/([A-Za-z0-9._-]+)/?", request.path)
        if not found:
            return text(404, "not found\n")
        project = re.sub(r"[-_.]+", "-", found.group(1)).lower()
        if request.path != f"/simple/{project}/":
            return Response(301, {"Location": f"/simple/{project}/"})
        links = [link for index in self._indexes for link in self._links(index, project)]
        if not links:
            return text(404, "not found\n")
        unique = dict(reversed(links))
        body = "\n".join(unique[name] for name in sorted(unique))
        return http.html(f"<!DOCTYPE html>\n<html><title>{project}</title><body>\n{body}\n</body></html>\n")

    def _links(self, index: str, project: str) -> list[tuple[str, str]]:
        page_url = urljoin(index, f"{project}/")
        where = urljoin(page_url, "index.html") if page_url.startswith("file://") else page_url
        page = self._upstream.get(where, PAGE_TTL_S, "text/html")
        if page is None:
            return []
        links = []
        for attributes, label in LINK.findall(page.read_text()):
            href = HREF.search(attributes)
            if not href:
                continue
            url, fragment = urldefrag(urljoin(page_url, html.unescape(href.group(2))))
            requires = REQUIRES.search(attributes)
            extra = f' data-requires-python="{requires.group(2)}"' if requires else ""
            ours = self._our_link(url) + (f"#{fragment}" if fragment else "")
            links.append((label.strip(), f'<a href="{html.escape(ours)}"{extra}>{label.strip()}</a><br/>'))
        return links

    def _our_link(self, url: str) -> str:
        """The link that a client follows: the public path, or the mirror's own address folded into one."""
        if url.startswith(self._files + "/packages/"):
            return url
        name = urlsplit(url).path.rsplit("/", 1)[-1]
        return f"{self._files}/packages/other/{quote(quote(url, safe=''), safe='')}/{name}"

    def _file(self, request: Request) -> Response:
        url = self._files + request.path
        found = re.fullmatch(r"/packages/other/([^/]+)/[^/]+?(\.metadata)?", request.path)
        if found:
            url = unquote(unquote(found.group(1))) + (found.group(2) or "")
            bases = [index.removesuffix("simple/") for index in self._indexes]
            if not url.startswith(tuple(bases)) or ".." in url:
                return text(403, "not one of this machine's indexes\n")
        path = self._upstream.get(url, None)
        return text(404, "not found\n") if path is None else file_response(request, path)
