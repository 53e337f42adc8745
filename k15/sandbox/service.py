"""`k15 sandbox serve`: the sandbox over HTTP, on the standard library's server.

    POST /v1/jobs        a job in the form of `sandbox.rows`, verdicts back
    POST /run_code       SandboxFusion's API, for clients that speak it already
    GET  /healthz        whether it takes work
    GET  /openapi.json   all this for machines

It listens on this machine only, unless told otherwise, and then it asks for a token. What waits is
bounded: beyond that it answers 503 at once. On SIGTERM it takes nothing new, finishes what runs, and ends.
"""

from __future__ import annotations

import hmac
import json
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

from k15 import __version__
from k15.errors import ConfigError, K15Error
from k15.sandbox.base import Sandbox
from k15.sandbox.fusion_rows import fusion_reply, read_fusion
from k15.sandbox.openapi import document
from k15.sandbox.rows import read_job, result_row

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_BODY_BYTES = 64 << 20
_IDLE_SECONDS = 60.0
_RETRY_SECONDS = 1


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How the service listens.

    Attributes:
        host, port: where; port 0 takes a free one.
        token: what a request must carry as "Authorization: Bearer TOKEN"; None = nothing.
        max_queued: requests that may wait for a slot.
        stop_seconds: how long a stop waits for what runs.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    max_queued: int = 64
    stop_seconds: float = 30.0


class Service:
    """The HTTP server around a sandbox.

    Args:
        sandbox: where the programs run; closed with the service.

    Raises:
        ConfigError: it should listen beyond this machine without a token, or the address is not free.
    """

    def __init__(self, sandbox: Sandbox, settings: ServiceSettings) -> None:
        if settings.host not in _LOOPBACK and not settings.token:
            raise ConfigError(
                f"a sandbox that listens beyond this machine needs a token; got host {settings.host} and none. Set "
                "K15_SANDBOX_TOKEN or --token-file, or listen on 127.0.0.1."
            )
        self._sandbox = sandbox
        self._settings = settings
        self._places = threading.BoundedSemaphore(sandbox.num_slots + settings.max_queued)
        self._num_running = 0
        self._idle = threading.Condition()
        self._is_stopping = False
        try:
            self._server = _Server((settings.host, settings.port), _handler(self))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. Give another --port."
            ) from None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_address[1]

    @property
    def settings(self) -> ServiceSettings:
        return self._settings

    def serve(self) -> None:
        """Answer requests until `stop`."""
        self._server.serve_forever(poll_interval=0.2)
        self._server.server_close()
        with self._idle:
            self._idle.wait_for(lambda: self._num_running == 0, self._settings.stop_seconds)
        self._sandbox.close()

    def stop(self) -> None:
        """Take nothing new; `serve` returns when what runs has ended. May be called from any thread."""
        self._is_stopping = True
        threading.Thread(target=self._server.shutdown, daemon=True).start()

    def answer(self, method: str, path: str, body: Callable[[], bytes]) -> tuple[int, dict[str, Any]]:
        """Status and JSON answer of a request that has the right to one."""
        if (method, path) == ("GET", "/healthz"):
            return 200, {"status": "ok", "version": __version__, "slots": self._sandbox.num_slots}
        if (method, path) == ("GET", "/openapi.json"):
            return 200, document()
        work = {"/v1/jobs": self._job, "/run_code": self._run_code}.get(path)
        if work is None or method != "POST":
            return (405 if work else 404), {"error": f"there is no {method} {path}; see /openapi.json"}
        if self._is_stopping or not self._places.acquire(blocking=False):
            return 503, {"error": "all slots are taken and the queue is full; try again"}
        with self._idle:
            self._num_running += 1
        try:
            return work(json.loads(body()))
        except ValueError as error:  # malformed JSON, or a job that makes no sense
            return 400, {"error": str(error)}
        except K15Error as error:
            return 500, {"error": str(error)}
        finally:
            self._places.release()
            with self._idle:
                self._num_running -= 1
                self._idle.notify_all()

    def _job(self, row: Any) -> tuple[int, dict[str, Any]]:
        job = read_job(row)
        result = result_row(self._sandbox.run(job), with_outputs=True)
        return 200, {"id": row.get("id"), **result}

    def _run_code(self, row: Any) -> tuple[int, dict[str, Any]]:
        return 200, fusion_reply(self._sandbox.run(read_fusion(row)))


def run_service(sandbox: Sandbox, settings: ServiceSettings) -> None:
    """Serve until SIGINT or SIGTERM."""
    try:
        service = Service(sandbox, settings)
    except BaseException:
        sandbox.close()
        raise

    def stop(number: int, frame: FrameType | None) -> None:
        service.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    print(
        f"k15: the sandbox listens on http://{settings.host}:{service.port}", file=sys.stderr, flush=True
    )
    service.serve()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no event."""


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = f"k15/{__version__}"
        timeout = _IDLE_SECONDS  # of a client that says nothing

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def log_message(self, format: str, *args: Any) -> None:
            """Programs are not written to a log."""

        def _answer(self, method: str) -> None:
            path = self.path.split("?")[0]
            refusal = self._refusal(method, path)
            status, answer = refusal or service.answer(method, path, self._body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 503:
                self.send_header("Retry-After", str(_RETRY_SECONDS))
            if status >= 400:  # the body may not have been read
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            self.wfile.write(content)

        def _refusal(self, method: str, path: str) -> tuple[int, dict[str, Any]] | None:
            settings = service.settings
            host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
            if settings.host in _LOOPBACK and (host or "").strip("[]") not in _LOOPBACK:
                return 403, {"error": "the Host header must name this machine"}  # a page of another site
            if self.headers.get("Origin") is not None:
                return 403, {"error": "requests from web pages are refused"}
            if path != "/healthz" and settings.token:
                given = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
                if not hmac.compare_digest(given.encode(), settings.token.encode()):
                    return 401, {"error": 'the header "Authorization: Bearer TOKEN" is missing or wrong'}
            if method == "POST":
                kind = (self.headers.get("Content-Type") or "").partition(";")[0].strip()
                if kind != "application/json":
                    return 415, {"error": f"the body must be application/json; got {kind!r}"}
                length = self.headers.get("Content-Length") or ""
                if not length.isascii() or not length.isdigit():
                    return 411, {"error": "Content-Length is missing"}
                if int(length) > _MAX_BODY_BYTES:
                    return 413, {"error": f"a body has at most {_MAX_BODY_BYTES} bytes; got {length}"}
            return None

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

    return Handler
