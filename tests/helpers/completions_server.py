"""A small OpenAI-compatible server of `/v1/completions` on this machine, with a model that is a pure function of its tokens.

Tokens are words of a text with what follows them, or ids. It echoes prompts with log-probabilities, counts what it is asked,
and refuses as many requests as a test wants.
"""

import json
import re
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import numpy as np


def log_probs_after(before: str | int, vocab: int, spread: float = 2.0) -> np.ndarray:
    """float64 (V,): of the next id, or of the next word by its checksum, behind a token; -1 behind the end of nothing."""
    logits = np.random.default_rng(zlib.crc32(str(before).encode())).normal(size=vocab) * spread
    if isinstance(before, int):
        # Right more often than not where ids count upwards, which small documents of tests do.
        logits[(before + 1) % vocab] += 4
    return logits - np.log(np.exp(logits).sum())


def words_of(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


def word_log_prob(before: str, word: str) -> float:
    return float(log_probs_after(before, 97)[zlib.crc32(word.strip().encode()) % 97])


@dataclass
class Script:
    """What a test wants of the server, and what has come."""

    vocab: int = 40
    spread: float = 2.0
    """Of the logits of ids: with less, a model that knows nothing of real texts is at least not surely wrong."""
    key: str | None = None
    by_id: bool = True
    """Whether there are `prompt_logprobs`, as vLLM has; else `top_logprobs` with `token_id:...`."""
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Statuses and headers with which the first requests are answered."""
    seconds: float = 0.0
    """That an answer takes."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def choice(self, index: int, prompt: Any, top: int) -> dict[str, Any]:
        if isinstance(prompt, str):
            tokens = words_of(prompt)
            said = [None, *(word_log_prob(a, b) for a, b in pairwise(tokens))]
            return {"index": index, "text": prompt, "logprobs": {"tokens": tokens, "token_logprobs": said}}
        named: list[dict[int, float] | None] = [None]
        for before, token in pairwise(prompt):
            values = log_probs_after(before, self.vocab, self.spread)
            ids = {*np.argsort(-values)[:top].tolist(), token}
            named.append({i: float(values[i]) for i in ids})
        if self.by_id:
            full = [each and {str(i): {"logprob": v, "decoded_token": "x"} for i, v in each.items()} for each in named]
            return {"index": index, "text": "", "logprobs": None, "prompt_logprobs": full}
        by_name = [each and {f"token_id:{i}": v for i, v in each.items()} for each in named]
        return {"index": index, "text": "", "logprobs": {"top_logprobs": by_name}}


@contextmanager
def completions_server(script: Script) -> Iterator[str]:
    """The address of a server, with its `/v1`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with script.lock:
                script.bodies.append(body)
                script.times.append(time.monotonic())
                script.at_once += 1
                script.most_at_once = max(script.most_at_once, script.at_once)
                refusal = script.refusals.pop(0) if script.refusals else None
            try:
                time.sleep(script.seconds)
                self.reply(body, refusal)
            finally:
                with script.lock:
                    script.at_once -= 1

        def reply(self, body: dict[str, Any], refusal: tuple[int, dict[str, str]] | None) -> None:
            given = self.headers.get("Authorization", "")
            if self.path != "/v1/completions":
                self.send(404, {"error": f"no {self.path}"}, {})
            elif script.key and given != f"Bearer {script.key}":
                self.send(401, {"error": f"wrong key: {given}"}, {})
            elif refusal:
                self.send(refusal[0], {"error": "busy"}, refusal[1])
            else:
                prompts = body["prompt"] if isinstance(body["prompt"][0], str) else [body["prompt"]]
                choices = [script.choice(i, prompt, body["logprobs"]) for i, prompt in enumerate(prompts)]
                total = sum(len(words_of(p)) if isinstance(p, str) else len(p) for p in prompts)
                self.send(200, {"choices": choices[::-1], "usage": {"total_tokens": total}}, {})

        def send(self, status: int, tree: dict[str, Any], headers: dict[str, str]) -> None:
            text = json.dumps(tree).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text)), "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that was killed is what a test wants."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
