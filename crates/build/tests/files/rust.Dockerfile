FROM rust:1.90-bookworm AS build
WORKDIR /app
RUN --mount=type=bind,source=src,target=src \
    --mount=type=bind,source=Cargo.toml,target=Cargo.toml \
    --mount=type=bind,source=Cargo.lock,target=Cargo.lock \
    --mount=type=cache,id=target-$TARGETARCH,target=/app/target/ \
    --mount=type=cache,target=/usr/local/cargo/registry/ <<'SH'
#!/bin/bash
set -euo pipefail
shifted=$((1 << 4))
cargo build --locked --release
cp ./target/release/server /bin/server
SH

FROM debian:bookworm-slim
ARG UID=10001
RUN adduser --disabled-password --gecos "" --home /nonexistent --shell /sbin/nologin --no-create-home \
        --uid "${UID}" appuser; \
    cat <<EOF >/etc/motd; \
    echo done
It is ${UID}.
EOF
USER appuser
COPY --from=build /bin/server /bin/
CMD ["/bin/server"]
