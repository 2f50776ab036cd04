#!/bin/sh
# Makes what the agent and Prometheus need to trust each other, once: a self-signed certificate and a bearer key. Each of the
# two gets a folder with its own files, which nobody else can read: $AGENT_KEYS with cert.pem, key.pem and keys, and
# $PROMETHEUS_KEYS with cert.pem and key. Needs Go's source, as the golang image has it, and no network.
# In the names of the certificate, $NAMES, the first is the agent's in the compose network.
set -eu
umask 077
agent=${AGENT_KEYS:?} prometheus=${PROMETHEUS_KEYS:?}
[ ! -e "$prometheus/key" ] || exit 0 # it is written last

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
HOME=$dir GOCACHE=${GOCACHE:-$dir/cache} GOFLAGS='' \
	go run "$(go env GOROOT)/src/crypto/tls/generate_cert.go" -host "${NAMES:?}" -ecdsa-curve P256 -duration 87600h 2>log ||
	{ cat log >&2; exit 1; }
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >key

# give FILE OWNER PLACE moves a copy into its place whole. Only root can give files away; elsewhere they stay ours.
give() {
	cp "$1" "$3.new"
	chmod 0400 "$3.new"
	[ "$(id -u)" -ne 0 ] || chown "$2" "$3.new"
	mv "$3.new" "$3"
}
give cert.pem "${AGENT_USER:-65532}" "$agent/cert.pem"
give key.pem "${AGENT_USER:-65532}" "$agent/key.pem"
give key "${AGENT_USER:-65532}" "$agent/keys"
give cert.pem "${PROMETHEUS_USER:-65534}" "$prometheus/cert.pem"
give key "${PROMETHEUS_USER:-65534}" "$prometheus/key"
