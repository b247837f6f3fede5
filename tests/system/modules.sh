# The kernel modules named in $modules and all they depend on, uncompressed,
# with depmod's indexes.
#
# in: $root (the lab's kernel), $version, $id (changes when $root does), $modules, $out
set -eu
export PATH=/usr/sbin:/usr/bin LC_ALL=C
dst=$out/lib/modules/$version
mkdir -p "$dst"
cp "$root/lib/modules/$version/modules.order" "$root/lib/modules/$version/modules.builtin" \
    "$root/lib/modules/$version/modules.builtin.modinfo" "$dst/"
for m in $modules; do
    # It may be built in, but it must be there.
    modprobe -d "$root" -S "$version" --show-depends "$m" > show 2> err || {
        echo "kernel $version has no module $m:" >&2; cat err >&2; exit 1; }
    awk '$1 == "insmod" { print $2 }' show
done | sort -u | while read -r f; do
    rel=${f#"$root"/}; rel=${rel#lib/modules/"$version"/}; rel=${rel#usr/lib/modules/"$version"/}
    to=$dst/${rel%.xz}
    mkdir -p "${to%/*}"
    case $f in
        *.xz) xz -dc "$f" > "$to" ;;
        *) cp "$f" "$to" ;;
    esac
    strip --strip-debug "$to"
done
depmod -b "$out" "$version"
