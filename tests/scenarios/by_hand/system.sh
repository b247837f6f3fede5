#!/bin/sh
# system.sh TOPLEVEL: installs the system closure below /mnt with the tools everyone has, in the
# way nixos-install and nixos-enter do. On the disk virtio-closure are the closure and its
# registration. Ends with the pool still imported, as a careless installer does.
set -eu
toplevel=$1
PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022

echo "== closure"
mkdir -p /run/closure /mnt/nix/store
mount -o ro /dev/disk/by-id/virtio-closure /run/closure
cp -a /run/closure/store/. /mnt/nix/store/
nix-store --store "local?root=/mnt" --load-db < /run/closure/registration
nix-env --store "local?root=/mnt" -p /mnt/nix/var/nix/profiles/system --set "$toplevel"
umount /run/closure

echo "== boot loader"
mkdir -p /mnt/etc/ssh /mnt/dev /mnt/sys /mnt/proc /mnt/run
touch /mnt/etc/NIXOS
ln -sfn /proc/mounts /mnt/etc/mtab
ssh-keygen -q -t ed25519 -N '' -C '' -f /mnt/etc/ssh/ssh_host_ed25519_key
export toplevel
unshare --fork --kill-child --mount --uts --pid sh -eu -c '
    mount --make-rprivate /
    mount --rbind /dev /mnt/dev
    mount --rbind /sys /mnt/sys
    mount -t proc proc /mnt/proc
    mount -t tmpfs tmpfs /mnt/run
    chroot /mnt "$toplevel/activate"
    chroot /mnt "$toplevel/sw/bin/systemd-tmpfiles" --create --remove -E || echo "systemd-tmpfiles ended with $?"
    NIXOS_INSTALL_BOOTLOADER=1 chroot /mnt /run/current-system/bin/switch-to-configuration boot
'
umount -R /mnt
sync
zpool sync
echo "== done"
