#!/usr/bin/env bash
# Installs the routers that measure.py compares with, each into a virtual environment of its own under DIR.
# nginx comes from the system: apt-get install nginx-light
#
#   setup.sh DIR
set -uo pipefail
dir=${1:?give a folder for the virtual environments}
mkdir -p "$dir"
failed=0
for package in sglang-router==0.3.2 smg==1.13.0 vllm-router==0.1.17; do
  name=${package%%=*}
  [ -x "$dir/$name/bin/python" ] || python3 -m venv "$dir/$name" || exit 1
  "$dir/$name/bin/pip" -q install "$package" || { echo "$package could not be installed" >&2; failed=1; }
done
command -v nginx >/dev/null || { echo "nginx is missing: apt-get install nginx-light" >&2; failed=1; }
exit $failed
