#!/usr/bin/env python3
"""Three real engines behind long paths: measured, and predicted by the simulator from a probe of one of them. See README.md.

    three_regions.py --gorgo target/release/gorgo --out results/real-engines \\
        --start 'vllm serve MODEL --port {port} --max-num-seqs 4 ...' --setting max_num_batched_tokens=2048

1. starts three engines (or takes those of --engines) and waits until they are ready;
2. probes the first one with `gorgo calibrate --probe`: the only fit, on an idle engine, with no request of the experiment;
3. puts `gorgo relay` with the round trips between Tel Aviv, Frankfurt and San Francisco between routers and engines, and a
   `gorgo lb` beside each engine;
4. runs the experiment live, twice, each followed by its simulation with the probed settings: least-load and gorgo at the
   edges and gorgo at the proxy, or with --proxy least-load, gorgo and predictive there, whose decisions are logged;
5. holds both with `gorgo validate`, and writes DIR/table.md: errors of the simulation beside the run's own noise and beside
   the difference of the two runs.

--shadow takes the place of 4 and 5: a router with policy gorgo at the proxy's site gets the same requests from `gorgo bench`,
with predictive and least-load as shadow policies; DIR/shadow.txt is what `gorgo proxy shadow` then shows.
"""

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request

SITES = [("tel-aviv", "lambda:me-west-1"), ("frankfurt", "lambda:europe-central-1"),
         ("san-francisco", "lambda:us-west-1")]
PROXY = 1  # the site of the proxy: Frankfurt
FIGURES = [f"{latency} {figure}, ms" for latency in ("TTFT", "TPOT", "E2E") for figure in ("mean", "p50", "p95")]
ARMS = """
[[arms]]
policy = "least-load"

[[arms]]
policy = "gorgo"

[[arms]]
policy = "gorgo"
topology = "proxy"
proxy_region = "{proxy}"
"""
AT_THE_PROXY = "".join(f"""
[[arms]]
policy = "{policy}"
topology = "proxy"
proxy_region = "{{proxy}}"
""" for policy in ("least-load", "gorgo", "predictive"))


def fetch(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def wait(what, seconds, ready):
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            return ready()
        except OSError as error:
            last = error
            time.sleep(0.5)
    raise SystemExit(f"{what} is not ready after {seconds} s: {last}")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Processes:
    """What was started; all of it ends with the program."""

    def __init__(self, out):
        self.out, self.running = out, []

    def start(self, name, command):
        log = open(os.path.join(self.out, f"{name}.log"), "w")
        self.running.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

    def end(self):
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in self.running:
                try:
                    os.killpg(process.pid, sign)
                except ProcessLookupError:
                    pass
            end = time.monotonic() + 15
            while time.monotonic() < end and any(process.poll() is None for process in self.running):
                time.sleep(0.1)


def gorgo(args, *words, log=None, accept=(0,)):
    command = [args.gorgo, *words]
    print("$", shlex.join(command), flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if log:
        with open(os.path.join(args.out, log), "w") as file:
            file.write(done.stdout if log.endswith(".json") else done.stdout + done.stderr)
    if done.returncode not in accept:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def kv_tokens(engine):
    """Tokens of KV as vLLM's or SGLang's metrics tell them."""
    page = fetch(engine + "/metrics")
    for line in page.splitlines():
        if line.startswith("vllm:cache_config_info{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            return int(labels["num_gpu_blocks"]) * int(labels["block_size"])
        if line.startswith("sglang:max_total_num_tokens"):
            return int(float(line.split()[-1]))
    raise SystemExit(f"{engine}/metrics tells no KV capacity; give --setting kv_tokens=...")


def relay(args, processes, engines, doors):
    """Links between each router and what it calls far away; the URLs by (router, replica), a router of None is the proxy."""
    links, urls = [], {}
    far = [(r, u) for r in (None, 0, 1, 2) for u in range(3) if u != (PROXY if r is None else r)]
    for (router, replica), port in zip(far, free_ports(len(far))):
        here = SITES[PROXY if router is None else router][1]
        target = engines[replica] if router is None else f"http://127.0.0.1:{doors[replica]}"
        address = target.split("//")[1]
        links += ["--link", f"127.0.0.1:{port}={address},name={router}-{replica},from={here},to={SITES[replica][1]}"]
        urls[router, replica] = f"http://127.0.0.1:{port}"
    processes.start("relay", [args.gorgo, "relay", "--sigma", "0", *links])
    for url in urls.values():
        wait(url, 30, lambda: socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), 5).close())
    urls[None, PROXY] = engines[PROXY]
    return urls


def edges(args, processes, engines, doors, urls):
    for r, (name, _) in enumerate(SITES):
        peers = "".join(f'[[peers]]\nurl = "{urls[r, u]}"\nname = "{SITES[u][0]}"\n' for u in range(3) if u != r)
        config = os.path.join(args.out, f"edge-{name}.toml")
        with open(config, "w") as file:
            file.write(f'role = "edge"\nname = "{name}"\nlisten = "127.0.0.1:{doors[r]}"\n[probes]\nperiod_ms = 1000\n'
                       f'[[replicas]]\nurl = "{engines[r]}"\nname = "{name}"\n{peers}')
        pid = os.path.join(args.out, f"edge-{name}.pid")
        processes.start(f"edge-{name}", [args.gorgo, "lb", "start", "--config", config, "--pid-file", pid])
    for door in doors:
        wait(f"edge {door}", 60, lambda: fetch(f"http://127.0.0.1:{door}/ready"))


def experiment(args, engines, doors, urls, probed):
    settings = dict(setting.split("=", 1) for setting in args.setting)
    settings.setdefault("kv_tokens", kv_tokens(engines[0]))
    # The probe's plain keys, if any, come first in its file.
    plain = "".join(f"{key} = {value}\n" for key, value in settings.items())
    probed = f"[fleet.settings]\n{plain}" + probed.replace("[fleet.settings]\n", "", 1)
    replicas = ", ".join(f'{{ name = "{name}", region = "{region}" }}' for name, region in SITES)
    nodes = "".join(f'[[live.nodes]]\nname = "{name}"\nengine = "{urls[None, r]}"\n'
                    f'router = "http://127.0.0.1:{doors[r]}"\n' for r, (name, _) in enumerate(SITES))
    arms, baseline, decisions = (AT_THE_PROXY, "least-load-proxy", os.path.abspath(os.path.join(args.out, "decisions"))) \
        if args.proxy else (ARMS, "least-load", None)
    logged = f"[live]\ndecisions = {json.dumps(decisions)}\n" if decisions else ""
    path = os.path.join(args.out, "experiment.toml")
    with open(path, "w") as file:
        file.write(f"""title = "Three regions, real engines"
baseline = "{baseline}"
seeds = {args.seeds}

[workload]
trace = "wildchat-located"
rate = {args.rate}
duration_s = {args.seconds}
max_input_tokens = {args.longest}
max_output_tokens = {args.answer}

[fleet]
engine = "{args.preset}"
max_running = {args.max_running}
replicas = [{replicas}]

{probed}
[network]
sigma = 0.0

{logged}{nodes}{arms.format(proxy=SITES[PROXY][1])}""")
    return path


def shadow(args, processes, links):
    """A router with gorgo in charge, and two policies that decide beside it."""
    port, = free_ports(1)
    config = os.path.join(args.out, "shadow.toml")
    replicas = "".join(f'[[replicas]]\nurl = "{links[None, r]}"\nname = "{name}"\n' for r, (name, _) in enumerate(SITES))
    with open(config, "w") as file:
        file.write(f'listen = "127.0.0.1:{port}"\npolicy = "gorgo"\n[shadow]\npolicies = ["predictive", "least-load"]\n'
                   f'{replicas}')
    pid = os.path.join(args.out, "shadow.pid")
    processes.start("shadow", [args.gorgo, "proxy", "start", "--config", config, "--pid-file", pid])
    url = f"http://127.0.0.1:{port}"
    wait("the router", 60, lambda: fetch(url + "/ready"))
    print(gorgo(args, "bench", "--target", url, "--rate", str(args.rate), "--duration", str(args.seconds),
                "--max-input-tokens", str(args.longest), log="shadow-bench.txt"))
    print(gorgo(args, "proxy", "shadow", "--host", "127.0.0.1", "--port", str(port), log="shadow.txt"))


def figures(args, measured, other, log):
    out = gorgo(args, "validate", measured, other, "--rows", "--block", str(args.block), "--max-error", "10", "--json",
                log=log, accept=(0, 1))
    return {arm["arm"]: arm for arm in json.loads(out)["arms"]}


def table(args, runs):
    simulated = [figures(args, run, os.path.join(run, "simulated"), f"validate-{n}.json") for n, run in enumerate(runs)]
    twin = figures(args, runs[0], runs[1], "twin.json") if len(runs) > 1 else {}
    lines = ["| arm (requests) | " + " | ".join(f"{name.split(',')[0]}" for name in FIGURES) + " |",
             "|---" * (len(FIGURES) + 1) + "|"]
    for arm, found in simulated[0].items():
        cells = []
        for name in FIGURES:
            figure = next(f for f in found["figures"] if f["name"] == name)
            low, high = figure["noise"] or (float("nan"), float("nan"))
            cell = f"{figure['measured']:,.1f} / {figure['simulated']:,.1f}: {figure['error']:+.1f} ({low:+.0f} .. {high:+.0f}"
            if arm in twin:
                again = next(f for f in twin[arm]["figures"] if f["name"] == name)
                cell += f"; {again['error']:+.1f}"
            cells.append(cell + ")")
        lines.append(f"| {arm} ({found['compared']}) | " + " | ".join(cells) + " |")
    for arm, found in simulated[0].items():
        rest = [f for f in found["figures"] if f["name"].endswith("%")]
        told = "; ".join(f"{f['name'].split(',')[0]} {f['measured']:.1f} / {f['simulated']:.1f}" for f in rest)
        lines.append(f"\n{arm}: {told}.")
    text = "\n".join(lines)
    with open(os.path.join(args.out, "table.md"), "w") as file:
        file.write(text + "\n")
    print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gorgo", required=True, help="the program")
    parser.add_argument("--out", required=True, help="folder for everything that is written")
    engines = parser.add_mutually_exclusive_group(required=True)
    engines.add_argument("--start", help="command of an engine; {port} is replaced")
    engines.add_argument("--engines", nargs=3, metavar="URL", help="three running engines on loopback, none busy")
    parser.add_argument("--ready", type=int, default=900, help="longest wait for the engines, s")
    parser.add_argument("--preset", default="vllm-llama-3.1-8b-rtx4090",
                        help="engine preset for what the probe does not show")
    parser.add_argument("--setting", action="append", default=[], metavar="KEY=VALUE",
                        help="engine setting that is known from its flags, for example max_num_batched_tokens=2048")
    parser.add_argument("--max-running", type=int, default=4, help="requests an engine runs at once, as its flags say")
    parser.add_argument("--shadow", action="store_true", help="one router with shadow policies, no simulation")
    parser.add_argument("--proxy", action="store_true", help="run least-load, gorgo and predictive, all at the proxy")
    parser.add_argument("--rate", type=float, default=1.0, help="requests/s of all three")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=int, default=2, help="live runs; the second shows how far a run repeats")
    parser.add_argument("--reuse", action="store_true",
                        help="keep the live runs that the folder holds: probe and simulate again")
    parser.add_argument("--longest", type=int, default=4_000, help="longest prompt, tokens")
    parser.add_argument("--answer", type=int, default=32, help="longest answer, tokens")
    parser.add_argument("--lengths", default="16,128,512,1024,2048,3500")
    parser.add_argument("--batches", default="1,2,4")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--block", type=float, default=10, help="blocks of time of the noise, s")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    processes = Processes(args.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        urls = args.engines
        if args.start:
            ports = free_ports(3)
            urls = [f"http://127.0.0.1:{port}" for port in ports]
            for n, port in enumerate(ports):
                processes.start(f"engine-{n}", shlex.split(args.start.format(port=port)))
        for url in urls:
            wait(url, args.ready, lambda: fetch(url + "/v1/models"))
        doors = free_ports(3)
        probe = os.path.join(args.out, "probe")
        print(gorgo(args, "calibrate", "--probe", urls[0], "--engine", args.preset, "--lengths", args.lengths,
                    "--batches", args.batches, "--repeats", str(args.repeats), "--out", probe, log="probe.txt"))
        with open(os.path.join(probe, "engine.toml")) as file:
            probed = file.read()
        runs = [os.path.join(args.out, f"run-{number}") for number in range(args.runs)]
        if args.reuse:
            path = experiment(args, urls, doors, {(None, u): url for u, url in enumerate(urls)}, probed)
            for run in runs:
                gorgo(args, "run", path, "--fresh", "--out", os.path.join(run, "simulated"))
        else:
            links = relay(args, processes, urls, doors)
            if args.shadow:
                return shadow(args, processes, links)
            edges(args, processes, urls, doors, links)
            path = experiment(args, urls, doors, links, probed)
            for number, run in enumerate(runs):
                print(gorgo(args, "run", path, "--mode", "live", "--jobs", "1", "--fresh", "--out", run,
                            log=f"run-{number}.txt"))
        table(args, runs)
    finally:
        processes.end()


if __name__ == "__main__":
    main()
