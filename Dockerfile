# The self-hosted gateway: `kontract serve` with the application in src/app.
#
#   docker build --tag kontract-app .
#
# The same image migrates the database: docker run --rm --env DATABASE_URL kontract-app migrate --coordination
#
# A tag can be moved by whoever owns it. For a build that stays the same, name the base image by digest too:
#   --build-arg PYTHON_IMAGE=python:3.14.6-slim-trixie@sha256:...
# `docker buildx imagetools inspect python:3.14.6-slim-trixie` prints it. Packages need nothing of the kind: uv.lock has
# the hash of every file.
ARG PYTHON_IMAGE=python:3.14.6-slim-trixie

FROM ${PYTHON_IMAGE} AS builder

# The version that wrote uv.lock. Its own build backend makes the project, so nothing outside of the lock is fetched.
ARG UV_VERSION=0.13.8
RUN pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1

# The same place in both stages: a virtual environment knows where it is.
WORKDIR /opt/kontract

# Packages first: this layer is made anew only when they change. Wheels alone, so no compiler is needed anywhere.
# `--build-arg EXTRAS="--extra server"` leaves the TiKV client and gRPC out.
ARG EXTRAS="--extra server --extra tikv"
COPY pyproject.toml uv.lock ./
# hadolint ignore=SC2086
RUN uv sync --locked --no-default-groups ${EXTRAS} --no-install-project --no-build

COPY README.md wrangler.toml ./
COPY sql sql
COPY public public
COPY src src
# Routes are compiled here, and bytecode too: the final file system is read-only. Importing the application finds a
# package that is missing now, not at its first call.
# hadolint ignore=SC2086
RUN uv sync --locked --no-default-groups ${EXTRAS} \
    && rm -f .venv/.lock \
    && .venv/bin/kontract build \
    && rm -rf .kontract \
    && .venv/bin/python -m compileall -q src \
    && .venv/bin/python -c "import kontract.gateway.app, pkgutil, app; \
[__import__(m.name) for m in pkgutil.walk_packages(app.__path__, 'app.')]"
COPY deploy/container/healthcheck.py deploy/container/


FROM ${PYTHON_IMAGE}

ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kontract-app" \
      org.opencontainers.image.description="A Kontract backend: transactional functions over PostgreSQL" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"

# By number, so that Kubernetes can see that it is not root.
RUN groupadd --system --gid 10001 kontract \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /opt/kontract \
       --shell /usr/sbin/nologin kontract

# Everything stays root's: the process cannot change its own code.
WORKDIR /opt/kontract
COPY --from=builder /opt/kontract /opt/kontract

ENV PATH=/opt/kontract/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KONTRACT_HOST=0.0.0.0 \
    PORT=8787
USER 10001:10001
EXPOSE 8787

# SIGTERM begins the orderly end, which takes 27 seconds at most: `docker stop --time 40`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=30s --retries=3 \
    CMD ["python", "-I", "/opt/kontract/deploy/container/healthcheck.py"]
ENTRYPOINT ["kontract"]
CMD ["serve"]
