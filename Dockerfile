# The agent as an image: one static program and the certificates of public authorities, nothing else.
# `make image` gives the context, a folder with both, which it made in the image of Dockerfile.builder.
FROM scratch
# Files first: a builder without BuildKit takes the platform over with the first file, and stumbles over anything before it.
COPY remora /remora
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENTRYPOINT ["/remora"]
CMD ["agent"]
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="remora" \
      org.opencontainers.image.description="An eBPF agent that turns a host's network traffic into a service map, golden signals and traces" \
      org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
