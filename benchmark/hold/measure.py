#!/usr/bin/env python3
"""Does the router hold while its engines die? Kills under load, then many requests. Linux, Python 3.9, nothing installed.

    python3 benchmark/hold/measure.py target/release/gorgo            # 5 minutes of kills, then 1,000,000 requests

Part `kills`: three emulated engines; every second the next one is killed with SIGKILL and started again, while streams
arrive at a fixed rate and up to `--streams` are open. Each answer is read to its end and judged here, not by the router:
`whole` (200, ended by [DONE]), `told` (cut after its first byte, with an error event), and three kinds that must not
occur: `refused` (no first byte: the request was lost), `cut` (ended without [DONE] and without an error event), `stuck`
(no end within 60 s). Part `many`: as many short requests as asked for, in a closed loop; resident memory is compared
with its value one minute after the start. Both: descriptors of the router before and after. Exit 1 if a claim fails.
"""

import argparse
import asyncio
import collections
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

WORDS = "the quick brown fox jumps over a lazy dog while it rains in Spain mainly on the plain".split()


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Fleet:
    """One router in front of emulated engines; each engine is a process that can be killed."""

    def __init__(self, gorgo, engines, arguments, settings, folder):
        self.gorgo, self.arguments, self.folder = gorgo, arguments, folder
        ports = free_ports(engines + 1)
        self.ports, self.port = ports[:-1], ports[-1]
        self.engines = [self.engine(port) for port in self.ports]
        servers = ",".join(f"http://127.0.0.1:{port}" for port in self.ports)
        sets = [word for setting in settings for word in ("--set", setting)]
        self.log = os.path.join(folder, "router.log")
        self.router = subprocess.Popen(
            [gorgo, "proxy", "start", "--servers", servers, "--port", str(self.port),
             "--pid-file", os.path.join(folder, "router.pid"), *sets],
            stdout=open(self.log, "w"), stderr=subprocess.STDOUT)

    def engine(self, port):
        return subprocess.Popen([self.gorgo, "engine", "--listen", f"127.0.0.1:{port}", *self.arguments],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def restart(self, index):
        self.engines[index].kill()
        self.engines[index].wait()
        self.engines[index] = self.engine(self.ports[index])

    def resident_mb(self):
        with open(f"/proc/{self.router.pid}/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.router.pid}/fd"))

    def stop(self):
        for process in [self.router, *self.engines]:
            process.send_signal(signal.SIGKILL)
            process.wait()


def request_bytes(port, body):
    body = json.dumps(body).encode()
    return (f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n").encode() + body


def prompt(rng, words):
    return " ".join(rng.choice(WORDS) for _ in range(words))


async def ready(port):
    for _ in range(300):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if b" 200 " in answer[:16]:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the router was not ready within 30 s")


async def stream(port, rng, tokens):
    """The outcome of one streamed request."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes(port, {"model": "m", "prompt": prompt(rng, 40), "max_tokens": tokens, "stream": True}))
        head = await reader.readuntil(b"\r\n\r\n")
        status = head.split()[1].decode()
        if status != "200":
            return f"refused {status}"
        seen, error = b"", False
        while True:
            size = int((await reader.readuntil(b"\r\n")).strip() or b"0", 16)
            data = await reader.readexactly(size + 2)
            if size == 0:
                return "told" if error else "whole" if b"data: [DONE]" in seen else "cut"
            seen = seen[-64:] + data[:-2]
            error = error or b'"error"' in seen
    except asyncio.IncompleteReadError:
        return "cut"
    except OSError as error:
        return f"refused {error.errno}"
    finally:
        if writer is not None:
            writer.close()


async def kills(fleet, options, show):
    counts, open_now, most, tasks = collections.Counter(), 0, 0, set()
    memory, end = [], time.monotonic() + options.seconds
    rng = random.Random(options.seed)

    async def one():
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        try:
            counts[await asyncio.wait_for(stream(fleet.port, rng, options.tokens), 60)] += 1
        except asyncio.TimeoutError:
            counts["stuck"] += 1
        finally:
            open_now -= 1

    async def killer():
        loop, turn = asyncio.get_running_loop(), 0
        while time.monotonic() < end:
            await loop.run_in_executor(None, fleet.restart, turn % len(fleet.engines))
            turn += 1
            memory.append((time.monotonic(), fleet.resident_mb()))
            await asyncio.sleep(1)
        return turn

    killing, due, skipped = asyncio.create_task(killer()), time.monotonic(), 0
    while (now := time.monotonic()) < end:
        while due <= now:
            due += 1 / options.rate
            if len(tasks) < options.streams:
                task = asyncio.create_task(one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            else:
                skipped += 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    turns = await killing
    await asyncio.gather(*list(tasks))
    return {"requests": sum(counts.values()), "outcomes": dict(counts), "most_open": most, "not_sent": skipped,
            "kills": turns, **flatness(memory, show)}


def flatness(samples, show):
    """Resident memory one minute after the start, and the largest after it."""
    if not samples:
        return {}
    start = samples[0][0]
    minute = min(60.0, (samples[-1][0] - start) / 3)
    later = [mb for at, mb in samples if at >= start + minute]
    show(f"resident memory, MB: {samples[0][1]:.0f} at first, {later[0]:.0f} after {minute:.0f} s, "
         f"at most {max(later):.0f} afterwards, {later[-1]:.0f} at the end")
    return {"rss_mb_after_first_minute": round(later[0], 1), "rss_mb_most_after": round(max(later), 1),
            "rss_is_judged": samples[-1][0] - start > 120}


async def many(fleet, options, show):
    counts, left, samples = collections.Counter(), options.requests, []
    rng = random.Random(options.seed)

    async def client():
        nonlocal left
        reader = writer = None
        while left > 0:
            left -= 1
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", fleet.port)
            writer.write(request_bytes(fleet.port, {"model": "m", "prompt": prompt(rng, 12), "max_tokens": 1}))
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n")
                          if line.startswith(b"content-length"))
            await reader.readexactly(length)
            counts[head.split()[1].decode()] += 1
        if writer is not None:
            writer.close()

    async def watch():
        while left > 0:
            samples.append((time.monotonic(), fleet.resident_mb()))
            await asyncio.sleep(1)

    begun = time.monotonic()
    await asyncio.gather(watch(), *[client() for _ in range(options.clients)])
    return {"requests": sum(counts.values()), "statuses": dict(counts),
            "requests_per_s": round(sum(counts.values()) / (time.monotonic() - begun)), **flatness(samples, show)}


async def part(name, options, show):
    with tempfile.TemporaryDirectory() as folder:
        speed = ["--speed", "4"] if name == "kills" else ["--speed", "1000"]
        fleet = Fleet(options.gorgo, 3, ["--model", "m", *speed], options.set, folder)
        try:
            await ready(fleet.port)
            await stream(fleet.port, random.Random(0), 4)
            await asyncio.sleep(2)
            before = fleet.descriptors()
            result = await (kills if name == "kills" else many)(fleet, options, show)
            # Connections to engines are kept for a while; those of clients are gone at once.
            await asyncio.sleep(options.settle)
            result.update(descriptors_before=before, descriptors_after=fleet.descriptors(),
                          router_alive=fleet.router.poll() is None)
            if options.log:
                with open(fleet.log) as log, open(f"{options.log}-{name}", "w") as kept:
                    kept.write(log.read())
            return result
        finally:
            fleet.stop()


def failures(name, result):
    bad = {k: v for k, v in result.get("outcomes", {}).items() if k not in ("whole", "told")}
    bad.update({k: v for k, v in result.get("statuses", {}).items() if k != "200"})
    found = [f"{name}: {v} requests {k}" for k, v in bad.items()]
    # Pools and histograms fill in the first minute: a short run shows nothing.
    if result["rss_is_judged"] and result["rss_mb_most_after"] > 1.1 * result["rss_mb_after_first_minute"]:
        found.append(f"{name}: resident memory grew by more than 10 % after the first minute")
    if result["descriptors_after"] > result["descriptors_before"] + 8:
        found.append(f"{name}: {result['descriptors_after']} descriptors, {result['descriptors_before']} before")
    if not result["router_alive"]:
        found.append(f"{name}: the router ended")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gorgo", help="the program, for example target/release/gorgo")
    parser.add_argument("--part", choices=["kills", "many", "both"], default="both")
    parser.add_argument("--seconds", type=float, default=300, help="length of the kills, s")
    parser.add_argument("--rate", type=float, default=200, help="streams begun a second")
    parser.add_argument("--streams", type=int, default=256, help="most streams open at a time")
    parser.add_argument("--tokens", type=int, default=400, help="tokens of a streamed answer")
    parser.add_argument("--requests", type=int, default=1_000_000, help="requests of part `many`")
    parser.add_argument("--clients", type=int, default=64, help="clients of part `many`")
    parser.add_argument("--settle", type=float, default=10, help="wait before descriptors are counted again, s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="a setting of the router, KEY=VALUE")
    parser.add_argument("--log", help="keep the router's log under this name")
    options = parser.parse_args()
    found = []
    for name in ["kills", "many"] if options.part == "both" else [options.part]:
        result = asyncio.run(part(name, options, lambda text, name=name: print(f"{name}: {text}", flush=True)))
        print(json.dumps({name: result}), flush=True)
        found += failures(name, result)
    print("\n".join(found) or "every claim holds")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
