#!/usr/bin/env python3
"""Traces in the shape of the windows that the GORGO paper (version 3) replays, from what its repository published.

    published_windows.py requests_v8_least-load.csv experiments/records/recorded-fleet/trace.jsonl.gz experiments/records/long-context

The table holds the time and the lengths of each request of the window of April 5 16:15; which prompts shared a prefix was
not published, but that 78.8 % of the tokens in blocks of 512 repeat. The paper's traces were decoded from metadata so that
the prompts of a user are prefixes of one stream. Here, a request begins a new stream with the chance p, or goes on with the
stream that was in use a gap before it; gaps are those of the second file, a recorded trace of the same service. p is
bisected until the published share repeats: one fitted number a window. Of April 6 15:05 and April 7 19:45 only the number
of rows, the mean length and the share are known: lengths are drawn from April 5's and scaled, arrivals are uniform in the
half hour.
"""
import bisect
import collections
import csv
import gzip
import itertools
import json
import os
import random
import sys

BLOCK = 512
WINDOW_MS = 1_800_000
LONG = 2_000
PROXY = 37.48, -76.45  # the load generator stands beside the proxy
# name, rows, share of repeated blocks, mean prompt tokens; None: the table's own.
WINDOWS = [("apr5", None, 0.788, None), ("apr6", 7_630, 0.776, 7_008), ("apr7", 8_663, 0.879, 7_148)]


def gaps_of(path):
    """Times from a long prompt's first half to the last use of that half, ms."""
    seen, gaps = {}, []
    with gzip.open(path, "rt") as trace:
        for line in trace:
            row = json.loads(line)
            ids = row.get("hash_ids") or [i for first, n in row.get("hash_runs", []) for i in range(first, first + n)]
            if not ids:
                continue
            half = ids[len(ids) // 2]
            if row["input_length"] > LONG and half in seen:
                gaps.append(row["timestamp"] - seen[half])
            seen.update(dict.fromkeys(ids, row["timestamp"]))
    return gaps


def streams(times, gaps, p, seed):
    draw, used, fresh = random.Random(seed), [], 0
    for number, at in enumerate(times):
        begins, gap = draw.random() < p, draw.choice(gaps)
        if number == 0 or begins:
            used.append(fresh)
            fresh += 1
        else:
            before = bisect.bisect_left(times, at - gap)
            used.append(used[min(before, number - 1)])
    return used


def reuse(lengths, used):
    longest, hit, every = {}, 0, 0
    for tokens, stream in zip(lengths, used):
        blocks = tokens // BLOCK
        hit += min(blocks, longest.get(stream, 0))
        every += blocks
        longest[stream] = max(longest.get(stream, 0), blocks)
    return hit / every


def window(table, gaps, rows, share, mean, seed):
    requests = table
    if rows is not None:
        draw = random.Random(seed)
        scale = mean / (sum(tokens for _, tokens, _ in table) / len(table))
        times = sorted(draw.randrange(WINDOW_MS) for _ in range(rows))
        picked = [draw.choice(table) for _ in times]
        requests = [(at, max(1, round(tokens * scale)), answer) for at, (_, tokens, answer) in zip(times, picked)]
    times, lengths = [at for at, _, _ in requests], [tokens for _, tokens, _ in requests]
    low, high = 0.001, 0.9
    for _ in range(30):
        p = (low + high) / 2
        low, high = (low, p) if reuse(lengths, streams(times, gaps, p, seed)) < share else (p, high)
    used = streams(times, gaps, low, seed)
    count = collections.Counter(used)
    print(f"  p {low:.3f}: {len(count)} streams, busiest {max(count.values()) / len(used):.1%}, "
          f"reuse {reuse(lengths, used):.4f}, mean {sum(lengths) / len(lengths):.0f} tokens")
    return requests, used


def main():
    source, trace, folder = sys.argv[1:]
    with open(source, newline="") as file:
        table = [(int(r["sched_ms"]), int(r["input_tokens"]), int(r["output_tokens"])) for r in csv.DictReader(file)]
    gaps = gaps_of(trace)
    print(f"{len(gaps)} gaps, median {sorted(gaps)[len(gaps) // 2]} ms")
    os.makedirs(folder, exist_ok=True)
    for name, rows, share, mean in WINDOWS:
        print(name)
        requests, used = window(table, gaps, rows, share, mean, 1)
        out = gzip.GzipFile(os.path.join(folder, f"{name}.jsonl.gz"), "wb", 9, mtime=0)
        partial = itertools.count(1_000_000)
        for (at, tokens, answer), stream in zip(requests, used):
            runs = [[stream * 100, tokens // BLOCK]] if tokens >= BLOCK else []
            if tokens % BLOCK:
                runs.append([next(partial), 1])
            row = {"timestamp": at, "lat": PROXY[0], "lon": PROXY[1], "input_length": tokens, "output_length": answer,
                   "block_size": BLOCK, "hash_runs": runs}
            out.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        out.close()


if __name__ == "__main__":
    main()
