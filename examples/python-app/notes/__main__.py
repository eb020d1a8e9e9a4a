"""Serves the notes: GET / lists them, POST / adds the body as one."""

import argparse
import http.server
import json
import os

from notes.book import Book


class Handler(http.server.BaseHTTPRequestHandler):
    book = None

    def do_GET(self):
        self.answer(200, self.book.all())

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        try:
            number = self.book.add(self.rfile.read(length).decode("utf-8"))
        except ValueError as error:
            return self.answer(400, {"error": str(error)})
        return self.answer(201, {"number": number})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    parser = argparse.ArgumentParser(prog="notes")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    Handler.book = Book(os.environ.get("NOTES_FILE", "notes.json"))
    server = http.server.ThreadingHTTPServer(("", options.port), Handler)
    print(f"listening on port {options.port}")
    server.serve_forever()


if __name__ == "__main__":
    main()
