#!/usr/bin/env python3
"""What clients see of upgrades and of a router that dies. Linux, Python 3.9, nothing else.

    python benchmark/routers/measure.py upgrade  --gorgo target/release/gorgo --upgrades 10
    python benchmark/routers/measure.py failover --gorgo target/release/gorgo

`upgrade` holds 200 streams open all the time and sends 100 short requests a second through one router, over connections
that are kept, while `gorgo proxy upgrade` replaces it ten times; and the same without upgrades. `failover` sends the
same to three routers with `[sharing]`, of which one is killed (SIGKILL) half way, and to three of which none is. No request is sent twice: whatever
goes wrong on any connection counts. Hit rate: tokens that the emulated engines report as cached, over prompt tokens, of
the short requests, which are turns of conversations under shared system prompts.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time


class Failed(Exception):
    """A request that got no whole answer; `began` if a byte of one had come."""

    def __init__(self, why, began=False):
        super().__init__(why)
        self.began = began


class Connection:
    """One HTTP/1.1 connection, opened when it is needed and kept for as long as the router lets it."""

    def __init__(self, port):
        self.port, self.streams = port, None

    async def ask(self, body):
        reused = self.streams is not None
        began = False
        try:
            if not reused:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
            reader, writer = self.streams
            data = json.dumps(body).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            await writer.drain()
            status = await reader.readline()
            if not status:
                raise Failed("closed without an answer" + (" (a kept connection)" if reused else ""))
            began = True
            headers = {}
            while (line := (await reader.readline()).strip()):
                name, _, value = line.partition(b":")
                headers[name.strip().lower()] = value.strip()
            if headers.get(b"transfer-encoding") == b"chunked":
                answer = b""
                while (size := int((await reader.readline()).strip(), 16)):
                    answer += (await reader.readexactly(size + 2))[:-2]
                await reader.readline()
            else:
                answer = await reader.readexactly(int(headers[b"content-length"]))
            if b" 200 " not in status:
                raise Failed(f"{status.decode().strip()}: {answer[:120]!r}", began)
            if headers.get(b"connection") == b"close":
                self.close()
            return answer
        except Failed:
            self.close()
            raise
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self.close()
            raise Failed(f"{type(error).__name__}: {error}", began) from error

    def close(self):
        if self.streams:
            self.streams[1].close()
        self.streams = None


class Load:
    """Streams and short requests, and what became of them."""

    def __init__(self, args, ports):
        self.args, self.ports, self.random = args, list(ports), random.Random(args.seed)
        self.errors, self.lost, self.requests, self.streams, self.open = [], 0, 0, 0, 0
        self.least_open = None
        self.hits = []  # (second, cached, prompt)
        self.idle = {port: [] for port in ports}
        self.began, self.ending = time.monotonic(), False
        self.turns = {}

    def failed(self, what, error, port):
        if port in self.ports:
            self.errors.append(f"{time.monotonic() - self.began:.1f} s, {what}: {error}")
            self.lost += not error.began

    async def stream(self, number):
        connection = None
        turn = 0
        while not self.ending:
            port = self.ports[(number + turn) % len(self.ports)]
            if connection is None or connection.port != port:
                connection = Connection(port)
            body = {"prompt": f"stream {number} turn {turn}", "stream": True, "max_tokens": self.args.tokens, "ignore_eos": True}
            turn += 1
            self.open += 1
            try:
                answer = await connection.ask(body)
                if not answer.rstrip().endswith(b"data: [DONE]"):
                    raise Failed(f"a stream ended with {answer[-120:]!r}", True)
                self.streams += 1
            except Failed as error:
                self.failed("stream", error, port)
                await asyncio.sleep(0.05)
            self.open -= 1

    def prompt(self):
        """The next turn of a conversation: its system prompt and all turns before."""
        key = self.random.randrange(self.args.conversations)
        turn = self.turns[key] = self.turns.get(key, 0) % 8 + 1
        system = f"system {key % 20} " + "you answer shortly and to the point. " * 60
        return system + "".join(f"conversation {key} turn {i}: " + "what else is there to know? " * 12 for i in range(turn))

    async def short(self, prompt, port):
        idle = self.idle[port]
        connection = idle.pop() if idle else Connection(port)
        self.requests += 1
        try:
            answer = json.loads(await connection.ask({"prompt": prompt, "max_tokens": 2, "ignore_eos": True}))
            usage = answer["usage"]
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            self.hits.append((time.monotonic() - self.began, cached, usage["prompt_tokens"]))
            idle.append(connection)
        except Failed as error:
            self.failed("request", error, port)

    async def run(self, events):
        """Runs for the time given; `events` are (second, coroutine function) pairs."""
        args = self.args
        streams = []
        for number in range(args.streams):
            streams.append(asyncio.create_task(self.stream(number)))
            await asyncio.sleep(2.0 / args.streams)
        self.began = time.monotonic()
        others = [asyncio.create_task(self.later(at, work)) for at, work in events]
        due, tasks = self.began, set()
        while (now := time.monotonic()) < self.began + args.seconds:
            while due <= now:
                port = self.ports[self.random.randrange(len(self.ports))]
                task = asyncio.create_task(self.short(self.prompt(), port))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due += 1.0 / args.rate
            self.least_open = self.open if self.least_open is None else min(self.least_open, self.open)
            await asyncio.sleep(0.005)
        self.ending = True
        await asyncio.wait_for(asyncio.gather(*others, *tasks, *streams), 120)

    async def later(self, at, work):
        await asyncio.sleep(max(0.0, self.began + at - time.monotonic()))
        await work()

    def hit_rate(self, start, end):
        rows = [(cached, prompt) for second, cached, prompt in self.hits if start <= second < end]
        return 100.0 * sum(c for c, _ in rows) / max(1, sum(p for _, p in rows))


class World:
    """Engines and routers on loopback; all end with it."""

    def __init__(self, args):
        self.args, self.processes, self.folder = args, [], tempfile.TemporaryDirectory()
        self.engines = [args.port + i for i in range(args.engines)]
        self.routers = []

    def spawn(self, *words, log):
        out = open(os.path.join(self.folder.name, log), "w")
        process = subprocess.Popen([self.args.gorgo, *words], stdout=subprocess.PIPE, stderr=out, stdin=subprocess.DEVNULL)
        self.processes.append(process)
        if not process.stdout.readline():
            sys.exit(f"{words[0]} did not start: {open(out.name).read()[-400:]}")
        return process

    def start(self, routers):
        for port in self.engines:
            self.spawn("engine", "--listen", f"127.0.0.1:{port}", "--health-ms", "0", "--set",
                       f"decode.fixed_ms={self.args.step_ms}", log=f"engine-{port}")
        servers = ",".join(f"http://127.0.0.1:{port}" for port in self.engines)
        ports = [self.args.port + 50 + i for i in range(routers)]
        peers = json.dumps([f"http://127.0.0.1:{port}" for port in ports])
        sharing = ["--set", f"sharing.peers={peers}", "--set", "sharing.hash_seed=measured-with-one-seed"]
        for port in ports:
            process = self.spawn("proxy", "start", "--listen", f"127.0.0.1:{port}", "--servers", servers, "--pid-file",
                                 self.pid_file(port), "--policy", self.args.policy,
                                 *(sharing if routers > 1 else []), log=f"router-{port}")
            self.routers.append((port, process))
        time.sleep(1.0)
        return ports

    def pid_file(self, port):
        return os.path.join(self.folder.name, f"router-{port}.pid")

    async def upgrade(self, port, told):
        began = time.monotonic()
        words = [self.args.gorgo, "proxy", "upgrade", "--pid-file", self.pid_file(port)]
        process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = await process.communicate()
        told.append((process.returncode, time.monotonic() - began, (out + err).decode().strip()))

    def end(self):
        for port, _ in self.routers:
            try:
                os.kill(int(open(self.pid_file(port)).read().split()[0]), signal.SIGKILL)
            except (OSError, ValueError, IndexError):
                pass
        for process in self.processes:
            process.kill()
            process.wait()
        self.folder.cleanup()


def upgrade(args, count):
    world, told = World(args), []
    try:
        [port] = world.start(1)
        load = Load(args, [port])
        step = args.seconds * 0.75 / max(1, count)
        events = [(args.seconds * 0.2 + i * step, lambda: world.upgrade(port, told)) for i in range(count)]
        asyncio.run(load.run(events))
        done = sum(code == 0 for code, _, _ in told)
        for code, _, text in told:
            if code:
                load.errors.append(f"upgrade: {text}")
        return {"upgrades": done, "streams": load.streams, "streams open, least": load.least_open, "requests": load.requests,
                "errors": len(load.errors), "hit rate, %": round(load.hit_rate(args.seconds * 0.2, args.seconds), 2),
                "upgrade took, s": round(max((s for _, s, _ in told), default=0.0), 2), "first errors": load.errors[:5]}
    finally:
        world.end()


def failover(args, kills):
    world = World(args)
    try:
        ports = world.start(3)
        load = Load(args, ports)

        async def kill():
            port, process = world.routers[0]
            load.ports.remove(port)
            process.kill()

        half = args.seconds * 0.5
        asyncio.run(load.run([(half, kill)] if kills else []))
        return {"routers": 3, "killed": kills, "streams": load.streams, "requests": load.requests,
                "errors at the others": len(load.errors), "lost before the first byte": load.lost,
                "hit rate of the first half, %": round(load.hit_rate(half * 0.4, half), 2),
                "hit rate of the second half, %": round(load.hit_rate(half, args.seconds), 2), "first errors": load.errors[:5]}
    finally:
        world.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["upgrade", "failover"])
    parser.add_argument("--gorgo", required=True, help="the binary; it is also the new one of each upgrade")
    parser.add_argument("--upgrades", type=int, default=10)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=float, default=100.0, help="short requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--step-ms", type=float, default=150.0, help="a decode step of the engines")
    parser.add_argument("--tokens", type=int, default=40, help="of a stream")
    parser.add_argument("--conversations", type=int, default=400)
    parser.add_argument("--policy", default="gorgo")
    parser.add_argument("--port", type=int, default=18_700, help="the first of 60 ports")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rows = [failover(args, kills) for kills in (0, 1)] if args.what == "failover" else [upgrade(args, count) for count in (0, args.upgrades)]
    for row in rows:
        print(json.dumps(row))
    sys.exit(any(row.get("errors", row.get("errors at the others")) for row in rows))


if __name__ == "__main__":
    main()
