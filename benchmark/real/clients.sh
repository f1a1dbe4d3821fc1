#!/usr/bin/env bash
# OpenAI's client and GuideLLM, unmodified, through a running router.
#
#   clients.sh ROUTER_URL ENGINE_URL [TOKENIZER_DIR]
#
# TOKENIZER_DIR holds a Hugging Face tokenizer for GuideLLM, which is left out without it. GORGO names the router's
# program (to be refused by routers of our own), VENV a folder for the virtual environment.
set -euo pipefail
router=${1:?URL of the router} engine=${2:?URL of an engine behind it} tokenizer=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
venv=${VENV:-$HOME/.cache/gorgo-clients}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
packages="openai==3.54.0"
[ -z "$tokenizer" ] || packages="$packages guidellm==0.8.1"
# shellcheck disable=SC2086
"$venv/bin/pip" -q install $packages

status=0
"$venv/bin/python" "$here/openai_client.py" --router "$router" --engine "$engine" ${GORGO:+--gorgo "$GORGO"} || status=1

[ -n "$tokenizer" ] || exit $status
out=$(mktemp -d)
for how in kind=synchronous kind=concurrent,streams=8 kind=poisson,rate=5; do
  echo "guidellm, $how"
  HF_HUB_OFFLINE=1 "$venv/bin/guidellm" run --backend "kind=openai_http,target=$router" --profile "$how" \
    --constraint "kind=max_requests,count=${REQUESTS:-30}" --tokenizer "kind=huggingface_auto,model=$tokenizer" \
    --data "kind=synthetic_text,prompt_tokens=256,output_tokens=32" --output "kind=json,path=$out/report.json" \
    --disable-progress >"$out/log" 2>&1 || { tail -20 "$out/log"; status=1; continue; }
  "$venv/bin/python" - "$out/report.json" <<'P' || status=1
import json, sys
for run in json.load(open(sys.argv[1]))["benchmarks"]:
    totals = run["metrics"]["request_totals"]
    ttft = run["metrics"]["time_to_first_token_ms"]["successful"]["percentiles"]
    print(f"  {totals['successful']} answered, {totals['errored']} failed, {totals['incomplete']} cut at the end; "
          f"TTFT p50 {ttft['p50']:.1f} ms, p99 {ttft['p99']:.1f} ms")
    if totals["errored"] or not totals["successful"]:
        sys.exit("  requests failed")
P
done
exit $status
