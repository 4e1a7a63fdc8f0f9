#!/bin/sh
# Writes the files that a trusted host needs, with the paths of this machine, from host/*.in into build/host/.
# usage: host_files.sh PROGRAM OUT [BUILT]; PROGRAM is where it will run; its libraries are those that BUILT (or PROGRAM)
# loads here.
# What else may be set: MODEL, PUBLISHER, RELEASE, MEMORY, MEMLOCK, CREDENTIALS, ENCLAVE, THREADS.
set -eu
program=$1 out=$2 built=${3:-$1} here=$(dirname "$0")/..
MODEL=${MODEL:-/srv/sotto/model.sealed}
PUBLISHER=${PUBLISHER:-/srv/sotto/publisher.pub}
RELEASE=${RELEASE:-https://release.example:7797}
MEMORY=${MEMORY:-1G}
MEMLOCK=${MEMLOCK:-4G}
CREDENTIALS=${CREDENTIALS:-/etc/sotto}
ENCLAVE=${ENCLAVE:-16G}
THREADS=${THREADS:-64}
mkdir -p "$out"

libraries=$(ldd "$built" | sed -n 's|.*=> \(/[^ ]*\) .*|\1|p; s|^\t\(/[^ ]*\) .*|\1|p' | sort -u)
# Gramine brings its own C library, and mounts it at /lib.
own='/(libc|libm|libdl|libpthread|librt|libresolv|libanl|libutil|libcrypt|ld-linux[^/]*)\.so'
list=$(printf '%s\n' "$libraries" | grep -Ev "$own" || true)
trusted=$(printf '%s\n' "$list" | sed 's|.*|  "file:&",|')
mounts=$(printf '%s\n' "$list" | sed 's|.*|  { path = "&", uri = "file:&" },|')
path=/lib:$(printf '%s\n' "$list" | sed 's|/[^/]*$||' | sort -u | paste -sd:)

# Long lists go in by file: sed takes no line ends in a replacement.
printf '%s\n' "$trusted" >"$out/trusted.tmp"
printf '%s\n' "$mounts" >"$out/mounts.tmp"
for template in "$here"/host/*.in; do
  file=$out/$(basename "$template" .in)
  sed -e "/@TRUSTED@/{r $out/trusted.tmp
d}" -e "/@MOUNTS@/{r $out/mounts.tmp
d}" -e "s|@SOTTO@|$program|g; s|@MODEL@|$MODEL|g; s|@MODEL_DIR@|$(dirname "$MODEL")|g; s|@PUBLISHER@|$PUBLISHER|g" \
    -e "s|@RELEASE@|$RELEASE|g; s|@MEMORY@|$MEMORY|g; s|@MEMLOCK@|$MEMLOCK|g; s|@CREDENTIALS@|$CREDENTIALS|g" \
    -e "s|@ENCLAVE@|$ENCLAVE|g; s|@THREADS@|$THREADS|g; s|@LIBRARY_PATH@|$path|g" "$template" >"$file"
  echo "$file"
done
rm -f "$out/trusted.tmp" "$out/mounts.tmp"
