#!/bin/busybox sh
# First process of the kexec image: its root is in the initrd itself, under a writable layer of
# memory. What `run` brought of the machine (keys, host keys, machine id, addresses) is put there
# before systemd starts.
export PATH=/bin
fail() { echo "installer: $*" > /dev/console; exec sh < /dev/console > /dev/console 2>&1; }

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do
    insmod "$module" || fail "cannot load $module"
done < /modules/order

mount -t squashfs -o ro,loop /root.squashfs /medium || fail "cannot mount the root"
mount -t tmpfs -o size=50%,mode=0755 writable /writable
mkdir /writable/upper /writable/work
mount -t overlay -o lowerdir=/medium,upperdir=/writable/upper,workdir=/writable/work live /root ||
    fail "cannot put the writable layer over the root"

if [ -e /ssh/authorized_keys ]; then
    mkdir -p /root/root/.ssh
    cp /ssh/authorized_keys /root/root/.ssh/authorized_keys
    chmod 700 /root/root/.ssh
    chmod 600 /root/root/.ssh/authorized_keys
fi
for key in /ssh/ssh_host_*; do
    [ -e "$key" ] && cp -p "$key" /root/etc/ssh/
done
[ -s /machine-id ] && cp /machine-id /root/etc/machine-id
for unit in /network/*.network; do
    [ -e "$unit" ] && cp "$unit" /root/etc/systemd/network/
done

mount -o move /medium /root/medium
umount /sys /proc
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
