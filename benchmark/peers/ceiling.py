#!/usr/bin/env python3
"""What hits any division of the families over the three engines of `hits` could give: an upper line for every router.

Each engine is a least-recently-used cache, so that an item asked for at rate r is in it with probability 1 - exp(-r T),
where T is such that the cache is just full (Che's approximation, good to a per cent for such loads). The unique part of
a prompt is asked for once and only takes room. Divisions are searched by simulated annealing; the dozen most popular
families may be shared among engines in quarters. Prints hits of one engine with all the memory, and of the best
division found, with and without a bound on the busiest engine.

    benchmark/peers/ceiling.py [--steps 60000] [--seed 1]        # half a minute
"""

import argparse
import math
import random

FAMILIES, ENGINES, MEMORY, PROMPT, SHARED = 96, 3, 466_000, 16_000, 0.7


def popularity():
    weights = [1 / rank for rank in range(1, FAMILIES + 1)]
    return [w / sum(weights) for w in weights]


def hits(rates, memory):
    """Share of all text that one engine finds, given the rate of each of its families."""
    total = sum(rates)
    if total == 0:
        return 0.0
    low, high = 0.0, memory / (PROMPT * (1 - SHARED) * total)
    for _ in range(24):
        middle = (low + high) / 2
        held = PROMPT * SHARED * sum(-math.expm1(-r * middle) for r in rates)
        if held + PROMPT * (1 - SHARED) * total * middle > memory:
            high = middle
        else:
            low = middle
    return SHARED * sum(r * -math.expm1(-r * low) for r in rates)


def best(limit, steps, dice):
    """Hits and busiest / mean of the best division found whose busiest engine has at most `limit` times the mean."""
    parts = [(f, r / n) for f, r in enumerate(popularity()) for n in [4 if f < 12 else 1] for _ in range(n)]
    place = [dice.randrange(ENGINES) for _ in parts]
    rates = [{} for _ in range(ENGINES)]
    for (family, rate), engine in zip(parts, place):
        rates[engine][family] = rates[engine].get(family, 0.0) + rate
    found = [hits(list(r.values()), MEMORY) for r in rates]

    def worth():
        busiest = ENGINES * max(sum(r.values()) for r in rates)
        return sum(found) - 5 * max(0.0, busiest - limit), sum(found), busiest

    now = top = worth()
    for step in range(steps):
        heat = 0.01 * (1 - step / steps) ** 2 + 1e-6
        moved = [dice.randrange(len(parts))]
        if dice.random() < 0.3:  # a whole family
            moved = [i for i, part in enumerate(parts) if part[0] == parts[moved[0]][0]]
        to, before, kept = dice.randrange(ENGINES), [place[i] for i in moved], (found[:], [dict(r) for r in rates])
        for i in moved:
            family, rate = parts[i]
            rates[place[i]][family] -= rate
            if rates[place[i]][family] < 1e-12:
                del rates[place[i]][family]
            rates[to][family] = rates[to].get(family, 0.0) + rate
            place[i] = to
        for engine in {to, *before}:
            found[engine] = hits(list(rates[engine].values()), MEMORY)
        then = worth()
        if then[0] >= now[0] or dice.random() < math.exp((then[0] - now[0]) / heat):
            now, top = then, max(top, then)
        else:
            found, rates = kept
            for i, engine in zip(moved, before):
                place[i] = engine
    return top[1], top[2]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=60_000, help="divisions tried (60000)")
    arguments.add_argument("--seed", type=int, default=1)
    args = arguments.parse_args()
    print(f"one engine with all the memory: {hits(popularity(), ENGINES * MEMORY):.3f}")
    for limit, words in [(1.15, "busiest at most 1.15 times the mean"), (float(ENGINES), "any")]:
        share, busiest = best(limit, args.steps, random.Random(args.seed))
        print(f"best division found, {words}: {share:.3f} (busiest {busiest:.2f})")


if __name__ == "__main__":
    main()
