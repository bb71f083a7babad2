#!/bin/bash
# Encode a corpus on two Ray nodes of one core each, both on the loopback interface of this machine:
#   benchmarks/two_nodes.sh VIDEOS OUT.json [--limit N]
# Each node has its own raylet, object store and workers, so blocks are sent between them as between machines.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
ray=$(dirname "$python")/ray
port=${PORT:-6399}
folder=$(mktemp -d)
export RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 OMP_NUM_THREADS=1
# whoever reaches a Ray cluster can run code on it: these nodes accept only clients with this token, made for this run
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token"
(umask 077 && "$python" -c "import secrets; print(secrets.token_hex(32), end='')" >"$RAY_AUTH_TOKEN_PATH")

stop() {  # only these two nodes: each has a process group of its own
    for node in "${nodes[@]}"; do kill -- "-$node" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$folder"
}
nodes=()
trap stop EXIT

start() {
    setsid "$ray" start --block --num-cpus=1 --object-store-memory=300000000 --disable-usage-stats "$@" \
        >"$folder/node-${#nodes[@]}.log" 2>&1 &
    nodes+=($!)
}

start --head --port="$port" --node-ip-address=127.0.0.1 --include-dashboard=false --temp-dir="$folder/ray"
alive() {  # wait until so many nodes are up
    "$python" - "127.0.0.1:$port" "$1" 2>"$folder/alive.log" <<'PY' || { cat "$folder"/*.log >&2; exit 1; }
import sys, time, ray
for _ in range(60):
    try:
        ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
        break
    except ConnectionError:
        time.sleep(1)
for _ in range(60):
    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes == int(sys.argv[2]):
        print(nodes, "nodes,", ray.cluster_resources().get("CPU"), "cores", flush=True)
        sys.exit()
    time.sleep(1)
sys.exit("the nodes did not come up")
PY
}
alive 1
start --address="127.0.0.1:$port" --node-ip-address=127.0.0.1
alive 2
"$python" -m benchmarks.corpus "$1" --address "127.0.0.1:$port" --json "$2" "${@:3}"
