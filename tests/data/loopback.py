"""A web server on the loop-back interface that misbehaves on request."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """A web server whose answer to ``/<behaviour>/<file>`` is decided by the behaviour."""

    url: str
    files: dict[str, bytes]
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def mirror(self, behaviour: str) -> str:
        return f"{self.url}/{behaviour}/"


def answer(handler: BaseHTTPRequestHandler, behaviour: str, content: bytes, state: Server) -> None:
    if behaviour.isdigit():
        handler.send_error(int(behaviour))
        return
    if behaviour == "hang":
        state.released.wait(20)
        return
    if behaviour == "slow":  # slow enough for two processes to meet
        time.sleep(0.3)
    body = content
    if behaviour == "wrong":
        body = bytes(byte ^ 1 for byte in body)
    if behaviour == "empty":
        body = b""
    length = {"short": len(body) - 10, "long": len(body) + 10}.get(behaviour, len(body))
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    if behaviour == "trickle":
        for byte in body:
            if state.released.wait(0.05):
                return
            handler.wfile.write(bytes((byte,)))
    with suppress(ConnectionError):  # the other side may have had enough
        handler.wfile.write(body[: len(body) // 2] if behaviour in ("cut", "stall") else body)
        handler.wfile.flush()
    if behaviour == "stall":
        state.released.wait(20)


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Range")))
            _, behaviour, name = self.path.split("/")
            answer(self, behaviour, state.files.get(name, b""), state)

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    state = Server(f"http://127.0.0.1:{httpd.server_port}", dict(files))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    state.released.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()
