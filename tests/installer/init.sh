#!/bin/busybox sh
# First process of the installer's medium: finds the medium, puts a writable
# layer of memory over it and hands over to systemd.
export PATH=/bin
fail() { echo "installer: $*" > /dev/console; exec sh < /dev/console > /dev/console 2>&1; }

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do
    insmod "$module" || fail "cannot load $module"
done < /modules/order

medium=
tries=0
while [ -z "$medium" ]; do
    for uevent in /sys/class/block/*/uevent; do
        if grep -q '^PARTNAME=@LABEL@$' "$uevent"; then
            medium=/dev/$(sed -n 's/^DEVNAME=//p' "$uevent")
        fi
    done
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || fail "no partition is named @LABEL@ after 30 s"
    [ -n "$medium" ] || usleep 100000
done

mount -t squashfs -o ro "$medium" /medium || fail "cannot mount $medium"
mount -t tmpfs -o size=50%,mode=0755 writable /writable
mkdir /writable/upper /writable/work
mount -t overlay -o lowerdir=/medium,upperdir=/writable/upper,workdir=/writable/work live /root ||
    fail "cannot put the writable layer over the medium"
mount -o move /medium /root/medium
umount /sys /proc
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
