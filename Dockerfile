# All environments of wakekit, each a target: inference, service, data-prep, training, dev (and tracking, an MLflow server).
# docker-compose.yml builds what it needs; by hand: docker build --target inference -t wakekit-inference .
# Plain instructions only, so that the builder of old engines (a Jetson's) takes it, too.
# Where BASE_IMAGE brings a torch of its own (a Jetson's), that one is kept.
ARG BASE_IMAGE=python:3.11-slim

# ---- What every image has: a user that is not root, folders, and what is said first
FROM ${BASE_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore \
    HOME=/home/wakekit USER=wakekit WAKEKIT_DATA_DIR=/data WAKEKIT_MODELS_DIR=/models WAKEKIT_LOGS_DIR=/logs WAKE_TRAINING_DATA_DIR=/data/wake-training \
    PYTHONPATH=/opt/wakekit/lib PATH=/opt/wakekit/lib/bin:${PATH}
# any user may be asked for when it is started (the owner of the folders on the host), so its home is open
RUN mkdir -p /data/wake-training /models /logs /home/wakekit /opt/wakekit \
 && echo "wakekit:x:1000:1000::/home/wakekit:/usr/sbin/nologin" >> /etc/passwd && echo "wakekit:x:1000:" >> /etc/group \
 && chown -R 1000:1000 /data /models /logs /home/wakekit && chmod 1777 /home/wakekit
COPY docker/requirements.py settings.ini constraints.txt /opt/wakekit/
WORKDIR /home/wakekit

# wakekit itself, which changes more often than its packages: copied on top of them
FROM base AS code
COPY . /src
RUN python3 -m pip install --no-deps --target /opt/wakekit/lib /src

# ---- Detection: no torch
FROM base AS inference-packages
# The tested versions; empty where the base image's Python is older than they allow (JetPack 6 has 3.10): then the ranges of settings.ini
ARG CONSTRAINTS=/opt/wakekit/constraints.txt
RUN python3 /opt/wakekit/requirements.py --constraints "${CONSTRAINTS}" core serve wyoming actions

FROM inference-packages AS inference
# onnxruntime-gpu in its place, with CUDA's libraries, for a model server on a GPU; of the newest version that there is
ARG ORT=onnxruntime
RUN if [ "${ORT}" != onnxruntime ]; then python3 -m pip uninstall -y onnxruntime && python3 -m pip install --no-cache-dir "${ORT}[cuda,cudnn]"; fi
ARG VERSION=unknown
LABEL org.opencontainers.image.title="wakekit inference" org.opencontainers.image.description="Detection API, model server, Wyoming" \
      org.opencontainers.image.source="https://github.com/wakekit/wakekit" org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version="${VERSION}"
COPY docker/health.py /opt/wakekit/
COPY --from=code /opt/wakekit/lib /opt/wakekit/lib
USER 1000:1000
EXPOSE 8000 8001 10400
ENTRYPOINT ["python3", "-m", "wakekit.container"]
CMD ["wakekit", "serve", "detect", "--host", "0.0.0.0"]
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=3 CMD ["python3", "-I", "/opt/wakekit/health.py", "http://127.0.0.1:8000/health"]

# ---- The training service without its worker, and the dashboard: no torch. It speaks clips and looks through recordings itself, so it has the packages of data-prep
FROM inference-packages AS service-packages
ARG CONSTRAINTS=/opt/wakekit/constraints.txt
RUN python3 /opt/wakekit/requirements.py --constraints "${CONSTRAINTS}" postgres data dashboard

FROM service-packages AS service
ARG VERSION=unknown
LABEL org.opencontainers.image.title="wakekit service" org.opencontainers.image.description="Training service, dashboard" \
      org.opencontainers.image.source="https://github.com/wakekit/wakekit" org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version="${VERSION}"
COPY docker/health.py /opt/wakekit/
COPY --from=code /opt/wakekit/lib /opt/wakekit/lib
USER 1000:1000
EXPOSE 8080 7860
ENTRYPOINT ["python3", "-m", "wakekit.container"]
CMD ["wakekit", "serve", "training", "--host", "0.0.0.0", "--no-worker"]
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=3 CMD ["python3", "-I", "/opt/wakekit/health.py", "http://127.0.0.1:8080/health"]

# ---- Speaking and importing in batches: no torch
FROM inference-packages AS data-prep-packages
ARG CONSTRAINTS=/opt/wakekit/constraints.txt
RUN python3 /opt/wakekit/requirements.py --constraints "${CONSTRAINTS}" postgres data

FROM data-prep-packages AS data-prep
ARG VERSION=unknown
LABEL org.opencontainers.image.title="wakekit data-prep" org.opencontainers.image.description="Synthesis and import of clips" \
      org.opencontainers.image.source="https://github.com/wakekit/wakekit" org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version="${VERSION}"
COPY docker/health.py /opt/wakekit/
COPY --from=code /opt/wakekit/lib /opt/wakekit/lib
USER 1000:1000
ENTRYPOINT ["python3", "-m", "wakekit.container"]
CMD ["wakekit", "data", "--help"]

# ---- Training
FROM inference-packages AS training-packages
# Where torch comes from: its build for processors, or https://download.pytorch.org/whl/cu126 for NVIDIA's GPUs; empty: only PyPI
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG CONSTRAINTS=/opt/wakekit/constraints.txt
RUN python3 /opt/wakekit/requirements.py --torch "${TORCH_INDEX}" --constraints "${CONSTRAINTS}" postgres train track tune

FROM training-packages AS training
ARG VERSION=unknown
LABEL org.opencontainers.image.title="wakekit training" org.opencontainers.image.description="Worker: training, evaluation, export" \
      org.opencontainers.image.source="https://github.com/wakekit/wakekit" org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version="${VERSION}"
COPY docker/health.py /opt/wakekit/
COPY --from=code /opt/wakekit/lib /opt/wakekit/lib
USER 1000:1000
ENTRYPOINT ["python3", "-m", "wakekit.container"]
CMD ["wakekit", "worker"]
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 CMD ["wakekit", "worker", "--check"]

# ---- JupyterLab with everything, and the notebooks of this repository
FROM training-packages AS dev-packages
ARG CONSTRAINTS=/opt/wakekit/constraints.txt
RUN python3 /opt/wakekit/requirements.py --constraints "${CONSTRAINTS}" dashboard notebook dev

FROM dev-packages AS dev
ARG VERSION=unknown
LABEL org.opencontainers.image.title="wakekit dev" org.opencontainers.image.description="JupyterLab with the guides" \
      org.opencontainers.image.source="https://github.com/wakekit/wakekit" org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version="${VERSION}"
COPY docker/health.py /opt/wakekit/
COPY --from=code /opt/wakekit/lib /opt/wakekit/lib
COPY nbs /opt/wakekit/notebooks
USER 1000:1000
EXPOSE 8888
ENTRYPOINT ["python3", "-m", "wakekit.container"]
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser", "--ServerApp.root_dir=/data/notebooks"]
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["python3", "-I", "/opt/wakekit/health.py", "http://127.0.0.1:8888/api"]

# ---- MLflow, for the profile "monitoring": its server only
FROM ${BASE_IMAGE} AS tracking
ARG MLFLOW_VERSION=3.17.2
RUN python3 -m pip install --no-cache-dir "mlflow==${MLFLOW_VERSION}" && mkdir /mlflow && chown 1000:1000 /mlflow
COPY docker/health.py /opt/wakekit/
USER 1000:1000
ENV HOME=/tmp USER=wakekit
EXPOSE 5000
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--backend-store-uri", "sqlite:////mlflow/mlflow.db", "--artifacts-destination", "/mlflow/artifacts", "--allowed-hosts", "*"]
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["python3", "-I", "/opt/wakekit/health.py", "http://127.0.0.1:5000/health"]
