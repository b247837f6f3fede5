# Makes a store below $1 from this machine's installed packages. Names and contents depend on
# nothing but those.
set -eo pipefail
export LC_ALL=C
root=$1
store=$root/nix/store
chmod -R u+w "$root" 2>/dev/null || true
rm -rf "$root"/nix "$root"/list.* "$root"/references.*
mkdir -p "$store"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

# A store path's name: nix32 letters from a hash of what it is called.
name() { printf '%s' "$1-$2" | sha256sum | tr -d 'e' | tr 'a-f' 'vwxyzz' | cut -c1-32 | tr -d '\n'; printf -- '-%s' "$1"; }
canonical() {
    find "$1" -type f -perm /111 -exec chmod 00555 {} +
    find "$1" -type f ! -perm /111 -exec chmod 0444 {} +
    find "$1" -type d -exec chmod 00555 {} +
    chown -hR 0:0 "$1"
    find "$1" -exec touch -h -d @1 {} +
}
# path, then its references
register() { printf '%s\n' "$*" >> "$root/references.$generation"; }

generation=1
packages=0 bytes=0
declare -A place
for list in /var/lib/dpkg/info/*.list; do
    package=$(basename "$list" .list); package=${package%%:*}
    [ -n "${place[$package]}" ] && continue
    size=$(dpkg-query -W -f '${Installed-Size}' "$package" 2>/dev/null || echo 0)
    # KiB, as the package says.
    [ "${size:-0}" -ge 100 ] && [ "$size" -le 60000 ] || continue
    to=$(name "$package" 1)
    # /lib and the like are links.
    sed -E 's,^/(lib|lib64|bin|sbin)(/|$),/usr/\1\2,; s,^/,,; /^\.$/d' "$list" > "$temporary/list"
    mkdir "$store/$to"
    tar -C / --no-recursion --ignore-failed-read -T "$temporary/list" -cf - 2>/dev/null | tar -C "$store/$to" --no-same-owner -xf -
    found=$(du -s --apparent-size -B1 "$store/$to" | cut -f1)
    if [ "$found" -lt 60000 ]; then rm -rf "${store:?}/$to"; continue; fi
    canonical "$store/$to"
    references=
    for need in $(dpkg-query -W -f '${Depends}' "$package" | tr ',|' '\n\n' | sed 's/(.*//; s/:any//'); do
        [ -n "${place[$need]}" ] && references="$references ${place[$need]}"
    done
    place[$package]=$to
    register "$to" $references
    packages=$((packages + 1)) bytes=$((bytes + found))
    [ "$packages" -ge 185 ] && break
    [ "$bytes" -ge 1000000000 ] && break
done

# Unit-like paths of one small file, an etc of links to them, and the odd ones.
units=
for i in $(seq 100); do
    to=$(name "unit-$i.service" 1)
    mkdir "$store/$to"; printf '[Unit]\nDescription=Service %s\n[Service]\nExecStart=/nix/store/%s\n' "$i" "$to" > "$store/$to/unit-$i.service"
    canonical "$store/$to"; register "$to"; units="$units $to"
done
etc=$(name etc 1); mkdir -p "$store/$etc/systemd"
for unit in $units; do ln -s "/nix/store/$unit" "$store/$etc/systemd/${unit#*-}"; done
canonical "$store/$etc"; register "$etc" $units
big=$(name "big-file" 1)
# 200 MB of programs, one after another.
find /usr/bin /usr/lib -xdev -type f -size +1000k -print0 | sort -z | xargs -0 cat 2>/dev/null | head -c 209715200 > "$store/$big" || true
[ "$(stat -c %s "$store/$big")" -eq 209715200 ]
canonical "$store/$big"; register "$big"
tiny=$(name "tiny-files" 1); mkdir "$store/$tiny"
for i in $(seq 4000); do mkdir -p "$store/$tiny/$((i % 40))"; printf 'file %s\n' "$i" > "$store/$tiny/$((i % 40))/$i"; done
canonical "$store/$tiny"; register "$tiny"
odd=$(name "odd-names" 1); mkdir -p "$store/$odd/empty" "$store/$odd/deep/er/and/deeper"
: > "$store/$odd/empty-file"; printf x > "$store/$odd/a~nix~case~hack~1"; printf y > "$store/$odd/name with spaces and ü"
printf z > "$store/$odd/"$'line\nbreak'; ln -s /nowhere/at/all "$store/$odd/dangling"; printf '#!/bin/sh\n' > "$store/$odd/program"; chmod +x "$store/$odd/program"
canonical "$store/$odd"; register "$odd"
script=$(name "script" 1); printf '#!/bin/sh\n' > "$store/$script"; chmod +x "$store/$script"; canonical "$store/$script"; register "$script"
top=$(name "system" 1); mkdir "$store/$top"; ln -s "/nix/store/$etc" "$store/$top/etc"; canonical "$store/$top"
register "$top" "$top" "$etc" "$big" "$tiny" "$odd" "$script" ${place[@]}
echo "/nix/store/$top" > "$root/list.1.top"

# A second generation, of which about a twentieth is new.
generation=2
changed=0 new=
declare -A replaced
for package in $(printf '%s\n' "${!place[@]}" | sort); do
    [ "$changed" -ge $((bytes / 20)) ] && break
    old=${place[$package]}
    size=$(du -s --apparent-size -B1 "$store/$old" | cut -f1)
    [ "$size" -le 12000000 ] || continue
    to=$(name "$package" 2); cp -a "$store/$old" "$store/$to"; chmod -R u+w "$store/$to"
    # As a rebuild does: every file is a little different.
    find "$store/$to" -type f -size +0 -exec sh -c 'for f; do printf "%s" "$0" >> "$f"; done' "$to" {} +
    canonical "$store/$to"; register "$to"; replaced[$package]=$to
    changed=$((changed + size)) new="$new $to"
done
top2=$(name "system" 2); mkdir "$store/$top2"; ln -s "/nix/store/$etc" "$store/$top2/etc"; canonical "$store/$top2"
for package in "${!place[@]}"; do [ -n "${replaced[$package]}" ] || new="$new ${place[$package]}"; done
register "$top2" "$top2" "$etc" "$big" "$tiny" "$odd" "$script" $new
echo "/nix/store/$top2" > "$root/list.2.top"
