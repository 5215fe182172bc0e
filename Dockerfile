# syntax=docker/dockerfile:1

# --- build: the production dependencies, pinned by hash, in an environment of their own ---
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/switchboard
# `docker build --build-arg LOCK=requirements-semantic.lock` makes an image with the models of EMBEDDINGS, 400 MB larger.
ARG LOCK=requirements.lock
COPY requirements.lock requirements-semantic.lock ./
RUN /opt/switchboard/bin/pip install --require-hashes -r $LOCK

# --- run: that environment and the source, nothing that builds ---
FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home switchboard
COPY --from=build /opt/switchboard /opt/switchboard
WORKDIR /srv/switchboard
COPY alembic.ini pyproject.toml LICENSE NOTICE ./
COPY alembic alembic
COPY app app
COPY agents agents
COPY docs docs
COPY docker/switchboard /usr/local/bin/switchboard
COPY docker/health.py /usr/local/lib/switchboard/health.py
ENV PATH=/opt/switchboard/bin:$PATH \
    PYTHONPATH=/srv/switchboard \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    DB_MCP_HOST=0.0.0.0 \
    KAFKA_MCP_HOST=0.0.0.0 \
    AWS_MCP_HOST=0.0.0.0 \
    PORT=8000 \
    LOG_FORMAT=json
# On 0.0.0.0 `serve` asks for keys, so it wants one: SWITCHBOARD_FIRST_KEY, or [auth] in switchboard.toml.
USER 10001
EXPOSE 8000
# Liveness: what listens answers, wherever it was told to. /ready tells which backends do.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["python", "/usr/local/lib/switchboard/health.py"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["switchboard"]
CMD ["serve"]
