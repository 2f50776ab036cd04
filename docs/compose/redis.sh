#!/bin/sh
# Runs Redis, with the given arguments, for the users of users.acl. Their passwords come from the environment; Redis gets
# the digests, in a file, so that neither stands among a process's arguments.
set -eu
umask 077
digest() { printf %s "$1" | sha256sum | cut -d' ' -f1; }
dir=$(mktemp -d)
sed -e "s/ADMIN_SHA256/$(digest "${REDIS_ADMIN_PASSWORD:?}")/" \
	-e "s/ONETOKEN_SHA256/$(digest "${ONETOKEN_REDIS_PASSWORD:?}")/" \
	-e "s/OPS_SHA256/$(digest "${ONETOKEN_OPS_PASSWORD:?}")/" "$(dirname "$0")/users.acl" >"$dir/users.acl"
# Nothing is kept over a restart: a token that is lost is fetched again.
exec redis-server --dir "$dir" --aclfile "$dir/users.acl" --save "" --appendonly no "$@"
