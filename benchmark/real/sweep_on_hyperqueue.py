#!/usr/bin/env python3
"""A sweep of 1,040 points through HyperQueue whose server and worker are killed on the way.

    pip install hyperqueue
    python benchmark/real/sweep_on_hyperqueue.py target/release/gorgo

Plans the sweep, starts it, kills HyperQueue with SIGKILL once 200 points have run, collects what is there, starts it
again and compares the collected summary with the one of `gorgo sweep` in one process, byte by byte. About two minutes on
two cores. Run in the root of the repository.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

SWEEP = [
    "experiments/three-regions.toml", "--vary", "policy.running_cost_factor=0..2:0.08", "--set", "workload.requests=100",
    "--set", "workload.rate=5.0", "--set", "seeds=40", "--set", 'arms=[{policy="gorgo"}]', "--set", "baseline=gorgo",
]


def work(gorgo, plan):
    """Runs all points of a plan; HyperQueue's server and worker live in this process."""
    from hyperqueue.cluster import LocalCluster, WorkerConfig
    from hyperqueue.job import Job

    points = [line for line in (plan / "points.txt").read_text().split("\n") if line]
    with LocalCluster() as cluster:
        cluster.start_worker(WorkerConfig(cores=os.cpu_count()))
        client = cluster.client()
        job = Job(default_workdir=plan)
        for point in points:
            job.program([gorgo, "point", "run", str(plan / point)], stdout=None, stderr=None)
        client.wait_for_jobs([client.submit(job)])


def main():
    gorgo = str(pathlib.Path(sys.argv[1]).resolve())
    if len(sys.argv) > 2:
        return work(gorgo, pathlib.Path(sys.argv[2]))
    with tempfile.TemporaryDirectory() as folder:
        plan = pathlib.Path(folder) / "plan"
        subprocess.run([gorgo, "sweep", "plan", *SWEEP, "--out", plan], check=True, stdout=subprocess.DEVNULL)
        made = plan / "results" / "points"
        count = lambda: len(list(made.glob("*.json"))) if made.exists() else 0
        start = lambda: subprocess.Popen([sys.executable, __file__, gorgo, str(plan)], start_new_session=True,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        collect = lambda: subprocess.run([gorgo, "sweep", "collect", plan], capture_output=True, text=True)

        first = start()
        until = time.monotonic() + 120
        while count() < 200 and time.monotonic() < until:
            time.sleep(0.1)
        os.killpg(first.pid, signal.SIGKILL)
        time.sleep(1)
        partial = collect()
        print(f"killed after {count()} points; collect: exit {partial.returncode}, {partial.stderr.strip().splitlines()[-1]}")
        assert partial.returncode != 0 and 200 <= count() < 1_040

        assert start().wait(timeout=600) == 0
        whole = collect()
        direct = pathlib.Path(folder) / "direct"
        subprocess.run([gorgo, "sweep", *SWEEP, "--out", direct], check=True, capture_output=True)
        same = (plan / "results" / "summary.csv").read_bytes() == (direct / "summary.csv").read_bytes()
        print(f"{count()} points; collect: exit {whole.returncode}; summary.csv equals that of one process: {same}")
        assert whole.returncode == 0 and count() == 1_040 and same


main()
