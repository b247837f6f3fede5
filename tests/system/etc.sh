# /etc, as activation links it.
#
# in: $packages, $systemPath, $overlay (files of this system), $systemUnits, $fstab,
#     $hostid (8 hex digits, or empty for none), $hostname, $osRelease, $authorizedKeys, $out
set -eu
export PATH=/usr/sbin:/usr/bin LC_ALL=C
e=$out/etc
mkdir -p "$e" "$out/users"
cp -r --no-preserve=mode "$overlay/." "$e/"
mv "$e/users" "$e/groups" "$out/users/"

# What the packages configure, and this system does not.
for p in $packages; do
    for f in avahi/hosts bash.bashrc bindresvport.blacklist dbus-1 ethertypes gai.conf host.conf libaudit.conf \
        login.defs mke2fs.conf netconfig protocols rpc services security ssh/moduli ssh/ssh_config ssl/openssl.cnf \
        tpm2-tss udev/udev.conf xattr.conf zfs; do
        [ -e "$p/etc/$f" ] || continue
        (cd "$p/etc" && find "$f" -type f) | while read -r x; do
            [ ! -e "$e/$x" ] || continue
            mkdir -p "$e/$(dirname "$x")"
            ln -s "$p/etc/$x" "$e/$x"
        done
    done
done

ln -s "$systemUnits" "$e/systemd/system"
printf '%s\n' "$fstab" > "$e/fstab"
printf '%s\n' "$hostname" > "$e/hostname"
printf '%s' "$osRelease" > "$e/os-release"
printf '127.0.0.1 localhost\n::1 localhost\n127.0.0.2 %s\n' "$hostname" > "$e/hosts"
[ -z "$hostid" ] || printf "\\x${hostid:6:2}\\x${hostid:4:2}\\x${hostid:2:2}\\x${hostid:0:2}" > "$e/hostid"
ln -s /run/systemd/resolve/stub-resolv.conf "$e/resolv.conf"
mkdir -p "$e/ssh/authorized_keys.d" "$e/modules-load.d"
# sshd refuses a file that it reaches through a directory a group may write, as the store is: a real file.
printf '%s\n' "$authorizedKeys" > "$e/ssh/authorized_keys.d/root"
echo 0444 > "$e/ssh/authorized_keys.d/root.mode"
echo zfs > "$e/modules-load.d/keystone.conf"
# Generators with nothing to do here. The first stumbles over /usr being a link,
# and everything this system mounts is in its fstab.
mkdir -p "$e/systemd/system-generators"
for g in systemd-gpt-auto systemd-bless-boot systemd-hibernate-resume systemd-integritysetup systemd-rc-local \
    systemd-ssh systemd-system-update systemd-sysv systemd-tpm2 systemd-veritysetup zfs-mount; do
    [ -e "$systemPath/usr/lib/systemd/system-generators/$g-generator" ] || { echo "no package has $g-generator" >&2; exit 1; }
    ln -s /dev/null "$e/systemd/system-generators/$g-generator"
done
