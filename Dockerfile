# The server. From the repository's root:
#   docker build -t visavis .                  CPU: InsTaG, pocketsphinx, flite and espeak-ng; no torch
#   docker build -t visavis:gpu --target gpu . FunASR too, with PyTorch for CUDA (some 6 GB); compose.yaml uses this one
#   docker run --network host visavis          then http://127.0.0.1:8080
# Its media are UDP: without the host's network, calls need a TURN server beside it, as in compose.yaml.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
RUN python -m venv /opt/visavis
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY scripts/requirements.py scripts/
# What it needs first: a change of ours does not fetch it all again.
RUN python scripts/requirements.py > needed.txt \
 && python scripts/requirements.py pocketsphinx instag endpointing tts >> needed.txt \
 && /opt/visavis/bin/pip install --only-binary :all: -r needed.txt
COPY client client
COPY configs configs
COPY evaluation evaluation
COPY render render
COPY server server
COPY tts tts

FROM build AS build-gpu
# Some of what FunASR needs comes as sources only.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential
RUN python scripts/requirements.py asr > needed.txt && /opt/visavis/bin/pip install -r needed.txt
RUN /opt/visavis/bin/pip install --no-deps .

FROM build AS build-cpu
RUN /opt/visavis/bin/pip install --no-deps .

FROM python:${PYTHON}-slim-bookworm AS base
RUN apt-get update \
 && apt-get install -y --no-install-recommends libflite1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --home-dir /data visavis
COPY configs /opt/visavis/configs
# /data: voices that were cloned, models that were fetched, kernels that were compiled.
ENV PATH=/opt/visavis/bin:$PATH PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/data/numba
VOLUME /data
WORKDIR /data
EXPOSE 8080
# 503 until the warm-up is over.
HEALTHCHECK --start-period=10m --interval=10s --timeout=5s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
STOPSIGNAL SIGTERM
USER visavis
ENTRYPOINT ["visavis"]
CMD ["serve"]

FROM base AS gpu
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/visavis /opt/visavis

FROM base AS cpu
COPY --from=build-cpu /opt/visavis /opt/visavis
