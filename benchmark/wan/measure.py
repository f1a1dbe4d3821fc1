#!/usr/bin/env python3
"""Time to the answer's first byte through a router over a long TCP path, in round trips. Linux, root, Python 3.9.

    python benchmark/wan/measure.py --router 'target/release/gorgo proxy start --servers {engine} --listen {listen}'

Two network namespaces are joined by a pair of TUN devices; this program carries each packet from one to the other, half a
round trip late. TCP at both ends is the kernel's own. The far namespace holds an engine that answers at once, the near
one the router and its client. Any router can stand in `--router`: {engine} and {listen} are replaced. Each figure is the
median of `--repeat` requests on a router that was idle for so many seconds. Everything made is removed at the end.

`--far` starts a second router beside the engine, at {far}, for a first one that forwards to it; the path is then between
the two routers, who know each other by a key in the environment. Prompts are one repeated letter, or the beginning of
the file `--text`, which tells more where routers pack what they send.

`--relay 'target/release/gorgo relay'` asks the same of the emulated path: engine, relay and router stand on loopback, and the
relay's link has `congestion=` of `--link`. Where the two differ by more than `--within` round trips, the exit status is 1.

With `--busy N`, N clients send at once for `--seconds`, each a prompt of every size in turn; median and 90th percentile by
size are printed. `--loss` drops so many packets in a hundred, both ways.
"""

import argparse
import collections
import fcntl
import json
import os
import random
import shlex
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time

NEAR, FAR = "gorgo-near", "gorgo-far"
ENGINE, LISTEN, FAR_LISTEN = "10.77.0.2:9000", "127.0.0.1:9001", "10.77.0.2:9002"
RELAYED_ENGINE, RELAY = "127.0.0.1:9010", "127.0.0.1:9011"
# The far router listens beyond loopback, and gorgo does that only with keys.
NEAR_KEYS = {"GORGO_ADMIN_KEY": "between-two-routers"}
FAR_KEYS = NEAR_KEYS | {"GORGO_API_KEY": "of-no-client-here"}
ANSWER = json.dumps({
    "id": "x", "object": "text_completion", "model": "m", "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}).encode()


def run(*words, check=True):
    return subprocess.run(words, check=check, capture_output=not check)


def tun(name, namespace, address, peer, congestion):
    """A TUN device in a namespace; packets are read and written here."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0001 | 0x1000))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
    run("ip", "link", "set", name, "netns", namespace)
    run("ip", "-n", namespace, "addr", "add", address, "peer", peer, "dev", name)
    run("ip", "-n", namespace, "link", "set", name, "mtu", "1500", "txqueuelen", "10000", "up")
    run("ip", "-n", namespace, "link", "set", "lo", "up")
    run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={congestion}")
    return fd


def carry(source, sink, delay, loss):
    """Carries packets in order, each `delay` seconds late, without the share `loss` of them."""
    chance = random.Random(1)
    waiting, arrived = collections.deque(), threading.Semaphore(0)

    def receive():
        while packet := os.read(source, 65_536):
            if loss and chance.random() < loss:
                continue
            waiting.append((time.monotonic() + delay, packet))
            arrived.release()

    def send():
        while True:
            arrived.acquire()
            due, packet = waiting.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            os.write(sink, packet)

    def until_removed(work):
        try:
            work()
        except OSError:  # the device is gone, at the end
            pass

    for work in (receive, send):
        threading.Thread(target=until_removed, args=(work,), daemon=True).start()


def read_head(stream):
    """The first line and the headers of a message; None at its end."""
    first = stream.readline()
    if not first:
        return None
    headers = {}
    while (line := stream.readline().strip()):
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    return first, headers


def serve(connection):
    stream = connection.makefile("rb")
    while (head := read_head(stream)) is not None:
        first, headers = head
        if headers.get(b"transfer-encoding") == b"chunked":
            while (size := int(stream.readline().strip() or b"0", 16)):
                stream.read(size + 2)
            stream.readline()
        else:
            stream.read(int(headers.get(b"content-length", 0)))
        body = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}' if b"/models" in first else ANSWER
        answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        connection.sendall(answer + body)


def engine(at):
    host, port = at.split(":")
    with socket.create_server((host, int(port)), backlog=64) as listener:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


def request(size, text):
    """Seconds from the first byte of a request to the first byte of its answer."""
    prompt = f"{time.time_ns()} " + (text[:size] if text else "x" * size)
    body = json.dumps({"model": "m", "max_tokens": 1, "prompt": prompt}).encode()
    host, port = LISTEN.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {LISTEN}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        begun = time.monotonic()
        connection.sendall(head.encode() + body)
        first = connection.recv(1)
        took = time.monotonic() - begun
        status = (first + connection.recv(64)).split()[1]
        if status != b"200":
            raise RuntimeError(f"the router answered {status.decode()}")
    return took


def client(options):
    text = open(options.text, encoding="utf-8").read() if options.text else ""
    if text and len(text) < max(options.sizes):
        sys.exit(f"{options.text} has {len(text)} characters; give a file of at least {max(options.sizes)}")
    until = time.monotonic() + 60
    while True:
        try:
            request(100, text)
            break
        except (OSError, RuntimeError):
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
    if options.busy:
        return print(json.dumps(busy(options, text)))
    table = {}
    for idle in options.idle:
        for size in options.sizes:
            request(size, text)
            taken = []
            for _ in range(options.repeat):
                time.sleep(idle)
                taken.append(request(size, text) * 1e3 / options.rtt)
            table[f"{idle:g} {size}"] = statistics.median(taken)
    print(json.dumps(table))


def busy(options, text):
    taken, failed = {size: [] for size in options.sizes}, []
    begun = time.monotonic()

    def work(first):
        turn = first
        while time.monotonic() < begun + options.seconds:
            size = options.sizes[turn % len(options.sizes)]
            turn += 1
            try:
                took = request(size, text)
            except (OSError, RuntimeError) as error:
                failed.append(str(error))
                continue
            if time.monotonic() > begun + options.seconds / 4:  # connections are open and windows have grown
                taken[size].append(took * 1e3 / options.rtt)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(options.busy)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if failed:
        print(f"{len(failed)} requests failed: {failed[0]}", file=sys.stderr)
    rank = lambda values, p: sorted(values)[min(len(values) - 1, int(p * len(values)))] if values else float("nan")
    return {f"{name} {size}": rank(taken[size], p) for name, p in (("p50", 0.5), ("p90", 0.9)) for size in options.sizes}


def inside(namespace, *words, **options):
    enter = ["ip", "netns", "exec", namespace] if namespace else []
    return subprocess.Popen([*enter, *words], start_new_session=True, **options)


def measured(options, namespace, started):
    """The client's table, in this network namespace."""
    listed = lambda numbers: ",".join(f"{number:g}" for number in numbers)
    work = inside(namespace, sys.executable, __file__, "--role", "client", "--rtt", str(options.rtt), "--sizes",
                  ",".join(map(str, options.sizes)), "--idle", listed(options.idle), "--repeat", str(options.repeat),
                  "--busy", str(options.busy), "--seconds", str(options.seconds),
                  *(["--text", options.text] if options.text else []),
                  stdout=subprocess.PIPE, text=True)
    started.append(work)
    output, _ = work.communicate(timeout=120 + options.seconds + options.repeat * 2 * sum(options.idle + [5]) * len(options.sizes))
    return json.loads(output)


def show(options, table):
    print(f"| {'of all' if options.busy else 'idle before the request'} | {' | '.join(f'{size / 1e3:g} kB' for size in options.sizes)} |")
    print("|---" * (len(options.sizes) + 1) + "|")
    rows = [(name, name) for name in ("p50", "p90")] if options.busy else [(f"{i:g}", f"{i:g} s") for i in options.idle]
    for key, name in rows:
        row = " | ".join(f"{table[f'{key} {size}']:.2f}" for size in options.sizes)
        print(f"| {name} | {row} |", flush=True)


def end(started):
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    started.clear()


def relayed(options):
    """The same table over the emulated path."""
    started, quiet = [], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    link = f"{RELAY}={RELAYED_ENGINE},rtt={options.rtt:g},congestion={options.link}"
    try:
        started.append(inside(None, sys.executable, __file__, "--role", "engine", "--at", RELAYED_ENGINE))
        started.append(inside(None, *shlex.split(options.relay), "--sigma", "0", "--jitter", "0", "--link", link, **quiet))
        started.append(inside(None, *shlex.split(options.router.format(engine=f"http://{RELAY}", listen=LISTEN)), **quiet))
        return measured(options, None, started)
    finally:
        end(started)


def compare(options, kernel):
    emulated = relayed(options)
    print(f"\nover the relay (congestion={options.link}):\n")
    show(options, emulated)
    apart = max(kernel, key=lambda cell: abs(kernel[cell] - emulated[cell]))
    off = abs(kernel[apart] - emulated[apart])
    idle, size = apart.split()
    print(f"\nlargest difference: {off:.2f} round trips, at {size} bytes after {idle} s "
          f"(kernel {kernel[apart]:.2f}, relay {emulated[apart]:.2f})")
    return off <= options.within


def main():
    numbers = lambda kind: lambda text: [kind(word) for word in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--router", help="command of the router")
    parser.add_argument("--far", help="command of a router beside the engine, which listens at {far}")
    parser.add_argument("--text", help="file whose beginning is the prompt")
    parser.add_argument("--rtt", type=float, default=200, help="round trip, ms")
    parser.add_argument("--sizes", type=numbers(int), default=[8_000, 80_000, 320_000], help="bytes of a prompt")
    parser.add_argument("--idle", type=numbers(float), default=[0, 3, 8], help="pauses before a request, s")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0, help="so many clients send at once, in place of one that pauses")
    parser.add_argument("--seconds", type=float, default=40, help="how long they send")
    parser.add_argument("--loss", type=float, default=0, help="packets lost in a hundred")
    parser.add_argument("--congestion", default="reno", help="the system's congestion control; a router may set its own")
    parser.add_argument("--relay", help="command of the emulated path, to hold against the kernel's")
    parser.add_argument("--link", default="cubic", help="congestion control of the relay's link: cubic, cubic-kept or bbr")
    parser.add_argument("--within", type=float, default=0.5, help="round trips by which relay and kernel may differ")
    parser.add_argument("--at", default=ENGINE, help=argparse.SUPPRESS)
    parser.add_argument("--role", choices=["engine", "client"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        return {"engine": lambda: engine(options.at), "client": lambda: client(options)}[options.role]()
    if not options.router:
        parser.error("give --router")
    if options.relay and (options.far or options.busy or options.loss):
        parser.error("--relay has one router and one client over a path that loses nothing")

    started = []
    try:
        for namespace in (NEAR, FAR):
            run("ip", "netns", "del", namespace, check=False)
            run("ip", "netns", "add", namespace)
        near = tun("gorgo0", NEAR, "10.77.0.1", "10.77.0.2", options.congestion)
        far = tun("gorgo1", FAR, "10.77.0.2", "10.77.0.1", options.congestion)
        carry(near, far, options.rtt / 2e3, options.loss / 100)
        carry(far, near, options.rtt / 2e3, options.loss / 100)
        started.append(inside(FAR, sys.executable, __file__, "--role", "engine"))
        for namespace, command, keys in ((FAR, options.far, FAR_KEYS), (NEAR, options.router, NEAR_KEYS)):
            words = shlex.split((command or "").format(engine=f"http://{ENGINE}", listen=LISTEN, far=FAR_LISTEN))
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            if words:
                started.append(inside(namespace, *words, env=os.environ | (keys if options.far else {}), **quiet))
        table = measured(options, NEAR, started)
        show(options, table)
    finally:
        end(started)
        for namespace in (NEAR, FAR):
            run("ip", "netns", "del", namespace, check=False)
    if options.relay and not compare(options, table):
        sys.exit(1)


main()
