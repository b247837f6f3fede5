# /etc/systemd/system: this system's own units, each its own store path, and
# what is wanted of those the packages bring.
#
# in: $own (store paths that hold one unit each), $wants (TARGET/UNIT), $masked, $out
set -eu
export PATH=/usr/sbin:/usr/bin LC_ALL=C
mkdir -p "$out"
for u in $own; do
    for f in "$u"/*; do ln -s "$f" "$out/${f##*/}"; done
done
for w in $wants; do
    t=${w%%/*} u=${w#*/}
    mkdir -p "$out/$t"
    if [ -e "$out/$u" ]; then ln -s "../$u" "$out/$t/$u"; else
        template=$(printf '%s' "$u" | sed 's/@.*\./@./')
        [ -e "$systemPath/usr/lib/systemd/system/$template" ] || { echo "no package has $template" >&2; exit 1; }
        ln -s "/usr/lib/systemd/system/$template" "$out/$t/$u"
    fi
done
for m in $masked; do ln -s /dev/null "$out/$m"; done
ln -s /usr/lib/systemd/system/multi-user.target "$out/default.target"
