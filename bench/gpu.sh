#!/usr/bin/env bash
# bench.gpu where nothing can be installed: vLLM comes as a packed directory `site` in parts.
#     bench/gpu.sh PARTS OUT [arguments of bench.gpu]
# PARTS: a directory with part.00, part.01, ... of a tar.xz, unpacked there once. The ends of vLLM's logs go to OUT.
set -euo pipefail
parts=$1 out=$2 logs=/tmp/bench-gpu
shift 2
[ -d "$parts/site" ] || cat "$parts"/part.* | xz -T8 -d | tar -C "$parts" -xf -
export PYTHONPATH=$PWD:$parts/site PYTHONUNBUFFERED=1 VLLM_USE_FLASHINFER_SAMPLER=0
mkdir -p "$logs"
trap 'for log in "$logs"/*.log; do tail -c 3000000 "$log" > "$out/${log##*/}"; done' EXIT
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/gpu.txt"
# Interrupted before its machine is taken away, it stops its servers and keeps what it has.
timeout -s INT 570 python3 -m bench.gpu "$parts/site/models_q3" "$out" --logs "$logs" "$@"
