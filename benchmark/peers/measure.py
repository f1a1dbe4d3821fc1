#!/usr/bin/env python3
"""gorgo beside other routers, in one run on one machine. See README.md for what is measured and how.

    measure.py --gorgo target/dist/gorgo --parts target/dist/examples/peers --venvs DIR [--only closed,lost]
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import sys
import tempfile
import time

import cases
import tables
from targets import ROUTERS, STARTED, World

PARTS = ["closed", "memory", "recovery", "hang", "lost", "hits", "turns"]
TARGETS = ["direct", "floor", "nginx", "sglang", "smg", "vllm", "vllm-rr", "gorgo", "gorgo-physical"]
# What has nothing to say in a part: no router, no account of engines or prompts, or only other weights.
SILENT = {"closed": {"gorgo-physical"}, "memory": {"direct", "gorgo-physical"},
          "recovery": {"direct", "floor", "gorgo-physical"}, "hang": {"direct", "floor", "gorgo-physical"},
          "lost": {"gorgo-physical"}, "hits": {"floor"},
          "turns": {"direct", "floor"}}


def words(known):
    def read(text):
        chosen = text.split(",")
        for word in chosen:
            if word not in known:
                raise argparse.ArgumentTypeError(f"`{word}` is none of {', '.join(known)}")
        return chosen
    return read


def arguments():
    home = pathlib.Path.home()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gorgo", default="target/dist/gorgo", help="the router's program")
    parser.add_argument("--parts", default="target/dist/examples/peers", help="engine, floor and load")
    parser.add_argument("--venvs", default=home / ".cache/gorgo-peers", help="where setup.sh put the peers")
    parser.add_argument("--out", default="results/peers", help="folder for peers.md and peers.json")
    parser.add_argument("--only", type=words(PARTS), default=PARTS, help=f"of {','.join(PARTS)}")
    parser.add_argument("--targets", type=words(list(ROUTERS)), default=TARGETS, help=f"of {','.join(ROUTERS)}")
    parser.add_argument("--cases", type=words(list(cases.CLOSED)), default=list(cases.CLOSED),
                        help=f"closed loops, of {','.join(cases.CLOSED)}")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the closed loops (5)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a closed loop (1.5)")
    parser.add_argument("--memory-requests", type=int, default=8_000, help="distinct prompts of 80 kB (8000 = 640 MB)")
    parser.add_argument("--memory-later", type=float, default=65, help="look again after this long, s (65)")
    parser.add_argument("--recovery-wait", type=float, default=65, help="wait this long for a returned engine, s (65)")
    parser.add_argument("--hits-seconds", type=float, default=20, help="heavy load; the light one takes twice (20)")
    parser.add_argument("--zipf", type=float, default=1.0, help="exponent of the families (1.0)")
    parser.add_argument("--turns-requests", type=int, default=663, help="requests of the shipped trace (663)")
    parser.add_argument("--turns-rate", type=float, default=24, help="their rate, requests/s (24)")
    parser.add_argument("--turns-rounds", type=int, default=1, help="repetitions with other arrivals (1)")
    parser.add_argument("--short", action="store_true", help="a quick look: 2 rounds of 0.5 s, short waits")
    args = parser.parse_args()
    if args.short:
        args.rounds, args.seconds, args.memory_requests, args.memory_later = 2, 0.5, 1_000, 2
        args.recovery_wait, args.hits_seconds, args.turns_requests = 10, 4, 200
    return args


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": model, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "system": platform.release(),
            "load_average_at_start": os.getloadavg(), "python": platform.python_version()}


def main():
    args = arguments()
    for path, advice in [(args.gorgo, "cargo build --release"),
                         (args.parts, "cargo build --release -p gorgo-live --example peers")]:
        if not os.access(path, os.X_OK):
            sys.exit(f"{path} is no program: {advice}")
    began = time.time()

    def say(text):
        print(f"[{time.time() - began:6.0f} s, load {os.getloadavg()[0]:.1f}] {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="gorgo-peers-") as work:
        world = World(str(pathlib.Path(args.gorgo).absolute()), str(pathlib.Path(args.parts).absolute()), args.venvs,
                      work)
        left_out = {name: why for name in args.targets if (why := world.missing(name))}
        names = [name for name in args.targets if name not in left_out]
        for name, why in left_out.items():
            say(f"left out: {name}: {why}")
        result = {"when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                  "machine": machine(), "versions": {n: world.version(n) for n in names}, "left_out": left_out,
                  "settings": {k: str(v) for k, v in vars(args).items() if k not in ("gorgo", "parts", "venvs", "out")}}
        for part in args.only:
            chosen = [n for n in names if n not in SILENT[part]]
            say(f"{part}: {', '.join(chosen)}")
            result[part] = run(part, world, chosen, args, say)
            result["seconds"] = round(time.time() - began)
            write(args.out, result)
    print(tables.markdown(result))
    say(f"written to {args.out}")


def run(part, world, names, args, say):
    if part == "closed":
        rows, failed = cases.closed(world, names, args.cases, args.rounds, args.seconds, say)
        return {"rows": rows, "failed": failed}
    if part == "memory":
        return cases.memory_all(world, names, args.memory_requests, args.memory_later, say)
    if part == "recovery":
        return cases.recovery_all(world, names, 40, 8, args.recovery_wait)
    if part == "hang":
        return cases.hang_all(world, names, 15)
    if part == "lost":
        return cases.lost_all(world, names)
    if part == "hits":
        return cases.hits_all(world, names, args.hits_seconds, args.zipf)
    rounds = []
    for n in range(args.turns_rounds):
        rounds.append({})
        for name in names:
            say(f"turns: {name}")
            rounds[n].update(cases.each([name], lambda name: cases.turns(
                world, name, 4, args.turns_rate, args.turns_requests, n + 1)))
    return rounds


def write(folder, result):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "peers.md").write_text(tables.markdown(result))


if __name__ == "__main__":
    try:
        main()
    finally:
        for process in STARTED:
            process.stop()
