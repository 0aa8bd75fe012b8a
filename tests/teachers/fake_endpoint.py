"""A server on loopback that answers as a test tells it, in good ways and bad."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RESET = "reset"
HANG = "hang"
MODEL = "black-1"


def reply(text="An answer.", *, finish="stop", model=MODEL, prompt_tokens=5, completion_tokens=3, **message):
    """A chat reply; the same dictionary serves as a completion."""
    return {
        "model": model,
        "choices": [
            {
                "index": 0,
                "text": text,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": finish,
            }
        ],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


class Endpoint:
    """asked: (route, body) of every POST. headers: of the last request."""

    def __init__(self, answer):
        self.answer, self.asked, self.headers = answer, [], {}
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def _handler(endpoint):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_GET(self):
                self._send({"object": "list", "data": [{"id": MODEL}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    endpoint.asked.append((self.path, body))
                    endpoint.headers = dict(self.headers)
                    number = len(endpoint.asked)
                self._send(endpoint.answer(self.path, body, number))

            def _send(self, said):
                status, headers = 200, {}
                if isinstance(said, tuple):
                    status, said, headers = (*said, {})[:3]
                if said is HANG:
                    time.sleep(2)
                    said = RESET
                if said is RESET:
                    self.close_connection = True
                    self.connection.close()
                    return
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                if "Content-Length" in headers:
                    self.close_connection = True

        return Handler


@contextmanager
def serving(answer):
    endpoint = Endpoint(answer if callable(answer) else lambda route, body, number: answer)
    thread = threading.Thread(target=endpoint.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.server.shutdown()
        endpoint.server.server_close()
        thread.join()
