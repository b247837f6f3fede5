# The initrd: a zstd-compressed cpio archive of what $files names in the merged
# tree, each file at its own store path and linked from where the tree has it,
# with all that loading it needs.
#
# in: $systemPath, $modulesPath, $modules (names), $version, $files, $units, $bin,
#     $hostid, $hostname, $crypttab, $sysrootFstab, $poolDevices, $importDir,
#     $datasets, $osRelease, $out
set -eu
export PATH=/usr/sbin:/usr/bin LC_ALL=C
r=$PWD/root
mkdir -p "$r"/{dev,proc,sys,run,tmp,sysroot,usr,etc/credstore,etc/systemd/system,var}
for d in bin sbin lib lib64; do mkdir -p "$r/usr/$d"; ln -s "usr/$d" "$r/$d"; done
ln -s /run "$r/var/run"
declare -A have

# A store path's file, and the links that lead to it.
addStore() {
    local f=$1
    [ -z "${have[$f]:-}" ] || return 0
    have[$f]=1
    mkdir -p "$r$(dirname "$f")"
    if [ -L "$f" ]; then
        local to
        to=$(readlink "$f")
        case $to in /*) ;; *) to=$(realpath -s "$(dirname "$f")/$to") ;; esac
        ln -s "$to" "$r$f"
        addStore "$to"
        return
    fi
    [ -f "$f" ] || { echo "$f: no such file" >&2; exit 1; }
    cp "$f" "$r$f"
    chmod u+w "$r$f"
    if [ "$(head -c4 "$f" | tr -d '\0')" = $'\x7fELF' ]; then
        local lib
        for lib in $("$systemPath/usr/lib64/ld-linux-x86-64.so.2" --list "$f" 2>/dev/null |
            sed -nE 's/.*=> (\S+) .*/\1/p'); do
            case $lib in
                /nix/store/*) addStore "$lib"; addTree "lib/x86_64-linux-gnu/${lib##*/}" optional ;;
                # Found outside the store, in the default place: there it will be in the initrd as well.
                *) addTree "lib/x86_64-linux-gnu/${lib##*/}" ;;
            esac
        done
        local interp
        if interp=$(patchelf --print-interpreter "$f" 2>/dev/null); then
            case $interp in /nix/store/*) addStore "$interp" ;; esac
        fi
    fi
}

# A file of the merged tree, by its path below /usr.
addTree() {
    local p=$1 real
    [ -z "${have[tree/$p]:-}" ] || return 0
    have[tree/$p]=1
    if ! real=$(realpath -e "$systemPath/usr/$p" 2>/dev/null); then
        [ "${2:-}" = optional ] || { echo "usr/$p: not in the system" >&2; exit 1; }
        return 0
    fi
    mkdir -p "$r/usr/$(dirname "$p")"
    case $p in
        # Units and rules link to each other by relative paths and by name.
        *.wants/*) ln -s "../${p##*/}" "$r/usr/$p"; return ;;
    esac
    addStore "$real"
    [ -e "$r/usr/$p" ] || ln -s "$real" "$r/usr/$p"
}

sed -e 's/#.*//' "$files" | while read -r p; do
    [ -n "$p" ] || continue
    case $p in
        *'*') for f in "$systemPath"/usr/$p; do echo "${f#"$systemPath"/usr/}"; done ;;
        *) printf '%s\n' "$p" ;;
    esac
done > wanted
while read -r p; do addTree "$p"; done < wanted

ln -s usr/lib/systemd/systemd "$r/init"

# Kernel modules.
for m in $modules; do
    modprobe -d "$modulesPath" -S "$version" --show-depends "$m" | awk '$1 == "insmod" { print $2 }'
done | sort -u | while read -r f; do
    rel=${f#"$modulesPath"/}
    mkdir -p "$r/usr/$(dirname "$rel")"
    cp "$f" "$r/usr/$rel"
done
cp "$modulesPath/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$r/usr/lib/modules/$version/"
depmod -b "$r" "$version"

# Units of this system's own.
subst() {
    local text n
    text=$(cat "$1"; printf x)
    text=${text%x}
    for n in poolDevices importDir datasets; do text=${text//@$n@/"${!n}"}; done
    printf '%s' "$text"
}
if [ -z "$datasets" ]; then
    # No pool to import: what follows /etc/crypttab does the rest.
    zfs=
else
    zfs=1
fi
for u in "$units"/*; do
    case ${u##*/} in *rpool*) [ -n "$zfs" ] || continue ;; esac
    subst "$u" > "$r/etc/systemd/system/${u##*/}"
done
for b in "$bin"/*; do subst "$b" > "$r/usr/bin/${b##*/}"; chmod 0755 "$r/usr/bin/${b##*/}"; done
unit() { mkdir -p "$r/etc/systemd/system/$1"; cat > "$r/etc/systemd/system/$1/$2"; }
want() { mkdir -p "$r/etc/systemd/system/$1"; ln -s "../$2" "$r/etc/systemd/system/$1/$2"; }
[ -z "$zfs" ] || want initrd.target.requires rpool-load-key.service
want initrd.target.requires initrd-nixos-activation.service
want initrd.target.wants initrd-token.service
ln -s /usr/lib/systemd/system/initrd.target "$r/etc/systemd/system/default.target"
[ -z "$zfs" ] || unit initrd-switch-root.target.d credstore.conf <<'U'
[Unit]
# The credstore is closed before the machine's own system starts.
Conflicts=etc-credstore.mount systemd-cryptsetup@credstore.service
After=etc-credstore.mount systemd-cryptsetup@credstore.service
U
unit systemd-udevd.service.d cryptsetup.conf <<'U'
[Unit]
# Closing a container needs udev.
Before=systemd-cryptsetup@credstore.service systemd-cryptsetup@cryptroot.service
U
unit initrd-switch-root.service.d closure.conf <<'U'
[Service]
EnvironmentFile=-/etc/switch-root.conf
ExecStart=
ExecStart=systemctl --no-block switch-root /sysroot "${NEW_INIT}"
U
# /etc/initrd-release is what tells systemd where it runs.
printf '%s' "$osRelease" > "$r/etc/initrd-release"
cp "$r/etc/initrd-release" "$r/etc/os-release"
printf "\\x${hostid:6:2}\\x${hostid:4:2}\\x${hostid:2:2}\\x${hostid:0:2}" > "$r/etc/hostid"
echo "$hostname" > "$r/etc/hostname"
: > "$r/etc/machine-id"
printf '%s\n' "$crypttab" > "$r/etc/crypttab"
: > "$r/etc/fstab"
[ -z "$zfs" ] || cat > "$r/etc/fstab" <<'U'
/dev/mapper/credstore /etc/credstore ext4 defaults,x-systemd.after=systemd-cryptsetup@credstore.service 0 2
U
printf '%s\n' "$sysrootFstab" > "$r/etc/fstab.sysroot"
cat > "$r/etc/systemd/system.conf" <<'U'
[Manager]
DefaultEnvironment=PATH=/bin:/sbin
# Why a machine does not boot must be seen where there is nothing else to look at.
DefaultStandardError=journal+console
ManagerEnvironment=PATH=/bin:/sbin SYSTEMD_SYSROOT_FSTAB=/etc/fstab.sysroot
U
mkdir -p "$r/etc/systemd/journald.conf.d" "$r/etc/modules-load.d"
printf '[Journal]\nStorage=volatile\n' > "$r/etc/systemd/journald.conf.d/initrd.conf"
printf 'root:x:0:0::/root:/bin/bash\ntss:x:78:78::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n' > "$r/etc/passwd"
printf 'root:x:0:\ntty:x:5:\ndisk:x:8:\nkmem:x:15:\ndialout:x:20:\ncdrom:x:24:\naudio:x:29:\nvideo:x:44:\ninput:x:71:\nkvm:x:72:\nrender:x:73:\nsgx:x:75:\nclock:x:76:\ntss:x:78:\nlp:x:9:\nfloppy:x:25:\ntape:x:26:\nnogroup:x:65534:\n' > "$r/etc/group"
# No one logs into the initrd.
printf 'root:*:::::::\n' > "$r/etc/shadow"
printf 'passwd: files\ngroup: files\nshadow: files\n' > "$r/etc/nsswitch.conf"
mkdir -p "$r/root"

find "$r" -exec touch -h -d @1 {} +
mkdir -p "$out"
(cd "$r" && find . -mindepth 1 -print0 | sort -z | cpio --quiet --null -o -H newc --reproducible -R +0:+0) |
    zstd -q -T1 -15 -o "$out/initrd"
