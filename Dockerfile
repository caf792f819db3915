# syntax=docker/dockerfile:1
# One image per program: docker build --target control-plane|edge-gateway|muster .
# Dependencies stay compiled in the cache mounts, so that a change of our code compiles our code only.

FROM rust:1.95-bookworm AS build
WORKDIR /src
# The image's own toolchain: rust-toolchain.toml would fetch it again with what only development needs.
ENV RUSTUP_TOOLCHAIN=1.95.0
COPY . .
ARG PROFILE=dist
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile "$PROFILE" -p control-plane -p edge-gateway -p muster \
    && mkdir /out \
    && cp "target/$PROFILE/control-plane" "target/$PROFILE/edge-gateway" "target/$PROFILE/muster" /out/ \
    && mkdir -p /data /site/control-plane /site/edge-gateway /site/grafana /site/demo

# No shell, no package manager; user 65532. `muster probe` is there for health checks.
FROM gcr.io/distroless/cc-debian12:nonroot AS base
COPY --from=build /out/muster /usr/local/bin/muster

FROM base AS control-plane
COPY --from=build /out/control-plane /usr/local/bin/control-plane
ENV MUSTER_LISTEN=0.0.0.0:30100 MUSTER_ADMIN_LISTEN=0.0.0.0:30101
EXPOSE 30100 30101
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s \
    CMD ["muster", "probe", "http://127.0.0.1:30101/ready"]
ENTRYPOINT ["control-plane"]

FROM base AS edge-gateway
COPY --from=build /out/edge-gateway /usr/local/bin/edge-gateway
ENV MUSTER_LISTEN=0.0.0.0:30100 MUSTER_ADMIN_LISTEN=0.0.0.0:30101
EXPOSE 30100 30101
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s \
    CMD ["muster", "probe", "http://127.0.0.1:30101/ready"]
ENTRYPOINT ["edge-gateway"]

# Everything in one container, with access control. The first command makes the keys and shows the password of root:
# docker run --rm -v site:/site muster init --fleet --dir /site
# docker run -e MUSTER_RBAC_ENABLE=true -e MUSTER_RBAC_PRIVATE_KEY=/site/control-plane/private.key \
#   -e MUSTER_RBAC_ROOT_PASSWORD=@/site/control-plane/root-password -v site:/site:ro \
#   -p 127.0.0.1:30100:30100 -v muster:/data muster
FROM base AS muster
COPY --from=build --chown=65532:65532 /data /data
# `muster init` writes here. A volume that is mounted on one of the directories takes over the owner of it.
COPY --from=build --chown=65532:65532 /site /site
ENV MUSTER_LISTEN=0.0.0.0:30100 MUSTER_DATA_DIR=/data
VOLUME /data
EXPOSE 30100
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s \
    CMD ["muster", "probe", "http://127.0.0.1:30100/ready"]
ENTRYPOINT ["muster"]
CMD ["standalone"]
