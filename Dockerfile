# The service in one image: made in two stages, run by a user without rights, writing only to /data, /cache and /tmp.
#
#   docker build -t ai-pipeline .                                     for a CPU
#   docker build -t ai-pipeline --build-arg ACCELERATOR=cuda .        for GPUs
#   docker build -t ai-pipeline --build-arg TORCH_INDEX=<address> .   with torch and torchvision from another index
#   docker run --init -p 127.0.0.1:8000:8000 -p 127.0.0.1:7860:7860 --shm-size 2g -v data:/data -v cache:/cache ai-pipeline
#
# For a CPU torch comes from PyTorch's own CPU index, which brings no CUDA at all (scripts/torch-build). Where that can't be
# reached it is the registry's, which can't be imported without most of CUDA's libraries; what only a GPU ever loads is left
# out. No registry address stands here. Where the build must go through a mirror, these secrets say so, all optional;
# `scripts/container` makes them from how the machine is set up:
#
#   apt.conf     for apt
#   build.env    shell lines to export what pip and uv read, such as UV_DEFAULT_INDEX and SSL_CERT_FILE
#   build.pem    certificates, for build.env to name

# Debian, or anything else whose apt has Python 3.11 or later.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS base
# OpenCV links to libGL, but nothing is drawn with it: its drivers and their compiler (LLVM) go again in the same layer.
RUN --mount=type=secret,id=apt.conf,target=/etc/apt/apt.conf \
    apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates libgl1 libglib2.0-0 python3 \
    && rm -rf /usr/lib/*/dri /usr/lib/*/libLLVM* /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/* \
    && useradd --uid 10001 --home-dir /cache --no-create-home --shell /usr/sbin/nologin app \
    && install --directory --owner app --group app /data /cache


FROM base AS builder
ARG ACCELERATOR=cpu
ARG TORCH_INDEX=""
ARG UV_VERSION=0.13.9
ENV UV_CACHE_DIR=/tmp/uv-cache UV_LINK_MODE=copy UV_PYTHON=/app/.venv/bin/python PATH=/app/.venv/bin:$PATH
WORKDIR /app

RUN --mount=type=secret,id=apt.conf,target=/etc/apt/apt.conf \
    --mount=type=secret,id=build.env --mount=type=secret,id=build.pem \
    if [ -f /run/secrets/build.env ]; then . /run/secrets/build.env; fi \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-venv \
    && python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir "uv==$UV_VERSION" \
    && python3 -m venv --without-pip .venv

# requirements.lock pins; what is installed is what pyproject.toml asks for, without the tools of development; the client is
# that of the checkout. torch and
# torchvision must come from one build, and from TORCH_INDEX nothing else. Then go tests, what needs a compiler or Java,
# and, for a CPU, what only a GPU ever loads; the rest of CUDA is linked to the registry's torch.
COPY pyproject.toml requirements.lock ./
COPY scripts/torch-build scripts/
COPY client client/
RUN --mount=type=secret,id=build.env --mount=type=secret,id=build.pem --mount=type=cache,target=/tmp/uv-cache \
    if [ -f /run/secrets/build.env ]; then . /run/secrets/build.env; fi \
    && if [ -n "$TORCH_INDEX" ]; then \
        /opt/uv/bin/uv pip install --default-index "$TORCH_INDEX" --no-deps --constraint requirements.lock torch torchvision; \
    else \
        build=$(scripts/torch-build /opt/uv/bin/uv "$ACCELERATOR") && if [ "$build" = cpu ]; then set -- --torch-backend cpu; fi; \
    fi \
    && /opt/uv/bin/uv pip install "$@" --constraint requirements.lock --requirement pyproject.toml \
    && cd .venv/lib/python3*/site-packages \
    && rm -rf pandas/tests numpy/*/tests matplotlib/tests sympy/*/tests sympy/*/*/tests torch/include ray/jars \
    && if [ "$ACCELERATOR" = cpu ] && [ -d nvidia ]; then \
        /opt/uv/bin/uv pip uninstall triton \
        && find nvidia \( -name include -o -name 'libcudnn_*' -o -name 'libcusolver*' -o -name 'libcurand*' \
            -o -name 'libnvperf*' -o -name 'libnvshmem_device*' \) -prune -exec rm -r {} +; \
    fi

# An environment that can't import what the service runs ends the build here.
COPY . .
RUN /opt/uv/bin/uv pip install --offline --no-build-isolation --no-deps --editable client --editable . \
    && python -B -c "import cli.main, diffusers, open_clip, ray.serve, torchvision, ultralytics" \
    && { python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /app || true; }  # some ship templates named .py


FROM base
COPY --from=builder /app /app
# It listens on all addresses of the container without wanting API keys: the port mapping decides who reaches it, above
# this machine alone. For keys: `docker exec <container> ai-pipeline keys create --owner me`, then run with
# -e PIPELINE_KEYS=1, and -e PIPELINE_API_KEY=<the key> for the dashboard. For production: -e PIPELINE_INGRESS=haproxy;
# HAProxy comes with Ray.
# Libraries keep downloads and settings in their caches, the home or the working folder: all of them are the volume.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    PIPELINE_DATA_DIR=/data \
    PIPELINE_OPEN_TO_ANYONE=1
WORKDIR /cache
USER 10001:10001
VOLUME ["/data", "/cache"]
EXPOSE 8000 7860
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.getenv('PIPELINE_PORT', '8000') + '/readyz', timeout=5)"]
ENTRYPOINT ["ai-pipeline", "serve", "--host", "0.0.0.0"]
