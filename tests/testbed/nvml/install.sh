#!/bin/sh
# Build the mock and lay it out below a directory that is then copied to a host's root: install.sh DESTDIR
# Needs gcc, make, python3 and nvml.h (Debian 13: gcc libc6-dev make python3 libnvidia-ml-dev). NVML_H in the
# environment names another nvml.h.
set -eu

destdir=${1:?usage: install.sh DESTDIR}
here=$(cd "$(dirname "$0")" && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

make -C "$here" NVML_H="${NVML_H:-/usr/include/nvml.h}" OUT="$build"

# /usr/local/lib is the first directory that Debian's ld.so.conf.d names: the mock wins over a packaged libnvidia-ml1.
install -D -m 0644 "$build/libnvidia-ml.so.1" "$destdir/usr/local/lib/libnvidia-ml.so.1"
install -d "$destdir/usr/local/sbin"
{ echo '#!/usr/bin/python3'; cat "$here/faults.py"; } > "$destdir/usr/local/sbin/gpu-fault"
chmod 0755 "$destdir/usr/local/sbin/gpu-fault"
install -D -m 0644 -t "$destdir/usr/share/nvml-mock/profiles" "$here"/profiles/*.ini
install -D -m 0644 "$here/profiles/h800.ini" "$destdir/etc/nvml-mock/profile.ini"
