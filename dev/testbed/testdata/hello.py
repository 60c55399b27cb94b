"""Says hello and by whom; `serve` answers HTTP on port 8080 with the same words."""

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

words = f"hello from {os.uname().nodename}, uid {os.getuid()}, Python {Path('/made/version').read_text()}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(words.encode())


print(words, flush=True)
if sys.argv[1:] == ["serve"]:
    HTTPServer(("", 8080), Handler).serve_forever()
