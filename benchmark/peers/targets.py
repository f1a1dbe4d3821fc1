"""Processes that the comparison starts: engines, routers, loads, and what /proc tells of them."""

import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

TICK = os.sysconf("SC_CLK_TCK")
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "ready?"}], "max_tokens": 1}).encode()


_NEXT = itertools.count(20_000 + os.getpid() % 8_000)
_TAKING = threading.Lock()


def free_port():
    """A port that nobody listens on now, never given twice, below those that outgoing connections get."""
    with _TAKING:
        for port in _NEXT:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    sock.bind(("127.0.0.1", port))
                    return port
                except OSError:
                    continue


def get(url, data=None, timeout=10):
    """Body of a GET, or of a POST of JSON bytes."""
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read()


STARTED = []  # everything, so that nothing outlives the run


class Process:
    """A server of its own process group; ended with everything it started."""

    def __init__(self, argv, log, env=None):
        self.argv, self.log, self.env = [str(a) for a in argv], log, env
        self.start()
        STARTED.append(self)

    def start(self):
        with open(self.log, "ab") as out:
            self.child = subprocess.Popen(
                self.argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **(self.env or {})})

    def pids(self):
        """The process and all that descend from it (nginx works in children)."""
        found, queue = [], [self.child.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            try:
                queue += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                pass
        return found

    def cpu(self):
        """User and system time of all threads so far, s."""
        total = 0
        for pid in self.pids():
            try:
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
            except OSError:
                pass
        return total / TICK

    def rss_mb(self):
        """Resident memory, MB (10^6 bytes)."""
        total = 0
        for pid in self.pids():
            try:
                for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmRSS"):
                        total += int(line.split()[1]) * 1024
            except OSError:
                pass
        return total / 1e6

    def stop(self, how=signal.SIGKILL):
        if self.child.poll() is None:
            try:
                os.killpg(self.child.pid, how)
            except ProcessLookupError:
                pass
        self.child.wait()


class World:
    """Where binaries are and files go."""

    def __init__(self, gorgo, parts, venvs, work):
        self.gorgo, self.parts, self.venvs = gorgo, parts, pathlib.Path(venvs)
        self.work = pathlib.Path(work)
        self.work.mkdir(parents=True, exist_ok=True)

    def engine(self, port=None, **flags):
        """An engine that costs nearly nothing."""
        port = port or free_port()
        argv = [self.parts, "engine", "--port", port]
        for name, value in flags.items():
            argv += ["--" + name.replace("_", "-"), value]
        process = Process(argv, self.work / f"engine-{port}.log")
        process.url = f"http://127.0.0.1:{port}"
        wait_for(process.url + "/health", process, 20)
        return process

    def router(self, name, engines):
        """A router in front of engine URLs, ready to answer; `direct` is none."""
        if name == "direct":
            return None
        port = free_port()
        argv, env = ROUTERS[name][1](self, port, engines)
        process = Process(argv, self.work / f"{name}-{port}.log", env)
        process.url = f"http://127.0.0.1:{port}"
        wait_for(process.url + "/v1/chat/completions", process, 90, CHAT)
        return process

    def load(self, role, to, **flags):
        """Runs a load to its end and returns what it saw."""
        argv = [self.parts, role, "--to", ",".join(to)]
        for name, value in flags.items():
            argv += ["--" + name.replace("_", "-"), value]
        out = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=True)
        return json.loads(out.stdout)

    def missing(self, name):
        """Why a target cannot run here, or None."""
        wanted = ROUTERS[name][0]
        if wanted in ("nginx",):
            return None if shutil.which("nginx") else "nginx is not installed (apt-get install nginx-light)"
        if wanted:
            python = self.venvs / wanted / "bin/python"
            if not python.exists() or self.version(name) is None:
                return f"{wanted} is not installed under {self.venvs} (run setup.sh)"
        return None

    def version(self, name):
        package = ROUTERS[name][0]
        if package == "nginx":
            return subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip()
        if name.startswith("gorgo"):
            return subprocess.run([self.gorgo, "--version"], capture_output=True, text=True).stdout.strip()
        if not package:
            return "own"
        code = f"import importlib.metadata as m; print(m.version('{package}'))"
        out = subprocess.run([self.venvs / package / "bin/python", "-c", code], capture_output=True, text=True)
        return f"{package} {out.stdout.strip()}" if out.returncode == 0 else None


def wait_for(url, process, seconds, data=None):
    """Asks until the answer is 200."""
    until = time.time() + seconds
    why = "nothing"
    while time.time() < until:
        if process.child.poll() is not None:
            raise RuntimeError(f"{process.argv[0]} ended: see {process.log}")
        try:
            get(url, data, 5)
            return
        except OSError as error:
            why = error
            time.sleep(0.05)
    process.stop()
    raise RuntimeError(f"{url} gives {why} after {seconds} s: see {process.log}")


def _floor(world, port, engines):
    return [world.parts, "floor", "--port", port, "--to", ",".join(engines)], None


def _nginx(world, port, engines):
    """Passes on without buffering answers; connections kept; bodies in memory; one worker a core."""
    servers = " ".join(f"server {url.removeprefix('http://')};" for url in engines)
    folder = world.work / f"nginx-{port}"
    folder.mkdir(exist_ok=True)
    (folder / "nginx.conf").write_text(f"""
worker_processes auto; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{ access_log off; tcp_nodelay on; keepalive_requests 1000000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream engines {{ least_conn; {servers} keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port}; client_max_body_size 32m; client_body_buffer_size 256k;
    location / {{ proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_next_upstream error timeout http_502 non_idempotent; proxy_read_timeout 600s; }} }} }}
""")
    return ["nginx", "-p", folder, "-c", folder / "nginx.conf"], None


def _sglang(policy):
    def argv(world, port, engines):
        return [world.venvs / "sglang-router/bin/python", "-m", "sglang_router.launch_router", "--host", "127.0.0.1",
                "--port", port, "--prometheus-port", free_port(), "--policy", policy, "--log-level", "warn",
                "--worker-urls", *engines], None
    return argv


def _smg(policy):
    def argv(world, port, engines):
        return [world.venvs / "smg/bin/smg", "launch", "--host", "127.0.0.1", "--port", port, "--prometheus-port",
                free_port(), "--policy", policy, "--log-level", "warn", "--worker-urls", *engines], None
    return argv


def _vllm(policy):
    def argv(world, port, engines):
        return [world.venvs / "vllm-router/bin/vllm-router", "--host", "127.0.0.1", "--port", port,
                "--prometheus-port", free_port(), "--policy", policy, "--log-level", "warning",
                "--worker-urls", *engines], None
    return argv


def _gorgo(*extra):
    def argv(world, port, engines):
        return [world.gorgo, "proxy", "start", "--listen", f"127.0.0.1:{port}", "--servers", ",".join(engines),
                *extra], {"GORGO_LOG": "warn"}
    return argv


# name: (what must be installed, how it is started)
ROUTERS = {
    "direct": ("", None),
    "floor": ("", _floor),
    "nginx": ("nginx", _nginx),
    "sglang": ("sglang-router", _sglang("cache_aware")),
    "sglang-rr": ("sglang-router", _sglang("round_robin")),
    "smg": ("smg", _smg("cache_aware")),
    "smg-rr": ("smg", _smg("round_robin")),
    "smg-prefix-hash": ("smg", _smg("prefix_hash")),
    "vllm": ("vllm-router", _vllm("cache_aware")),
    "vllm-rr": ("vllm-router", _vllm("round_robin")),
    "gorgo": ("", _gorgo()),
    "gorgo-physical": ("", _gorgo("--policy", "gorgo", "--set", "policy.preset=physical")),
    "gorgo-rr": ("", _gorgo("--policy", "round-robin")),
}
