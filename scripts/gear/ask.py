#!/usr/bin/env python3
"""Asks a model server for one token: the only question whose answer proves that its weights are in.

`/health` is no proof: mlx_lm.server says 200 there before it has read the weights.

    ask.py http://127.0.0.1:8080              exit 0 and the token, or 1 and why not
    ask.py http://127.0.0.1:8080 --wait 60    keeps asking for up to a minute
"""

import argparse
import http.client
import json
import sys
import time
import urllib.request

QUESTION = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}


def ask(url: str, timeout_s: float) -> str:
    """Return the token; raises OSError, HTTPException or ValueError where there is no answer that holds one."""
    request = urllib.request.Request(  # noqa: S310 - the caller names the server
        f"{url.rstrip('/')}/v1/chat/completions",
        data=json.dumps(QUESTION).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310
        answer = json.load(response)
    try:
        message = answer["choices"][0]["message"]
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"not a completion: {answer!r:.200}") from None
    # A single token may be half a character, or start a thought: then there is no text, and still an answer.
    return str(message.get("content") or message.get("reasoning") or "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--timeout", type=float, default=30, metavar="SECONDS", help="for one answer")
    options = parser.parse_args()

    give_up_at = time.monotonic() + options.wait
    while True:
        asked_at = time.monotonic()
        try:
            token = ask(options.url, options.timeout)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() < give_up_at:
                time.sleep(0.1)
                continue
            print(f"no answer from {options.url}: {error}", file=sys.stderr)
            return 1
        print(f"{options.url} answered {token!r} in {time.monotonic() - asked_at:.2f} s")
        return 0


if __name__ == "__main__":
    sys.exit(main())
