ARG PYTHON=3.12-slim
FROM python:${PYTHON} AS wheels
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# What compiles stays in this stage.
RUN apt-get update \
    # libpq is for psycopg
    && apt-get install -y --no-install-recommends gcc libpq-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements*.txt /tmp/
RUN pip wheel --wheel-dir /wheels -r /tmp/requirements.txt

FROM python:${PYTHON}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED="1" PATH="/opt/venv/bin:$PATH"
WORKDIR /srv
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels <<EOF
set -eu
python -m venv /opt/venv
/opt/venv/bin/pip install --no-index --find-links=/wheels /wheels/*
useradd --system --home /srv "app"
EOF
COPY --chown=app:app --chmod=u=rwX,go=rX src/ ./src/
COPY <<"PYTHON" <<-CONFIG /srv/
import os
print(f"${os.environ}")
PYTHON
	[server]
	port = ${PORT:-8000}
	CONFIG
USER app
EXPOSE 8000/tcp
VOLUME ["/srv/data", "/srv/logs"]
LABEL org.opencontainers.image.title="an app" \
      org.opencontainers.image.licenses='Apache-2.0'
ENTRYPOINT ["python", "-m", "src"]
CMD []
