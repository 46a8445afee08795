"""An S3 server on this machine (moto, in a thread), whose answers to uploads can be made to fail."""

import contextlib
import importlib
import threading
from collections.abc import Iterator
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

DENIED = b"<Error><Code>AccessDenied</Code><Message>refused by the test</Message></Error>"
BUSY = b"<Error><Code>SlowDown</Code><Message>come again</Message></Error>"


_FORMER: list[Any] = []
"""File systems of former servers; their sessions complain if they are collected while they are open."""


class Uploads:
    """Counts uploads; `refused(n)` and `answer_lost(n)` say of the n-th whether it does not happen, or is not told."""

    def __init__(self) -> None:
        self.app, self.lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
        self.reset()

    def reset(self, refused: Any = lambda n: False, answer_lost: Any = lambda n: False) -> None:
        self.n, self.refused, self.answer_lost = 0, refused, answer_lost

    def __call__(self, environ: Any, start_response: Any) -> Any:
        heartbeat = environ["PATH_INFO"].endswith("run.lock") and "HTTP_IF_NONE_MATCH" not in environ
        if environ["REQUEST_METHOD"] != "PUT" or heartbeat:  # how often it beats depends on the machine
            return self.app(environ, start_response)
        with self.lock:
            self.n += 1
            n = self.n
        if self.refused(n):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [DENIED]
        if self.answer_lost(n):
            list(self.app(environ, lambda *_: None))
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [BUSY]
        return self.app(environ, start_response)


class _Quiet(WSGIRequestHandler):
    def log(self, type: Any, message: Any, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serve() -> Iterator[Any]:
    """Start it; gives the address and the uploads."""
    uploads = Uploads()
    server = make_server("127.0.0.1", 0, uploads, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    _forget_other_servers()
    try:
        yield f"http://127.0.0.1:{server.server_port}", uploads
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        _forget_other_servers()


def _forget_other_servers() -> None:
    """Open file systems keep the address of their server: make new ones, and let nothing warn about the old ones."""
    kind = importlib.import_module("s3fs").S3FileSystem
    _FORMER.extend(kind._cache.values())
    kind.clear_instance_cache()
