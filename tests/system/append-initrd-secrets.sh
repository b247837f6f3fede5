#! @bash@/usr/bin/bash
# append-initrd-secrets INITRD: appends what only this machine has.
set -euo pipefail
export PATH=@path@
[ $# = 1 ] || { echo "Usage: $0 INITRD" >&2; exit 1; }
[ -s /var/lib/initrd-token/token ] || { echo "/var/lib/initrd-token/token: no such secret" >&2; exit 1; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/initrd-secrets.XXXXXXXXXX")
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/etc"
cp /var/lib/initrd-token/token "$tmp/etc/initrd-token"
(cd "$tmp" && find . -mindepth 1 | sort | cpio --quiet -o -H newc -R +0:+0 | gzip -9) >> "$1"
