"""The result as markdown: medians, and the lowest and highest of the rounds behind them."""

import statistics

from cases import CLOSED, LOST


def shown(values, digits=0, sign=""):
    """`median (lowest..highest)`."""
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    middle, least, most = (f"{v:{sign},.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({least}..{most})"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]) + "\n"


def closed(result):
    """One table a case. Ratios and differences are taken within a round, then their median."""
    out, rows = [], result["rows"]
    targets = list(dict.fromkeys(row["target"] for row in rows))
    for case in dict.fromkeys(row["case"] for row in rows):
        of = {(r["target"], r["round"]): r for r in rows if r["case"] == case}
        rounds = sorted({r for _, r in of})
        streams, alone = case == "stream-events", CLOSED[case][1]["connections"] == 1
        lines = []
        for name in targets:
            def per_round(measure, against=None, how=None):
                values = []
                for n in rounds:
                    own, other = of.get((name, n)), of.get((against, n)) if against else None
                    if own is None or not own["requests"] or (against and (other is None or not other["requests"])):
                        continue
                    value = measure(own)
                    if how:
                        base = measure(other)
                        if not base and how == "ratio":
                            continue
                        value = value / base if how == "ratio" else value - base
                    values.append(value)
                return values
            cpu = lambda r: r["cpu_s"] * 1e6 / max(1, r["events"] if streams else r["requests"])
            rate = lambda r: (r["events"] if streams else r["requests"]) / r["seconds"]
            none = name == "direct"
            line = [name, shown(per_round(rate)), "-" if none else shown(per_round(cpu), 1),
                    "-" if none else shown(per_round(cpu, "floor", "ratio"), 2)]
            # With 64 at once the times only tell how many wait.
            for q in ["first_p50_us", "first_p99_us"] if alone else []:
                whole = lambda r: r[q]
                line.append(shown(per_round(whole)) if none else shown(per_round(whole, "direct", "less"), 0, "+"))
            lines.append([*line, sum(of[name, n]["failed"] for n in rounds if (name, n) in of)])
        what = "event" if streams else "request"
        times = ["first byte p50, us (others: over direct)", "p99"] if alone else []
        out.append(f"### {CLOSED[case][0]} (`{case}`)\n\n" + table(
            ["target", f"{what}s/s", f"CPU us per {what}", "ratio to floor", *times, "failed"], lines))
    out += [f"{name} did not start: {why}\n" for name, why in result["failed"].items()]
    return "\n".join(out)


def error_or(row, cells):
    return [row["error"]] if "error" in row else cells(row)


def memory(result):
    return table(["target", "idle MB", "most MB", "after MB", "later MB", "failed"], [
        [name, *error_or(r, lambda r: [*(f"{r[k]:.0f}" for k in ("idle_mb", "most_mb", "after_mb", "later_mb")),
                                       r["failed"]])] for name, r in result.items()])


def recovery(result):
    def cells(r):
        back = f"not within {r['waited_s']:.0f}" if r["back_s"] is None else f"{r['back_s']:.2f}"
        return [back, f"{r['failed']} of {(r['requests'] or 0) + (r['failed'] or 0)}", f"{r['whole_max_ms']:.0f}",
                r["returned_took"]]
    return table(["target", "first request after /health, s", "failed", "slowest ms", "requests it then got"],
                 [[name, *error_or(r, cells)] for name, r in result.items()])


def hang(result):
    def cells(r):
        times = (f"{r[k] / 1e3:,.0f}" for k in ("whole_p50_us", "whole_p99_us", "whole_max_us"))
        return [f"{r['failed']} of {r['requests'] + r['failed']}", *times]
    return table(["target", "failed", "answer p50 ms", "p99 ms", "slowest ms"],
                 [[name, *error_or(r, cells)] for name, r in result.items()])


def lost(result):
    def cells(r):
        for kind in LOST:
            k = r[kind]
            yield f"{k['told']} of {k['clients']}" + ("" if k["median_s"] is None else
                                                      f", {k['median_s'] * 1e3:.0f} ms (most {k['most_s'] * 1e3:.0f})")
    return table(["target", *LOST], [[name, *error_or(r, cells)] for name, r in result.items()])


def hits(result):
    def cells(r):
        return [f"{r['hit']:.3f}", f"{r['busiest']:.2f}", r["most_running"], f"{r['first_p50_us'] / 1e3:.1f}",
                f"{r['first_p99_us'] / 1e3:.1f}", r["failed"]]
    head = ["target", "load", "hit", "busiest / mean", "most at once on one", "first byte p50 ms", "p99 ms", "failed"]
    called = {"direct": "one engine with the memory of all three"}
    return table(head, [[called.get(name, name), load, *error_or(r[load], cells)] for name, r in result.items()
                        for load in ("light", "heavy")])


def turns(rounds):
    def bench(r):
        return r["report"]["benchmarks"][0]
    def ttft(r, q):
        return bench(r)["metrics"]["time_to_first_token_ms"]["percentiles"][q]
    rows = []
    for name in rounds[0]:
        good = [r[name] for r in rounds if "error" not in r[name]]
        if not good:
            rows.append([name, rounds[0][name]["error"]])
            continue
        rows.append([name, shown([r["hit"] for r in good], 3), shown([r["busiest"] for r in good], 2),
                     shown([ttft(r, "p50") for r in good], 1), shown([ttft(r, "p95") for r in good], 1),
                     shown([ttft(r, "p99") for r in good], 1),
                     sum(bench(r)["request_totals"]["errored"] for r in good)])
    return table(["target", "hit", "busiest / mean", "TTFT p50 ms", "p95 ms", "p99 ms", "failed"], rows)


TITLES = {
    "closed": ("Cost and added latency", closed),
    "memory": ("Memory under distinct prompts of 80 kB", memory),
    "recovery": ("An engine killed under load, back 8 s later", recovery),
    "hang": ("An engine that hangs under load for 15 s and goes on", hang),
    "lost": ("Clients that leave: engines told, and when", lost),
    "hits": ("Prefix hits and balance, families of prompts, three engines of 466 k characters", hits),
    "turns": ("Conversations over four emulated replicas (time runs 4 times as fast)", turns),
}


def markdown(result):
    machine = result["machine"]
    load = ", ".join(f"{v:.1f}" for v in machine["load_average_at_start"])
    out = [f"# Routers side by side, {result['when']}\n",
           f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, {machine['system']}; load "
           f"average at the start {load}; {result.get('seconds', 0)} s in all. Driver, engines and router share the "
           "cores: ratios within a run mean something, absolute figures little. Median (lowest..highest) of rounds.\n",
           "Versions: " + "; ".join(f"{k}: {v}" for k, v in result["versions"].items()) + ".\n"]
    out += [f"Left out: {name}: {why}.\n" for name, why in result["left_out"].items()]
    for part, (title, show) in TITLES.items():
        if result.get(part):
            out.append(f"## {title}\n\n{show(result[part])}")
    return "\n".join(out)
