"""Makes the built-in trace `agentic-sessions` from recorded coding-agent sessions.

    python3 agentic_sessions.py sessions.jsonl.gz agentic-sessions.jsonl.gz

One line of the source is a request: session, t (s), input_tokens, output_tokens, think_s, blocks (the prompt's whole
64-token blocks as runs [first id, count], local to the session), and on a session's first line tool_tokens.
"""
import gzip
import json
import sys

BLOCK, PARTS = 256, 4  # tokens of a block here, and blocks of the source in one

sessions = {}
with gzip.open(sys.argv[1], "rt") as source:
    for line in source:
        row = json.loads(line)
        sessions.setdefault(row["session"], []).append(row)

heads, lines, fresh = {}, [], 0
for number, rows in enumerate(sessions.values()):
    names = {}
    tools = rows[0].get("tool_tokens") or 0
    for turn, row in enumerate(rows):
        blocks = [b for first, n in row["blocks"] for b in range(first, first + n)]
        whole = min(len(blocks) // PARTS, row["input_tokens"] // BLOCK)
        runs = []
        for at in range(whole):
            key = (at, blocks[at * PARTS + PARTS - 1])  # ids are chained: the last one tells all before it
            if key not in names:
                shared = turn == 0 and at < tools // BLOCK
                names[key] = heads.setdefault((tools, at), fresh) if shared else fresh
                fresh += names[key] == fresh
            if runs and sum(runs[-1]) == names[key]:
                runs[-1][1] += 1
            else:
                runs.append([names[key], 1])
        out = {"session_id": number}
        # Sessions have no start time: one a minute.
        out |= {"delay": round((row.get("think_s") or 0) * 1000)} if turn else {"timestamp": number * 60_000}
        out |= {"input_length": row["input_tokens"], "output_length": max(1, row["output_tokens"])}
        out |= {"block_size": BLOCK, "hash_runs": runs}
        lines.append(json.dumps(out, separators=(",", ":")) + "\n")

with open(sys.argv[2], "wb") as target, gzip.GzipFile("", "wb", 9, target, mtime=0) as packed:
    packed.write("".join(lines).encode())
