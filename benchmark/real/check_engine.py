#!/usr/bin/env python3
"""Checks a gorgo router in front of real engines with an OpenAI API. See README.md.

    check_engine.py --router http://127.0.0.1:8000 --engines http://127.0.0.1:8101 http://127.0.0.1:8102

Every check prints one line; the last line counts them. Exit 1 if one failed.
"""

import argparse
import concurrent.futures
import json
import os
import random
import signal
import statistics
import subprocess
import threading
import time
import traceback

from http1 import Stream, call, connect, metrics, prompt

RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs")
WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs")
HITS = ("vllm:prefix_cache_hits_total", "sglang:cached_tokens_total")


def gauge(engine, names):
    page = metrics(engine)
    return next((page[name] for name in names if name in page), 0.0)


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


class Check:
    """What all checks share; a check is a method that returns a line or fails an assertion."""

    def __init__(self, args):
        self.router, self.engines, self.args = args.router, args.engines, args
        self.model = args.model or call(self.engines[0], "/v1/models")[2]["data"][0]["id"]
        self.extra = json.loads(args.extra)
        self.ran = self.failed = 0
        self.salt = random.Random(args.seed or time.time()).randrange(1 << 30)

    def run(self, check):
        self.ran += 1
        name = check.__name__.replace("_", " ")
        try:
            print(f"ok    {name}: {check()}", flush=True)
        except Exception as error:
            self.failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAIL  {name}: {type(error).__name__} {error} (line {where.lineno}: {where.line})", flush=True)

    def chat(self, messages, tokens, **more):
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return {"model": self.model, "messages": messages, "max_tokens": tokens, "ignore_eos": True, **self.extra,
                **more}

    def text(self, number, words):
        return prompt(f"{self.salt} {number}", words)

    def replica(self, headers):
        return headers["x-gorgo-replica"]

    # The API, unchanged.

    def models_are_the_engines(self):
        status, _, body = call(self.router, "/v1/models")
        assert status == 200 and [m["id"] for m in body["data"]] == [self.model], (status, body)
        return self.model

    def whole_chat_answers_are_the_engines(self):
        body = self.chat(self.text("whole", 40), 8, temperature=0)
        status, headers, through = call(self.router, "/v1/chat/completions", body)
        _, _, direct = call(self.engines[0], "/v1/chat/completions", body)
        assert status == 200 and through.keys() == direct.keys(), (status, through)
        assert through["usage"]["prompt_tokens"] == direct["usage"]["prompt_tokens"]
        assert through["usage"]["completion_tokens"] == direct["usage"]["completion_tokens"] == 8
        return f"{len(through)} keys, {through['usage']['prompt_tokens']} prompt tokens, {self.replica(headers)}"

    def streams_come_event_by_event(self):
        body = self.chat(self.text("stream", 40), 64, temperature=0, stream_options={"include_usage": True})
        times, events = [], []
        for event in Stream(self.router, "/v1/chat/completions", body):
            times.append(time.time())
            events.append(event)
        direct = list(Stream(self.engines[0], "/v1/chat/completions", body))
        # A busy engine puts several tokens into one event, so their number is not the same each time.
        assert events[-1] == direct[-1] == "[DONE]", (events[-1], direct[-1])
        assert json.loads(events[0]).keys() == json.loads(direct[0]).keys()
        usage = json.loads(events[-2])["usage"]
        assert usage["completion_tokens"] == 64
        spread = times[-1] - times[0]
        arrivals = sum(b - a > spread / 1000 for a, b in zip(times, times[1:]))
        assert arrivals > 10, f"{arrivals} separate arrivals over {spread:.3f} s"
        return f"{len(events)} events in {arrivals + 1} arrivals over {spread * 1e3:.0f} ms"

    def completions_of_text(self):
        body = {"model": self.model, "prompt": self.text("completion", 30), "max_tokens": 6, "ignore_eos": True}
        status, _, whole = call(self.router, "/v1/completions", body)
        assert status == 200 and whole["usage"]["completion_tokens"] == 6, (status, whole)
        events = list(Stream(self.router, "/v1/completions", body))
        assert events[-1] == "[DONE]" and len(events) >= 6
        return f"whole and {len(events)} events"

    def prompts_of_token_ids(self):
        ids = [random.Random(self.salt).randrange(260, 300) for _ in range(1_024)]
        seen = []
        for _ in range(2):
            status, headers, body = call(self.router, "/v1/completions", {
                "model": self.model, "prompt": ids, "max_tokens": 2, "ignore_eos": True})
            assert status == 200 and body["usage"]["prompt_tokens"] == 1_024, (status, body)
            details = body["usage"].get("prompt_tokens_details") or {}
            seen.append((self.replica(headers), details.get("cached_tokens")))
        assert seen[0][0] == seen[1][0], f"another replica for the same tokens: {seen}"
        assert seen[1][1] is None or seen[1][1] > 700, seen
        return f"1024 tokens, {seen[1][1]} cached at the second time, {seen[0][0]}"

    def mistakes_are_told_in_the_engines_words(self):
        bad = self.chat("x", 4, temperature="hot")
        through, direct = (call(url, "/v1/chat/completions", bad) for url in (self.router, self.engines[0]))
        assert through[0] == direct[0] >= 400 and through[2] == direct[2], (through, direct)
        unknown = {**self.chat("x", 4), "model": "nobody"}
        through, direct = (call(url, "/v1/chat/completions", unknown) for url in (self.router, self.engines[0]))
        assert through[0] == direct[0] == 404, (through[0], direct[0])
        return f"{bad['temperature']!r} as temperature and an unknown model"

    # Routing.

    def conversations_stay_where_their_prefix_is(self):
        before = sum(gauge(e, HITS) for e in self.engines)
        cached = prompted = moved = 0
        for n in range(6):
            messages, homes = [{"role": "system", "content": self.text(f"system {n}", 200)}], []
            for turn in range(5):
                messages.append({"role": "user", "content": self.text(f"{n} {turn}", 60)})
                status, headers, body = call(self.router, "/v1/chat/completions", self.chat(messages, 16))
                assert status == 200, body
                answer = body["choices"][0]["message"]["content"] or ""
                messages.append({"role": "assistant", "content": answer})
                homes.append(self.replica(headers))
                prompted += body["usage"]["prompt_tokens"]
                cached += (body["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            moved += len(set(homes)) > 1
        hits = sum(gauge(e, HITS) for e in self.engines) - before
        # Round trips to a busy engine swing by more than a short prompt's prefill costs, so one may well move.
        assert moved <= 2, f"{moved} of 6 conversations moved"
        assert hits > 0.4 * prompted, f"{hits} of {prompted} tokens were hits"
        return f"6 conversations of 5 turns: {cached} of {prompted} tokens cached, the engines count {hits:.0f}; {moved} moved"

    def the_scrape_sees_the_engines_load(self):
        seen, told, real, over = [], [], [], threading.Event()

        def watch():
            while not over.wait(0.1):
                servers = call(self.router, "/proxy/status")[2]["servers"]
                told.append(sum(s["metrics"]["num_running_reqs"] for s in servers))
                seen.append(sum(s["metrics"]["num_waiting_reqs"] for s in servers))
                real.append(sum(gauge(e, RUNNING) for e in self.engines))

        thread = threading.Thread(target=watch)
        thread.start()
        with concurrent.futures.ThreadPoolExecutor(80) as pool:
            bodies = [self.chat(self.text(f"load {n}", 50), 200) for n in range(80)]
            statuses = list(pool.map(lambda b: call(self.router, "/v1/chat/completions", b)[0], bodies))
        over.set()
        thread.join()
        assert statuses == [200] * 80, statuses
        assert max(told) > 0, "the router never saw a running request"
        servers = call(self.router, "/proxy/status")[2]["servers"]
        kv = [s["metrics"]["max_total_num_tokens"] for s in servers]
        assert all(kv), f"KV capacity not read: {kv}"
        return f"running up to {max(told)} (engines: {max(real):.0f}), waiting up to {max(seen)}, KV tokens {kv}"

    # Predictions.

    def prefill_rate_is_measured_and_set(self):
        points = []
        for n in range(5):
            for words in (50, 500, 1_500, 3_000):
                body = self.chat(self.text(f"rate {n} {words}", words), 1, stream_options={"include_usage": True})
                stream = Stream(self.engines[0], "/v1/chat/completions", body)
                first, usage = None, None
                for event in stream:
                    first = first or time.time()
                    if event != "[DONE]":
                        usage = json.loads(event).get("usage") or usage
                points.append((usage["prompt_tokens"], (first - stream.began) * 1e3))
        # The least of each length: what else the machine does only adds.
        least = {}
        for tokens, took in points:
            group = min(range(4), key=lambda n: abs(tokens - points[n][0]))
            least[group] = min(least.get(group, (tokens, took)), (tokens, took), key=lambda p: p[1])
        points = sorted(least.values())
        mean_x, mean_y = (statistics.fmean(column) for column in zip(*points))
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
        assert slope > 0, f"longer prompts were not slower: {points}"
        status, _, body = call(self.router, "/proxy/tune", {"ms_per_token": round(slope, 5)})
        assert status == 200, body
        return (f"{slope:.4f} ms a token and {mean_y - slope * mean_x:.1f} ms besides, "
                f"over {points[0][0]} to {points[-1][0]} tokens")

    def predictions_against_what_came(self):
        rng = random.Random(self.salt)
        histories = [[{"role": "system", "content": self.text(f"p {n}", 300)}] for n in range(20)]
        ids, lock = [], [threading.Lock() for _ in histories]

        def turn(n, number):
            with lock[n]:
                histories[n].append({"role": "user", "content": self.text(f"p {n} {number}", rng.randrange(20, 800))})
                stream = Stream(self.router, "/v1/chat/completions", self.chat(
                    histories[n], 12, stream_options={"include_usage": True}))
                for _ in stream:
                    pass
                assert stream.status == 200, stream.status
                ids.append(stream.headers["x-request-id"])

        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            jobs = []
            for number in range(self.args.requests):
                time.sleep(rng.expovariate(self.args.rate))
                jobs.append(pool.submit(turn, rng.randrange(len(histories)), number))
            for job in jobs:
                job.result()
        told = [call(self.router, f"/explain/{i}")[2] for i in ids]
        assert all(t["actual_ttft_ms"] is not None for t in told), "requests without a first token"
        predicted, actual = ([t[k] for t in told] for k in ("predicted_ttft_ms", "actual_ttft_ms"))
        off = [p - a for p, a in zip(predicted, actual)]
        near = sum(abs(o) <= max(0.25 * a, 10) for o, a in zip(off, actual)) / len(off)
        tokens = [(t["predicted_cached_tokens"], t["actual_cached_tokens"]) for t in told
                  if t["actual_cached_tokens"] is not None]
        shown = lambda v: " / ".join(f"{quantile(v, q):.1f}" for q in (0.1, 0.5, 0.9, 0.99))
        if self.args.gorgo:
            port = self.router.rsplit(":", 1)[1]
            out = subprocess.run([self.args.gorgo, "proxy", "explain", ids[-1], "--port", port], capture_output=True,
                                 text=True)
            assert out.returncode == 0 and "chose" in out.stdout, out.stderr
            print(out.stdout.rstrip())
        terms = [next(c for c in t["decisions"][-1]["candidates"] if c["id"] == t["decisions"][-1]["chosen"])
                 for t in told]
        means = {k: statistics.fmean(c[k] for c in terms) for k in ("network_ms", "prefill_ms", "waiting_ms",
                                                                     "running_ms")}
        cached = f"cached tokens predicted {sum(p for p, _ in tokens)}, actual {sum(a for _, a in tokens)}; " \
            if tokens else ""
        return (f"{len(told)} requests; TTFT p10/p50/p90/p99 ms predicted {shown(predicted)}, actual {shown(actual)}, "
                f"predicted - actual {shown(off)}; {near:.0%} within 25 % or 10 ms; {cached}mean terms "
                + ", ".join(f"{k} {v:.1f}" for k, v in means.items()))

    # Leaving and dying.

    def _leaves(self, body, streams, after):
        link = None
        if streams:
            link = Stream(self.router, "/v1/chat/completions", body)
            for n, _ in enumerate(link):
                if n >= 3:
                    break
        else:
            link = connect(self.router)
            link.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        time.sleep(after)
        busy = sum(gauge(e, RUNNING) for e in self.engines)
        link.leave() if streams else link.close()
        left = time.time()
        while time.time() - left < 10:
            if sum(gauge(e, RUNNING) + gauge(e, WAITING) for e in self.engines) == 0:
                return busy, time.time() - left
            time.sleep(0.02)
        raise AssertionError("the engine still works for a client that left 10 s ago")

    def a_client_that_leaves_frees_the_engine(self):
        told = []
        for name, streams, words in [("streaming", True, 50), ("not streaming", False, 50)]:
            body = self.chat(self.text(f"leave {name}", words), 20_000)
            busy, gone = self._leaves(body, streams, 1.0)
            assert busy >= 1, f"{name}: nothing ran when the client left"
            told.append(f"{name} {gone * 1e3:.0f} ms")
        return ", ".join(told)

    def a_killed_engine_is_left_out(self):
        assert len(self.engines) > 1, "give two engines"
        victim = self.engines[-1].split("//")[1]
        over, seen = threading.Event(), []

        def ask(n):
            while not over.is_set():
                body = self.chat(self.text(f"kill {n} {len(seen)}", 40), 8)
                began = time.time()
                status, headers, _ = call(self.router, "/v1/chat/completions", body)
                seen.append((began, status, headers.get("x-gorgo-replica")))
                time.sleep(0.05)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(3)
        os.kill(self.args.kill_pid, signal.SIGKILL)
        killed = time.time()
        time.sleep(6)
        over.set()
        for thread in threads:
            thread.join()
        bad = [s for s in seen if s[1] != 200]
        before = sum(t < killed and r == victim for t, _, r in seen)
        late = [r for t, _, r in seen if t > killed + 0.5 and r == victim]
        assert before > 0, f"{victim} got nothing before it was killed"
        assert not bad, f"{len(bad)} of {len(seen)} failed: {bad[:3]}"
        assert not late, f"{len(late)} answers name the killed engine"
        return f"{len(seen)} requests, none failed; {before} went to {victim} before, none after"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--router", required=True, help="URL of gorgo")
    parser.add_argument("--engines", required=True, nargs="+", help="URLs of the engines behind it")
    parser.add_argument("--model", help="name to ask for; the first of /v1/models when absent")
    parser.add_argument("--extra", default="{}", help="JSON added to every chat, for example allowed_token_ids")
    parser.add_argument("--requests", type=int, default=150, help="requests of the predictions (150)")
    parser.add_argument("--rate", type=float, default=6, help="their rate, requests/s (6)")
    parser.add_argument("--seed", type=int, help="another seed says other things; the time when absent")
    parser.add_argument("--gorgo", help="the program, to try `gorgo proxy explain`")
    parser.add_argument("--kill-pid", type=int, help="process of the last engine: killed in the last check")
    args = parser.parse_args()
    check = Check(args)
    steps = [check.models_are_the_engines, check.whole_chat_answers_are_the_engines, check.streams_come_event_by_event,
             check.completions_of_text, check.prompts_of_token_ids, check.mistakes_are_told_in_the_engines_words,
             check.conversations_stay_where_their_prefix_is, check.the_scrape_sees_the_engines_load,
             check.prefill_rate_is_measured_and_set, check.predictions_against_what_came,
             check.a_client_that_leaves_frees_the_engine]
    if args.kill_pid:
        steps.append(check.a_killed_engine_is_left_out)
    for step in steps:
        check.run(step)
    print(f"{check.ran - check.failed} of {check.ran} checks passed")
    raise SystemExit(1 if check.failed else 0)


if __name__ == "__main__":
    main()
