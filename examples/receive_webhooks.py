"""Receive webhooks on 127.0.0.1, verify their signatures and print their events, one line each.

python examples/receive_webhooks.py --port 9000 --secret whsec_…
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


def main() -> None:
    """Listen until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--secret", required=True, help="the webhook's secret, as sent to or returned by /v1/webhooks")
    options = parser.parse_args()
    webhook = Webhook(options.secret)

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # as the library calls it
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            try:
                webhook.verify(body, dict(self.headers))
            except WebhookVerificationError as error:
                self.send_error(401, str(error))
                return
            event = json.loads(body)
            print(f"{event['type']} {event.get('subject', '')} {json.dumps(event['data'])}\n", end="", flush=True)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print events only, no access log."""

    with ThreadingHTTPServer(("127.0.0.1", options.port), Receiver) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
