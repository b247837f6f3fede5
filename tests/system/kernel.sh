# The kernel image of a Debian root.
#
# in: $root, $version, $id (changes when the file does), $out
export PATH=/usr/sbin:/usr/bin LC_ALL=C
mkdir -p "$out"
cp "$root/boot/vmlinuz-$version" "$out/bzImage"
