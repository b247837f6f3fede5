# The kernel image.
#
# in: $root (the lab's kernel), $version, $id (changes when $root does), $out
export PATH=/usr/sbin:/usr/bin LC_ALL=C
mkdir -p "$out"
cp "$root/vmlinuz" "$out/bzImage"
