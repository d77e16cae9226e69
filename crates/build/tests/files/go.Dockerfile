# syntax=docker/dockerfile:1.7-labs
# check=error=true
FROM --platform=$BUILDPLATFORM golang:1.24 AS build
ARG TARGETOS TARGETARCH
WORKDIR /src
RUN --mount=type=cache,target=/go/pkg/mod/ \
    --mount=type=bind,source=go.sum,target=go.sum \
    --mount=type=bind,source=go.mod,target=go.mod \
    go mod download -x
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod/,sharing=locked --mount=type=bind,target=. \
    --mount=type=ssh,required=false --network=default \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -ldflags="-s -X main.version=${VERSION#v}" -o /bin/server .

FROM scratch AS binary
COPY --link --from=build /bin/server /

FROM gcr.io/distroless/static-debian12:nonroot
COPY --link --from=binary /server /server
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d --chmod=644 https://mirrors.edge.kernel.org/pub/linux/kernel/Historic/linux-0.01.tar.gz /
ADD --keep-git-dir=true https://github.com/moby/buildkit.git#v0.10.1:docs /buildkit-docs
ENTRYPOINT ["/server"]
