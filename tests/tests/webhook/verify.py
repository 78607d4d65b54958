"""Verifies messages with the library of Standard Webhooks. Reads one JSON object a line, {"secret", "headers", "body"}, and answers each with
"verified" or with why not."""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    message = json.loads(line)
    try:
        Webhook(message["secret"]).verify(message["body"], message["headers"])
        print("verified")
    except WebhookVerificationError as error:
        print(f"refused: {error}")
