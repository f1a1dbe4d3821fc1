#!/usr/bin/env python3
"""Fourteen policies in 40 cells: ten workloads at 50, 70, 90 and 110 % of their saturation. See README.md.

    measure.py target/release/gorgo [--seeds 201,202,203,204,205] [--out results/grid] [--only mooncake] [--json FILE]
    measure.py target/release/gorgo --oracles          # also the regret of every policy
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
ORACLES = ("oracle-ttft", "oracle-sum")
REGRETS = ("ttft_mean_regret_ms", "ttft_mean_regret_ms_ci95", "e2e_mean_regret_ms", "e2e_mean_regret_ms_ci95")
# With oracles each decision would play out hundreds of running requests.
NO_ORACLES = {"short-prompts"}
# Name, file, saturation in requests/s, seconds, settings.
WORKLOADS = [
    ("three-regions, edges", "three-regions.toml", 6.953, 60, []),
    ("three-regions, proxy", "three-regions.toml", 6.6, 60, FRANKFURT),
    ("short-prompts", "short-prompts.toml", 193.8, 15, []),
    ("mooncake, 426 k KV tokens", "mooncake.toml", 3.4, 100, ["fleet.settings.kv_tokens=426000"]),
    # The file stretches the times of its trace; the rates here are drawn.
    ("mixed-fleet", "mixed-fleet.toml", 2.4, 100, ["workload.time_scale=1"]),
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


def arms(policies):
    physical = '{name="physical",policy={name="gorgo",preset="physical"}}'
    return "arms=[" + ",".join(physical if name == "physical" else f'{{policy="{name}"}}' for name in policies) + "]"


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
    found, regrets = {}, {}
    for row in rows:
        # An arm that runs at a proxy has the topology in its name.
        arm = row["arm"].split(" ")[0].removesuffix("-proxy")
        found[arm] = [float(row[figure]) for figure in FIGURES]
        if row.get(REGRETS[0]):
            regrets[arm] = [float(row[figure]) for figure in REGRETS]
    missing = set(POLICIES) - set(found)
    if missing:
        raise SystemExit(f"{out}: no figures of {', '.join(sorted(missing))}, but of {', '.join(found)}")
    return {arm: found[arm] for arm in POLICIES}, regrets


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
    parser.add_argument("--oracles", action="store_true", help="run oracles, too, and print regrets")
    parser.add_argument("--json", help="file for every excess and regret")
    args = parser.parse_args()
    columns = [*POLICIES, "regret of predictive", "of gorgo"] if args.oracles else POLICIES
    print("| workload | load | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    cells, regrets = {}, {}
    for name, file, saturation, seconds, settings in WORKLOADS:
        if args.only and args.only not in name:
            continue
        key, values = own_rates(file) if file in OWN_RATES else ("workload.rate", [saturation * s / 100 for s in SHARES])
        for share, value in zip(SHARES, values, strict=True):
            with_oracles = args.oracles and name not in NO_ORACLES
            chosen = [*settings, f"{key}={value:.6g}", arms((*POLICIES, *ORACLES) if with_oracles else POLICIES)]
            chosen += [f"workload.duration_s={seconds}"] if seconds else []
            figures, regret = run(args, name, share, file, chosen)
            cells[name, share] = found = excesses(figures)
            regrets[name, share] = regret
            shown = [" / ".join(f"{excess:.0f}" for excess in found[arm]) for arm in POLICIES]
            if args.oracles:
                for arm in ("predictive", "gorgo"):
                    shown.append("{:+.0f} ± {:.0f}".format(*regret[arm]) if with_oracles else "-")
            print(f"| {name} | {share} % | {' | '.join(shown)} |", flush=True)
    print("\n| policy | sum of excesses | worst cell |" + (" mean regret, TTFT / E2E, ms |" if args.oracles else ""))
    print("|---|---|---|" + ("---|" if args.oracles else ""))
    total = {arm: sum(sum(cell[arm]) for cell in cells.values()) for arm in POLICIES}
    for arm in sorted(POLICIES, key=total.get):
        line = f"| {arm} | {total[arm]:.0f} | {max(max(cell[arm]) for cell in cells.values()):.0f} |"
        if args.oracles:
            of_cells = [cell[arm] for cell in regrets.values() if arm in cell]
            means = [sum(cell[n] for cell in of_cells) / len(of_cells) if of_cells else float("nan") for n in (0, 2)]
            line += " {:.0f} / {:.0f} |".format(*means)
        print(line, flush=True)
    if args.json:
        with open(args.json, "w") as file:
            of = lambda name, share: {"excess": cells[name, share], "regret": regrets[name, share]}
            json.dump({f"{name}, {share} %": of(name, share) for name, share in cells}, file, indent=1)


if __name__ == "__main__":
    main()
