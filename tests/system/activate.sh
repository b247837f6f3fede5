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
    local file source mode owner
    mkdir -p /etc
    ln -sfn "@etc@/etc" /etc/.static.new && mv -T /etc/.static.new /etc/static || return
    (cd /etc/static && find . -type l -o -type f) | while read -r file; do
        file=${file#./}
        case $file in *.mode | *.owner) continue ;; esac
        source=/etc/static/$file
        mkdir -p "/etc/$(dirname "$file")"
        if [ -e "$source.mode" ]; then
            # A real file, for programs that mind where a link leads.
            mode=$(cat "$source.mode")
            cp --remove-destination -L "$source" "/etc/.$$.new"
            chmod "$mode" "/etc/.$$.new"
            mv -T "/etc/.$$.new" "/etc/$file"
        elif [ "$(readlink "/etc/$file")" != "$source" ]; then
            if [ -d "/etc/$file" ] && [ ! -L "/etc/$file" ]; then
                echo "/etc/$file is a directory, and this system wants a link there" >&2
                return 1
            fi
            ln -sfn "$source" "/etc/.$$.new"
            mv -T "/etc/.$$.new" "/etc/$file"
        fi
    done || return
    # Links of an earlier system that this one no longer has.
    find /etc -xdev -type l -lname '/etc/static/*' | while read -r file; do
        [ -e "$file" ] || [ -L "/etc/static/${file#/etc/}" ] || rm -f "$file"
    done
    # The mark of a NixOS system.
    touch /etc/NIXOS
}
setupEtc || failed etc $?

echo "setting up users and groups..."
users() {
    local name uid gid group home shell members
    touch /etc/passwd /etc/group /etc/shadow || return
    while IFS=: read -r name gid members; do
        case $name in '' | '#'*) continue ;; esac
        grep -q "^$name:" /etc/group || echo "$name:x:$gid:$members" >> /etc/group
    done < @etc@/users/groups
    while IFS=: read -r name uid group home shell; do
        case $name in '' | '#'*) continue ;; esac
        gid=$(grep "^$group:" /etc/group | cut -d: -f3)
        [ -n "$gid" ] || { echo "user $name has no group $group" >&2; return 1; }
        grep -q "^$name:" /etc/passwd || echo "$name:x:$uid:$gid:$name:$home:$shell" >> /etc/passwd
        # No password opens any account.
        grep -q "^$name:" /etc/shadow || echo "$name:*:1::::::" >> /etc/shadow
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
