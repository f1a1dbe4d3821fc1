#!/usr/bin/env python3
"""OpenAI's own client through the router: every call gives what the engine alone gives, every refusal its class.

    openai_client.py --router http://127.0.0.1:8000 --engine http://127.0.0.1:8080 --gorgo target/release/gorgo

With `--gorgo` it also starts small routers of its own before the engine, to be refused by them.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import time

import openai

passed = failed = 0


def report(name, good, detail=""):
    global passed, failed
    passed, failed = passed + good, failed + (not good)
    print(f"{'ok   ' if good else 'FAIL '} {name}{': ' + str(detail) if detail != '' else ''}", flush=True)


def client(url, **more):
    return openai.OpenAI(base_url=url + "/v1", **{"api_key": "none", "max_retries": 0, "timeout": 60, **more})


def outcome(call):
    """What a call gave, as far as it is the same each time: a shape, or an error's class and status."""
    try:
        return call()
    except openai.APIStatusError as error:
        return f"{type(error).__name__} {error.status_code} {error.body}"
    except openai.OpenAIError as error:
        return type(error).__name__


TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather of a place", "parameters": {
    "type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}}}
SAID = [{"role": "user", "content": "the quick brown fox jumps over a lazy dog"}]


def calls(model):
    """Name and call of everything that must be the same with and without the router."""
    def usage(found):
        return found.usage.prompt_tokens, found.usage.completion_tokens, found.choices[0].finish_reason, found.model

    def streamed(found):
        finished, tokens, roles = None, None, 0
        for chunk in found:
            tokens = chunk.usage or tokens
            for choice in chunk.choices:
                finished = choice.finish_reason or finished
                roles += getattr(getattr(choice, "delta", None), "role", None) == "assistant"
        return finished, tokens and (tokens.prompt_tokens, tokens.completion_tokens), bool(roles)

    chat = dict(model=model, messages=SAID, max_tokens=5, temperature=0)
    return {
        "models": lambda c: [m.id for m in c.models.list()],
        "chat": lambda c: usage(c.chat.completions.create(**chat)),
        "chat, streamed": lambda c: streamed(c.chat.completions.create(**chat, stream=True)),
        "chat, streamed with usage": lambda c: streamed(c.chat.completions.create(
            **chat, stream=True, stream_options={"include_usage": True})),
        "chat with tools": lambda c: usage(c.chat.completions.create(**chat, tools=[TOOL], tool_choice="none")),
        "chat, tool choice auto": lambda c: usage(c.chat.completions.create(**chat, tools=[TOOL], tool_choice="auto")),
        "chat after a tool's answer": lambda c: usage(c.chat.completions.create(model=model, max_tokens=5, messages=[
            *SAID, {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{\"place\":\"Spain\"}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "rain"}])),
        "chat, content in parts": lambda c: usage(c.chat.completions.create(model=model, max_tokens=5, messages=[
            {"role": "user", "content": [{"type": "text", "text": "on the "}, {"type": "text", "text": "plain"}]}])),
        "completion": lambda c: usage(c.completions.create(model=model, prompt="it rains in", max_tokens=5)),
        "completion, streamed": lambda c: streamed(c.completions.create(
            model=model, prompt="it rains in", max_tokens=5, stream=True)),
        "completion of token ids": lambda c: usage(c.completions.create(
            model=model, prompt=[270, 271, 272, 273], max_tokens=5)),
        "responses": lambda c: c.responses.create(model=model, input="it rains", max_output_tokens=16).status,
        "responses, streamed": lambda c: [e.type for e in c.responses.create(
            model=model, input="it rains", max_output_tokens=16, stream=True)][:1],
        "embeddings": lambda c: len(c.embeddings.create(model=model, input="the fox").data),
        "error: no temperature": lambda c: c.chat.completions.create(**{**chat, "temperature": "hot"}),
        "error: negative length": lambda c: c.chat.completions.create(**{**chat, "max_tokens": -1}),
        "error: no such path": lambda c: c.get("/nothing/here", cast_to=object),
    }


def same_with_and_without(router, engine, model):
    for name, call in calls(model).items():
        through, direct = (outcome(lambda: call(client(url))) for url in (router, engine))
        same = through == direct
        report(name, same, through if same else f"{through}, but the engine alone: {direct}")


def headers(router, model):
    chat = dict(model=model, messages=SAID, max_tokens=2)
    raw = client(router).chat.completions.with_raw_response.create(**chat, extra_headers={"X-Request-ID": "mine-1"})
    found = {k.lower(): v for k, v in raw.headers.items()}
    report("raw response: headers", found.get("x-request-id") == "mine-1" and "x-gorgo-replica" in found
           and "x-gorgo-decision" in found, found.get("x-gorgo-decision"))
    report("request id on the object", raw.parse()._request_id == "mine-1", raw.parse()._request_id)
    named = client(router).chat.completions.create(**chat)._request_id
    report("request id without one asked for", bool(named), named)
    with client(router).chat.completions.with_streaming_response.create(**chat, stream=True) as stream:
        lines = [line for line in stream.iter_lines() if line]
    report("raw stream ends with [DONE]", lines[-1] == "data: [DONE]", f"{len(lines)} lines")
    slow = outcome(lambda: client(router, timeout=0.001).chat.completions.create(**chat))
    report("the client's own timeout", slow == "APITimeoutError", slow)


async def many(router, model, number):
    async with openai.AsyncOpenAI(base_url=router + "/v1", api_key="none", max_retries=0) as c:
        async def one(n):
            found = await c.chat.completions.create(
                model=model, messages=[{"role": "user", "content": f"fox {n}"}], max_tokens=4)
            return found.usage.completion_tokens
        done = await asyncio.gather(*(one(n) for n in range(number)))
    report(f"{number} at once, asynchronous", len(done) == number, f"{sum(done)} tokens")


class Router:
    """A router of our own, to be refused by."""

    def __init__(self, gorgo, engine, *flags, **env):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.child = subprocess.Popen(
            [gorgo, "proxy", "start", "--listen", f"127.0.0.1:{port}", "--servers", engine, *flags],
            env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        time.sleep(1.5)
        assert self.child.poll() is None, f"the router ended: {self.child.args}"
        return self.url

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()


def refusals(gorgo, engine, model):
    chat = dict(model=model, messages=SAID, max_tokens=4)

    def expect(name, call, cls, status, code):
        try:
            got = call()
            report(name, False, f"no error but {got}")
        except openai.APIStatusError as error:
            good = type(error) is cls and error.status_code == status and error.code == code
            report(name, good, f"{type(error).__name__} {error.status_code} {error.code} {error.type}: {error}")
        except openai.OpenAIError as error:
            report(name, False, f"{type(error).__name__}: {error}")

    with Router(gorgo, engine, GORGO_API_KEY="right") as url:
        expect("wrong key", lambda: client(url, api_key="wrong").chat.completions.create(**chat),
               openai.AuthenticationError, 401, "invalid_api_key")
        good = outcome(lambda: client(url, api_key="right").chat.completions.create(**chat).object)
        report("right key", good == "chat.completion", good)
    with Router(gorgo, engine, "--set", "limits.requests=1", "--set", "limits.body_bytes=2000") as url:
        hold = client(url).chat.completions.create(**{**chat, "max_tokens": 3_000}, stream=True,
                                                   extra_body={"ignore_eos": True})
        next(iter(hold))
        expect("too many at once", lambda: client(url).chat.completions.create(**chat),
               openai.RateLimitError, 429, "too_many_requests")
        began = time.time()
        try:
            client(url, max_retries=1).chat.completions.create(**chat)
            report("retries after what Retry-After says", False, "no error")
        except openai.RateLimitError as error:
            took = time.time() - began
            report("retries after what Retry-After says", 0.8 < took < 3, f"{took:.2f} s, Retry-After "
                   f"{error.response.headers.get('retry-after')}")
        hold.close()
        time.sleep(0.5)
        good = outcome(lambda: client(url).chat.completions.create(**chat).object)
        report("served again once the first has left", good == "chat.completion", good)
        expect("body too long", lambda: client(url).chat.completions.create(
            model=model, messages=[{"role": "user", "content": "x" * 4_000}]), openai.APIStatusError, 413, "body_too_large")
        expect("deadline", lambda: client(url).chat.completions.create(
            model=model, messages=SAID, max_tokens=4, extra_headers={"X-Request-Timeout-Ms": "1"}),
            openai.InternalServerError, 504, "deadline")
        expect("no JSON", lambda: client(url).post("/chat/completions", cast_to=object, body=[1, 2], options={}),
               openai.BadRequestError, 400, "invalid_body")
    with Router(gorgo, "http://127.0.0.1:9", "--set", "router.queue_timeout_ms=500") as url:
        expect("no engine", lambda: client(url).chat.completions.create(**chat), openai.InternalServerError, 503,
               "no_healthy_replica")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--router", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--model", help="the first of /v1/models when absent")
    parser.add_argument("--gorgo", help="the router's program")
    args = parser.parse_args()
    model = args.model or client(args.engine).models.list().data[0].id
    print(f"openai {openai.__version__}, model {model}")
    same_with_and_without(args.router, args.engine, model)
    headers(args.router, model)
    asyncio.run(many(args.router, model, 50))
    if args.gorgo:
        refusals(args.gorgo, args.engine, model)
    print(f"{passed} of {passed + failed} passed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
