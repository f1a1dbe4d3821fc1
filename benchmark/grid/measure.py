#!/usr/bin/env python3
"""Fourteen policies in 40 cells: ten workloads at 50, 70, 90 and 110 % of their saturation. See README.md.

    measure.py target/release/gorgo [--seeds 201,202,203,204,205] [--out results/grid] [--only mooncake] [--json FILE]
"""

import argparse
import csv
import json
import os
import shlex
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
EXPERIMENTS = os.path.join(HERE, "..", "..", "experiments")
SHARES = (50, 70, 90, 110)
FIGURES = ("ttft_p95_ms", "e2e_p95_ms")
POLICIES = ("predictive", "physical", "gorgo", "smetric", "kv-cost", "lmetric", "least-load", "smg-cache-aware", "cache-aware",
            "least-request", "prefix-cache", "llm-d", "dualmap", "stargate")
FRANKFURT = ["topology=proxy", "proxy_region=aws:eu-central-1"]
# Name, file, saturation in requests/s, seconds, settings.
WORKLOADS = [
    ("three-regions, edges", "three-regions.toml", 6.953, 60, []),
    ("three-regions, proxy", "three-regions.toml", 6.6, 60, FRANKFURT),
    ("short-prompts", "short-prompts.toml", 193.8, 15, []),
    ("mooncake, 426 k KV tokens", "mooncake.toml", 3.4, 100, ["fleet.settings.kv_tokens=426000"]),
    ("mixed-fleet", "mixed-fleet.toml", 2.4, 100, []),
    ("mooncake, 3 M KV tokens", "mooncake.toml", 1.5, 100, ["fleet.settings.kv_tokens=3000000"]),
    ("load-recorded-fleet", "load-recorded-fleet.toml", 12.2, None, []),
    ("load-vllm", "load-vllm.toml", 2.9, None, []),
    ("load-agents", "load-agents.toml", None, None, []),
    ("load-day", "load-day.toml", None, None, []),
]
# Their files hold the rates: sessions arrive, not requests; a day has a rate of its own.
OWN_RATES = {"load-agents.toml", "load-day.toml", "load-recorded-fleet.toml", "load-vllm.toml"}


def own_rates(file):
    """The key and the four values under [vary] of a file."""
    with open(os.path.join(EXPERIMENTS, file)) as text:
        lines = text.read().split("[vary]\n", 1)[1].splitlines()
    key, values = lines[0].split("=", 1)
    return key.strip().strip('"'), json.loads(values)


def arms():
    physical = '{name="physical",policy={name="gorgo",preset="physical"}}'
    return "arms=[" + ",".join(physical if name == "physical" else f'{{policy="{name}"}}' for name in POLICIES) + "]"


def run(args, name, share, file, settings):
    out = os.path.join(args.out, f"{name}-{share}".replace(" ", "-").replace(",", ""))
    command = [args.gorgo, "run", os.path.join(EXPERIMENTS, file), "--fresh", "--out", out]
    for setting in [f"seeds=[{args.seeds}]", "baseline=least-load", *settings]:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stderr}")
    with open(os.path.join(out, "summary.csv")) as table:
        rows = list(csv.DictReader(table))
    found = {}
    for row in rows:
        # An arm that runs at a proxy has the topology in its name.
        arm = row["arm"].split(" ")[0].removesuffix("-proxy")
        found[arm] = [float(row[figure]) for figure in FIGURES]
    missing = set(POLICIES) - set(found)
    if missing:
        raise SystemExit(f"{out}: no figures of {', '.join(sorted(missing))}, but of {', '.join(found)}")
    return {arm: found[arm] for arm in POLICIES}


def excesses(found):
    """Per cent above the best policy of a cell, for each figure."""
    best = [min(figures[n] for figures in found.values()) for n in range(len(FIGURES))]
    return {arm: [100 * (figures[n] / best[n] - 1) for n in range(len(FIGURES))] for arm, figures in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gorgo", help="the program")
    parser.add_argument("--seeds", default="201,202,203,204,205")
    parser.add_argument("--out", default="results/grid")
    parser.add_argument("--only", help="workloads whose name holds this")
    parser.add_argument("--json", help="file for every excess")
    args = parser.parse_args()
    print("| workload | load | " + " | ".join(POLICIES) + " |")
    print("|---" * (len(POLICIES) + 2) + "|")
    cells = {}
    for name, file, saturation, seconds, settings in WORKLOADS:
        if args.only and args.only not in name:
            continue
        key, values = own_rates(file) if file in OWN_RATES else ("workload.rate", [saturation * s / 100 for s in SHARES])
        for share, value in zip(SHARES, values, strict=True):
            chosen = [*settings, f"{key}={value:.6g}", arms()]
            chosen += [f"workload.duration_s={seconds}"] if seconds else []
            cells[name, share] = found = excesses(run(args, name, share, file, chosen))
            shown = " | ".join(" / ".join(f"{excess:.0f}" for excess in found[arm]) for arm in POLICIES)
            print(f"| {name} | {share} % | {shown} |", flush=True)
    print("\n| policy | sum of excesses | worst cell |\n|---|---|---|")
    total = {arm: sum(sum(cell[arm]) for cell in cells.values()) for arm in POLICIES}
    for arm in sorted(POLICIES, key=total.get):
        print(f"| {arm} | {total[arm]:.0f} | {max(max(cell[arm]) for cell in cells.values()):.0f} |")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({f"{name}, {share} %": cell for (name, share), cell in cells.items()}, file, indent=1)


if __name__ == "__main__":
    main()
