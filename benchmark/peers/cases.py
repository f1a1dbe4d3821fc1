"""What is measured. Each function returns plain numbers; measure.py repeats, tabulates and writes them."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
from random import Random

from targets import Process, free_port, get, wait_for

# name: (title, flags of the load)
CLOSED = {
    "cpu-200B": ("200 B, 64 at once", dict(bytes=200, connections=64)),
    "cpu-80kB": ("80 kB, 64 at once", dict(bytes=80_000, connections=64)),
    "latency-200B": ("200 B, one at a time", dict(bytes=200, connections=1)),
    "latency-80kB": ("80 kB, one at a time", dict(bytes=80_000, connections=1)),
    "stream-first": ("stream of 16, one at a time", dict(bytes=200, connections=1, events=16)),
    "stream-events": ("streams of 256, 64 at once", dict(bytes=200, connections=64, events=256)),
}


def closed(world, names, cases, rounds, seconds, say):
    """Closed loops, interleaved: in each round every case meets every target once. Routers are started anew for each
    round and met in another order: where a process lies in memory and whom it follows is worth a few per cent."""
    engines = [world.engine() for _ in range(4)]
    urls = [e.url for e in engines]
    rows, failed = [], {}
    try:
        for n in range(rounds):
            say(f"round {n + 1} of {rounds}")
            routers, order = start(world, [name for name in names if name not in failed], urls, failed), Random(n)
            try:
                for name, router in routers.items():
                    world.load("load", [router.url] if router else urls, bytes=80_000, connections=8, seconds=0.5)
                for case in cases:
                    for name in order.sample(list(routers), len(routers)):
                        rows.append({"case": case, "target": name, "round": n,
                                     **one(world, routers[name], urls, CLOSED[case][1], seconds, n)})
            finally:
                stop(routers.values())
    finally:
        stop(engines)
    rows.sort(key=lambda row: (row["round"], names.index(row["target"])))
    return rows, failed


def start(world, names, urls, failed):
    """The routers that start, all at the same time; why the others do not goes to `failed`."""
    started = each(names, lambda name: world.router(name, urls))
    failed.update({name: given["error"] for name, given in started.items() if isinstance(given, dict)})
    return {name: router for name, router in started.items() if name not in failed}


def stop(processes):
    for process in processes:
        if process:
            process.stop()


def one(world, router, urls, flags, seconds, n):
    """One case of one target, after a moment of it that does not count."""
    to = [router.url] if router else urls
    world.load("load", to, **flags, seconds=seconds / 5, seed=1_000 + n)
    before = router.cpu() if router else 0
    seen = world.load("load", to, **flags, seconds=seconds, seed=n + 1)
    return {**seen, "cpu_s": router.cpu() - before if router else 0}


def memory(world, name, requests, later_s, say):
    """RSS through `requests` distinct prompts of 80 kB, sampled ten times a second, and `later_s` afterwards."""
    engines = [world.engine() for _ in range(4)]
    router = world.router(name, [e.url for e in engines])
    try:
        time.sleep(1)
        idle, most, done = router.rss_mb(), 0.0, threading.Event()

        def watch():
            nonlocal most
            while not done.wait(0.1):
                most = max(most, router.rss_mb())

        thread = threading.Thread(target=watch)
        thread.start()
        seen = world.load("load", [router.url], bytes=80_000, connections=16, requests=requests, common=0)
        after = router.rss_mb()
        time.sleep(later_s)
        done.set()
        thread.join()
        return {"idle_mb": idle, "most_mb": max(most, after), "after_mb": after, "later_mb": router.rss_mb(),
                "later_s": later_s, "sent_mb": requests * 0.08, "failed": seen["failed"]}
    finally:
        for process in [router, *engines]:
            process.stop()


def memory_all(world, names, requests, later_s, say):
    """All targets at once would share the cores: sent one after another, then waited for together."""
    gate = threading.Lock()
    real = world.load

    def one_at_a_time(*args, **flags):
        with gate:
            return real(*args, **flags)

    world.load = one_at_a_time
    try:
        return each(names, lambda name: memory(world, name, requests, later_s, say))
    finally:
        world.load = real


def each(names, work):
    """Work for each name at the same time; an exception becomes {"error": ...}."""
    def safe(name):
        try:
            return work(name)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            return {"error": str(error)}
    with concurrent.futures.ThreadPoolExecutor(len(names) or 1) as pool:
        return dict(zip(names, pool.map(safe, names)))


def recovery(world, name, rate, away_s, wait_s):
    """One of three engines is killed under load, starts again after `away_s`, and is waited for until used."""
    engines = [world.engine(prefill_ms=10) for _ in range(3)]
    router = world.router(name, [e.url for e in engines])
    try:
        load = threading.Thread(target=lambda: seen.update(world.load(
            "open", [router.url], rate=rate, seconds=4 + away_s + wait_s, bytes=2_000, shared=0,
            events=4)))
        seen = {}
        load.start()
        time.sleep(3)
        victim = engines[0]
        before = [json.loads(get(e.url + "/stats"))["requests"] for e in engines]
        victim.stop(signal.SIGKILL)
        time.sleep(away_s)
        victim.start()
        wait_for(victim.url + "/health", victim, 20)
        healthy, first = time.time(), None
        while time.time() < healthy + wait_s and first is None:
            time.sleep(0.05)
            first = json.loads(get(victim.url + "/stats"))["first"]
        load.join()
        share = json.loads(get(victim.url + "/stats"))["requests"]
        return {"back_s": None if first is None else max(0.0, first - healthy), "waited_s": wait_s,
                "requests": seen.get("requests"), "failed": seen.get("failed"), "why": seen.get("why"),
                "whole_max_ms": (seen.get("whole_max_us") or 0) / 1e3, "before": before, "returned_took": share}
    finally:
        for process in [router, *engines]:
            process.stop()


def recovery_all(world, names, rate, away_s, wait_s):
    return each(names, lambda name: recovery(world, name, rate, away_s, wait_s))


def hang(world, name, hung_s):
    """One of three engines stops answering (SIGSTOP) for `hung_s`, under 40 requests/s."""
    engines = [world.engine(prefill_ms=10) for _ in range(3)]
    router = world.router(name, [e.url for e in engines])
    try:
        seen = {}
        load = threading.Thread(target=lambda: seen.update(world.load(
            "open", [router.url], rate=40, seconds=hung_s + 10, bytes=2_000, shared=0, events=4)))
        load.start()
        time.sleep(4)
        os.kill(engines[0].child.pid, signal.SIGSTOP)
        time.sleep(hung_s)
        os.kill(engines[0].child.pid, signal.SIGCONT)
        load.join()
        return {"hung_s": hung_s, **seen}
    finally:
        for process in [router, *engines]:
            process.stop()


def hang_all(world, names, hung_s):
    return each(names, lambda name: hang(world, name, hung_s))


LOST = {"stream, in prefill": (True, 0.3), "no stream": (False, 0.3), "mid-answer": (True, 2.3)}


def lost(world, name, clients=8):
    """Clients that leave: seconds until the engine knows, by kind; None where it never did."""
    engine = world.engine(prefill_ms=2_000, gap_ms=100)
    try:
        router = world.router(name, [engine.url])
        out = {}
        try:
            for kind, (streams, after) in LOST.items():
                get(engine.url + "/reset", b"")
                port = int((router or engine).url.rsplit(":", 1)[1])
                socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(clients)]
                for n, sock in enumerate(socks):
                    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": f"{kind} {n}"}],
                                       "max_tokens": 20, "stream": streams}).encode()
                    sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json"
                                 b"\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                time.sleep(after)
                left = time.time()
                for sock in socks:
                    sock.close()
                time.sleep(5)
                told = [t - left for t in json.loads(get(engine.url + "/stats"))["given_up"]]
                out[kind] = {"clients": clients, "told": len(told),
                             "median_s": statistics.median(told) if told else None, "most_s": max(told, default=None)}
        finally:
            if router:
                router.stop()
        return out
    finally:
        engine.stop()


def lost_all(world, names):
    return each(names, lambda name: lost(world, name))


def hits(world, name, rate, seconds, zipf):
    """Families of prompts over three engines that keep 466 k characters each: hit share and balance.

    `direct` is one engine with the memory of all three, which no division of the prompts among them can be better
    than by much."""
    count = 1 if name == "direct" else 3
    engines = [world.engine(prefill_ms=30, gap_ms=8, cache_chars=3 * 466_000 // count) for _ in range(count)]
    router = world.router(name, [e.url for e in engines])
    try:
        for engine in engines:
            get(engine.url + "/reset", b"")
        seen = world.load("open", [(router or engines[0]).url], rate=rate, seconds=seconds, zipf=zipf)
        stats = [json.loads(get(e.url + "/stats")) for e in engines]
        requests = [s["requests"] for s in stats]
        return {"hit": sum(s["hit_chars"] for s in stats) / max(1, sum(s["chars"] for s in stats)),
                "busiest": max(requests) / max(1, sum(requests)) * len(requests), "requests": requests,
                "most_running": max(s["most_running"] for s in stats), "first_p50_us": seen["first_p50_us"],
                "first_p99_us": seen["first_p99_us"], "failed": seen["failed"], "why": seen["why"]}
    finally:
        for process in [router, *engines]:
            if process:
                process.stop()


def hits_all(world, names, seconds, zipf):
    """The light load for all routers at once, the heavy one for one after another."""
    light = each(names, lambda name: hits(world, name, 60, 2 * seconds, zipf))
    heavy = {}
    for name in names:
        heavy.update(each([name], lambda name: hits(world, name, 400, seconds, zipf)))
    return {name: {"light": light[name], "heavy": heavy[name]} for name in names}


def _counter(text, name):
    return sum(float(v) for v in re.findall(rf"^{name}\{{[^\n]*\}} (\S+)$|^{name} (\S+)$", text, re.M) for v in v if v)


def turns(world, name, speed, rate, requests, salt):
    """Conversations of the shipped trace over four emulated replicas: hit rate, balance and TTFT."""
    ports = [free_port() for _ in range(4)]
    engines = [Process([world.gorgo, "engine", "--listen", f"127.0.0.1:{p}", "--speed", speed, "--seed", p % 4,
                        "--model", "m", "--health-ms", 0], world.work / f"emulated-{p}.log") for p in ports]
    urls = [f"http://127.0.0.1:{p}" for p in ports]
    router = None
    try:
        for url, engine in zip(urls, engines):
            wait_for(url + "/health", engine, 30)
        router = world.router(name, urls)
        pages = [get(url + "/metrics").decode() for url in urls]
        argv = [world.gorgo, "bench", "--target", router.url, "--profile", "poisson", "--rate", rate, "--max-requests",
                requests, "--data", "wildchat-located", "--model", "m", "--salt", salt, "--json"]
        out = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
        if out.returncode != 0:
            return {"error": out.stderr.strip()[-300:]}
        report = json.loads(out.stdout)
        time.sleep(1)
        after = [get(url + "/metrics").decode() for url in urls]
        grown = lambda n: [_counter(b, n) - _counter(a, n) for a, b in zip(pages, after)]
        taken = grown("sglang:num_requests_total")
        return {"hit": sum(grown("sglang:cached_tokens_total")) / max(1, sum(grown("sglang:prompt_tokens_total"))),
                "busiest": max(taken) / max(1, sum(taken)) * len(taken), "requests": taken, "report": report}
    finally:
        for process in [router, *engines]:
            if process:
                process.stop()
