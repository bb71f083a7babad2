#!/bin/bash
# Two Ray nodes on this machine's loopback, one core each, and a corpus encoded on them:
#   benchmarks/two_nodes.sh VIDEOS OUT.json [--limit N]
# Every node has its own raylet, object store and workers, so blocks travel between them as between machines.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
ray=$(dirname "$python")/ray
port=${PORT:-6399}
folder=$(mktemp -d)
export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1

stop() {  # only these two nodes: each is a group of processes of its own
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
until "$python" - "127.0.0.1:$port" >/dev/null 2>&1 <<'PY'
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
PY
do sleep 1; done
start --address="127.0.0.1:$port" --node-ip-address=127.0.0.1
until "$python" - "127.0.0.1:$port" 2>/dev/null <<'PY'
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
nodes = [node for node in ray.nodes() if node["Alive"]]
print(len(nodes), "nodes,", ray.cluster_resources().get("CPU"), "cores")
sys.exit(len(nodes) != 2)
PY
do sleep 1; done
"$python" -m benchmarks.corpus "$1" --address "127.0.0.1:$port" --json "$2" "${@:3}"
