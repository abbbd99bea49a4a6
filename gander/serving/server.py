"""HTTP: who may ask, how much at once, and in what words it is answered."""

import contextlib
import http.client
import ipaddress
import json
import re
import socket
import socketserver
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from gander import signals
from gander.errors import UserError, shown, unknown
from gander.run import Run
from gander.serving.answers import MAX_IMAGE, Answer, Answers, Busy, Turns, page
from gander.serving.networks import Networks

CONNECTIONS = 64  # at a time, each of one request
MAX_HEAD, MAX_LINE = 32 << 10, 4 << 10  # bytes of a request's head, and of its first line
ASKING, ANSWERING = 20.0, 120.0  # seconds for a request to come in, and for an answer to be taken
RETRY = 1  # seconds after which one who was refused may ask again
FULL = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Head:
    """The lines of a request's head, up to MAX_HEAD bytes; then the body."""

    def __init__(self, file: Any):
        self._file, self._left = file, MAX_HEAD

    def readline(self, most: int = MAX_HEAD) -> bytes:
        line = self._file.readline(min(most, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong("head")
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Handler(BaseHTTPRequestHandler):
    """One request of one connection."""

    server: "Server"
    timeout = ASKING
    disable_nagle_algorithm = True  # head and body are two writes
    request_version, requestline, command = "HTTP/1.0", "", ""  # until they are read

    def setup(self) -> None:
        super().setup()
        self.rfile = _Head(self.rfile)  # type: ignore[assignment]

    def handle(self) -> None:
        try:
            super().handle()
        except http.client.LineTooLong:
            self.send_error(431)

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def _respond(self) -> None:
        path, _, query = self.path.partition("?")
        try:
            if refusal := self._refusal(path):
                self._send(*refusal)
                return
            body = self._body() if self.command == "POST" else b""
            self.server.heard(self.connection)
            self._send(200, self.server.answer(self.command, path, query, body))
        except _Refused as refused:
            self._send(refused.code, _error(refused.words))
        except UserError as error:
            self._send(400, _error(str(error)))
        except Busy:
            self._send(503, _error("many are asking at once; ask again in a second"), {"Retry-After": str(RETRY)})
        except OSError:  # whoever asked is gone
            raise
        except Exception:
            traceback.print_exc()
            self._send(500, _error("gander made a mistake here, which its terminal tells"))

    def _refusal(self, path: str) -> tuple[int, Answer, dict[str, str]] | None:
        """Why this request is none of ours, if it is not."""
        host = self.headers.get("Host", "")
        if self.server.local and not _is_local(host):  # a stranger's name that was made to lead here
            return 403, _error(f"this page is for this machine alone: open {self.server.url}, not {host[:60]!r}"), {}
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and path != "/":
            return 403, _error("another page may not ask here"), {}
        methods = [method for method, paths in self.server.paths.items() if path in paths]
        if not methods:
            return 404, _error(str(unknown("page", unquote(path)[:60], [p for ps in self.server.paths.values() for p in ps]))), {}
        if self.command not in methods:
            return 405, _error(f"{path} takes {' or '.join(methods)}"), {"Allow": ", ".join(methods)}
        return None

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length):
            raise _Refused(411, "how long is it? A body needs a Content-Length")
        if int(length) > MAX_IMAGE:
            raise _Refused(413, f"{int(length):,} bytes are over {MAX_IMAGE:,}; send a smaller image")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Refused(400, f"the body ended after {len(body):,} of {int(length):,} bytes")
        return body

    def _send(self, code: int, answer: Answer, headers: dict[str, str] | None = None) -> None:
        self.connection.settimeout(ANSWERING)
        self.send_response_only(code)
        named = {"Content-Disposition": f'attachment; filename="{answer.name}"'} if answer.name else {}
        described = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body)), "Connection": "close"}
        for name, value in {**described, **HEADERS, **named, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library finds wrong, in the words of the rest."""
        self._send(code, _error(message or http.client.responses.get(code, "no")))

    def log_message(self, format: str, *args: Any) -> None:
        """A page that is looked at asks a hundred times a minute: nothing is worth a line."""


class _Refused(Exception):
    def __init__(self, code: int, words: str):
        self.code, self.words = code, words


class Server(socketserver.ThreadingTCPServer):
    """Listens from its making on; `load` makes it able to answer, `run` answers until it is told to stop.

    A thread a connection, CONNECTIONS at most. UserError for an address that cannot be had.
    """

    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"  # where it means that two may have one port
    request_queue_size = 128
    timeout = 0.3  # seconds after which `run` looks whether it shall stop

    def __init__(self, host: str = "127.0.0.1", port: int = 0):
        if not 0 <= port < 1 << 16:
            raise UserError(f"--port {port} is not from 0 to 65,535; 0 takes a free one")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        except (OSError, UnicodeError) as error:
            raise UserError(f"--host {shown(host)} is no address of this machine ({error}); 127.0.0.1 is for you alone") from None
        self.address_family, address = found[0], found[4]
        try:
            super().__init__(address, _Handler)  # type: ignore[arg-type]
        except (OSError, OverflowError) as error:
            raise UserError(f"port {port} of {shown(host)} cannot be had ({_reason(error)}); --port 0 takes a free one") from None
        name, self.port = str(self.server_address[0]), self.server_address[1]
        self.local = ipaddress.ip_address(name.partition("%")[0]).is_loopback
        self.url = f"http://{f'[{name}]' if ':' in name else name}:{self.port}/"
        self._page = page()
        self._counting, self._open = threading.Lock(), 0
        self._asking: dict[socket.socket, float] = {}

    def load(self, networks: Networks) -> None:
        self.turns = Turns()
        self.answers = Answers(networks, self.turns)
        self.paths = {"GET": ["/health", *self._page, *self.answers.routes["GET"]], "POST": [*self.answers.routes["POST"]]}

    def run(self, asked: list[int]) -> None:
        """Answer until `asked[0]` is not 0."""
        try:
            while not asked[0]:
                self.handle_request()
                self._hang_up()
        finally:
            self.server_close()
            self.turns.close()

    def answer(self, method: str, path: str, query: str, body: bytes) -> Answer:
        if path == "/health":
            return Answer(b'{"ok":true}')
        if path in self._page and method == "GET":
            return self._page[path]
        return self.answers.routes[method][path](query, body)

    def heard(self, connection: socket.socket) -> None:
        """All of the request is here."""
        self._asking.pop(connection, None)

    def _hang_up(self) -> None:
        """On those that take too long to say what they want."""
        now = time.monotonic()
        for connection, began in list(self._asking.items()):
            if now - began > ASKING:
                self._asking.pop(connection, None)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._counting:
            full = self._open >= CONNECTIONS
            self._open += not full
        if full:
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(FULL)
            self.shutdown_request(request)
            return
        self._asking[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.heard(request)
            with self._counting:
                self._open -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # whoever asked is gone: no news
            traceback.print_exc()


def serve(run: Run, *, host: str = "127.0.0.1", port: int = 0, **options: Any) -> None:
    """Serve the page of a run until Ctrl-C. `options` are those of `Networks`."""
    server = Server(host, port)
    try:
        networks = Networks(run, **options)
        server.load(networks)
    except BaseException:
        server.server_close()
        raise
    print(f"{run.folder}, step {networks.step:,}: {server.url}  (Ctrl-C ends it)", flush=True)
    if not server.local:
        print("whoever can reach this machine can open the page: it has no password", flush=True)
    with signals.heard() as asked:
        server.run(asked)
    print("the page is closed", flush=True)


def _error(words: str) -> Answer:
    return Answer(json.dumps({"error": shown(words)[:500]}).encode())


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine itself, with any port: it may have been forwarded."""
    found = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::[0-9]{1,5})?|([^:\[\]]*)(?::[0-9]{1,5})?", host)
    name = (found[1] or found[2] or "").lower() if found else ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
