#!/usr/bin/env bash
# The benchmark on a GPU machine where nothing can be installed: vLLM and all else come as a directory SITE.
#     bench/gpu.sh SITE OUT [arguments of `python -m bench run`]
# SITE holds what pip would install, tools/ with agentic-server, and models_q3/: config.json of Qwen3-8B's shape with its
# tokenizer and chat template. Ends within ten minutes, with what it has by then.
set -euo pipefail
site=$1 out=$2
shift 2
export PYTHONPATH=$PWD:$site PATH=$site/tools:$PATH PYTHONUNBUFFERED=1 TMPDIR=/tmp/bench
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_USE_FLASHINFER_SAMPLER=0
mkdir -p "$TMPDIR" "$out"
chmod 711 "$TMPDIR"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
# --foreground: the signal once. A second one would end it at once, before it has written its tables.
timeout --foreground -s INT 570 python3 -m bench run --gpu "$site/models_q3" --out "$out" "$@" \
    -- --max-model-len 131072 --max-num-seqs 32 --gpu-memory-utilization 0.92
