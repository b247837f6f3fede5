#! @bash@/usr/bin/bash
# Brings the machine's state in line with this system, as NixOS's activation
# script does: run by the installer in its chroot, and again at every boot
# before the machine's own systemd starts. A part that fails is reported and
# the others still run; the exit status tells.

systemConfig=@out@
export PATH=@path@
unset LD_LIBRARY_PATH
umask 0022

status=0
failed() {
    status=1
    echo "Activation script snippet '$1' failed ($2)" >&2
}

# Special file systems: mounted where they are missing, and given the options
# of this system where they are already there.
specialMount() {
    local device=$1 mountPoint=$2 options=$3 fsType=$4
    if mountpoint -q "$mountPoint"; then
        options=remount,$options
    else
        mkdir -p "$mountPoint"
        chmod 0755 "$mountPoint"
    fi
    mount -t "$fsType" -o "$options" "$device" "$mountPoint" || failed specialfs $?
}
specialMount proc /proc nosuid,noexec,nodev proc
specialMount devtmpfs /dev nosuid,strictatime,mode=755,size=5% devtmpfs
specialMount devpts /dev/pts nosuid,noexec,mode=620,ptmxmode=0666,gid=5 devpts
specialMount tmpfs /dev/shm nosuid,nodev,strictatime,mode=1777,size=50% tmpfs
specialMount tmpfs /run nosuid,nodev,strictatime,mode=755,size=25% tmpfs
specialMount ramfs /run/keys nosuid,nodev,mode=750 ramfs

echo "setting up the file system hierarchy..."
hierarchy() {
    local name
    # /usr and its old names: everything in them lies in the store.
    ln -sfn "@systemPath@/usr" /.usr.new && mv -T /.usr.new /usr || return
    for name in bin sbin lib lib64; do
        [ -L "/$name" ] || ln -s "usr/$name" "/$name" || return
    done
    mkdir -m 01777 -p /tmp /var/tmp
    mkdir -m 0700 -p /root
    mkdir -m 0755 -p /home /srv /mnt /boot /sys /var/log /var/lib /var/cache /var/spool /nix/var/nix/gcroots
    [ -L /var/run ] || ln -sfn /run /var/run
    [ -L /var/lock ] || ln -sfn /run/lock /var/lock
    mkdir -m 0755 -p /run/lock
}
hierarchy || failed hierarchy $?

# No program can put files into the home of users that have none. Not every
# file system knows the attribute.
mkdir -p /var/empty
chattr -f -i /var/empty || true
find /var/empty -mindepth 1 -delete
chmod 0555 /var/empty
chown 0:0 /var/empty
chattr -f +i /var/empty || true

echo "setting up /etc..."
setupEtc() {
    local file source dir
    declare -A is
    mkdir -p /etc
    ln -sfn "@etc@/etc" /etc/.static.new && mv -T /etc/.static.new /etc/static || return
    # What is there, found at once: at most boots, nothing has changed.
    while IFS=$'\t' read -r file source; do is[$file]=$source; done <<< "$(find /etc -xdev -type l -printf '%P\t%l\n')"
    while read -r file; do
        case $file in *.mode | '') continue ;; esac
        source=/etc/static/$file
        dir=/etc/$file
        dir=${dir%/*}
        [ -d "$dir" ] || mkdir -p "$dir"
        if [ -e "$source.mode" ]; then
            # A real file, for programs that mind where a link leads.
            install -m "$(cat "$source.mode")" "$source" "/etc/.$$.new"
            mv -T "/etc/.$$.new" "/etc/$file"
        elif [ "${is[$file]:-}" != "$source" ]; then
            if [ -d "/etc/$file" ] && [ ! -L "/etc/$file" ]; then
                echo "/etc/$file is a directory, and this system wants a link there" >&2
                return 1
            fi
            ln -s "$source" "/etc/.$$.new" && mv -T "/etc/.$$.new" "/etc/$file" || return
        fi
    done <<< "$(find /etc/static/ \( -type l -o -type f \) -printf '%P\n')"
    # Links of an earlier system that this one no longer has.
    for file in "${!is[@]}"; do
        case ${is[$file]} in
            /etc/static/*) [ -e "/etc/$file" ] || [ -L "/etc/static/$file" ] || rm -f "/etc/$file" ;;
        esac
    done
    # The mark of a NixOS system.
    [ -e /etc/NIXOS ] || : > /etc/NIXOS
}
setupEtc || failed etc $?

echo "setting up users and groups..."
users() {
    local name uid gid group home shell members rest
    declare -A isUser isGroup isShadow
    touch /etc/passwd /etc/group /etc/shadow || return
    while IFS=: read -r name rest; do isUser[$name]=1; done < /etc/passwd
    while IFS=: read -r name rest; do isShadow[$name]=1; done < /etc/shadow
    while IFS=: read -r name rest gid members; do isGroup[$name]=$gid; done < /etc/group
    while IFS=: read -r name gid members; do
        case $name in '' | '#'*) continue ;; esac
        [ -z "${isGroup[$name]:-}" ] || continue
        isGroup[$name]=$gid
        echo "$name:x:$gid:$members" >> /etc/group
    done < @etc@/users/groups
    while IFS=: read -r name uid group home shell; do
        case $name in '' | '#'*) continue ;; esac
        gid=${isGroup[$group]:-}
        [ -n "$gid" ] || { echo "user $name has no group $group" >&2; return 1; }
        [ -n "${isUser[$name]:-}" ] || echo "$name:x:$uid:$gid:$name:$home:$shell" >> /etc/passwd
        # No password opens any account.
        [ -n "${isShadow[$name]:-}" ] || echo "$name:*:1::::::" >> /etc/shadow
    done < @etc@/users/users
    chmod 0644 /etc/passwd /etc/group
    chown 0:42 /etc/shadow
    chmod 0640 /etc/shadow
}
users || failed users $?

# The token the secrets hook puts into the initrd's copy on the ESP: no
# secret, but of this machine alone.
token() {
    mkdir -p /var/lib/initrd-token || return
    [ -s /var/lib/initrd-token/token ] || od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > /var/lib/initrd-token/token
}
token || failed token $?

# Hostname, unless the kernel already has it.
hostname "$(cat @etc@/etc/hostname)" || failed hostname $?

ln -sfn "$systemConfig" /run/current-system

# Something a careless activation snippet leaves running, with its hands on
# the root file system and on the terminal's pipes closed.
(cd / && setsid sleep 600 > /var/log/activation-leftover.log 2>&1 < /dev/null &)

@extra@
exit $status
