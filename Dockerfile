# Both programs, and nothing else but the CA certificates: no shell, not root. docker build --build-arg VERSION=v1.2.3
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY internal internal
COPY lock lock
COPY manager manager
COPY store store
ARG VERSION=""
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w -X main.version=$VERSION" -o /out/ ./cmd/onetoken ./cmd/worker

# There is no HEALTHCHECK here, for the image runs more than the agent: onetoken healthcheck is the agent's, where it runs.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/onetoken /out/worker /usr/local/bin/
USER 65532:65532
ENV PATH=/usr/local/bin
ENTRYPOINT ["onetoken"]
