"""A client of exactly what is needed: requests whose answers can be watched piece by piece, and left."""

import http.client
import json
import random
import time
import urllib.parse

WORDS = "the quick brown fox jumps over a lazy dog while it rains in Spain mainly on the plain".split()


def prompt(seed, words):
    """Text that is another for every seed, made of words that any tokenizer knows."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


def connect(url, timeout=120):
    parts = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)


def call(url, path, body=None, method=None, headers=None):
    """Status, headers (lower case) and body; JSON where it is JSON."""
    link = connect(url)
    try:
        data = None if body is None else json.dumps(body)
        link.request(method or ("GET" if body is None else "POST"), path, data,
                     {"content-type": "application/json", **(headers or {})})
        answer = link.getresponse()
        raw = answer.read()
        found = {k.lower(): v for k, v in answer.getheaders()}
        try:
            return answer.status, found, json.loads(raw)
        except ValueError:
            return answer.status, found, raw.decode(errors="replace")
    finally:
        link.close()


class Stream:
    """A streamed answer: iterate over its `data:` lines; `leave` closes the socket at once."""

    def __init__(self, url, path, body, headers=None):
        self.link = connect(url)
        self.began = time.time()
        self.link.request("POST", path, json.dumps({**body, "stream": True}),
                          {"content-type": "application/json", **(headers or {})})
        self.answer = self.link.getresponse()
        self.headers = {k.lower(): v for k, v in self.answer.getheaders()}
        self.status = self.answer.status

    def __iter__(self):
        for line in self.answer:
            if line.startswith(b"data: "):
                yield line[6:].strip().decode()
        self.link.close()

    def leave(self):
        self.answer.close()
        self.link.close()


def metrics(url):
    """The samples of `/metrics`, labels dropped and their values added up."""
    found = {}
    for line in call(url, "/metrics")[2].splitlines():
        if line and not line.startswith("#"):
            name, value = line.split("{")[0].split(" ")[0], line.rsplit(" ", 1)[1]
            found[name] = found.get(name, 0.0) + float(value)
    return found
