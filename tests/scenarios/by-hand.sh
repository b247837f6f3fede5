#!/bin/sh
# by-hand.sh TOPLEVEL: installs the system closure on /dev/disk/by-id/virtio-target
# with the tools everyone has, in the way disko, nixos-install and nixos-enter do.
# On the disk virtio-closure are the closure and its registration; the password is
# on standard input. Ends with the pool still imported, as a careless installer does.
set -eu
toplevel=$1
disk=/dev/disk/by-id/virtio-target
label=/dev/disk/by-partlabel/disk-root
PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022
password=$(cat)
wait_for() {
    i=0
    until [ -e "$1" ]; do
        i=$((i + 1))
        [ "$i" -lt 600 ] || { echo "waited 60 s for $1" >&2; exit 1; }
        sleep 0.1
    done
}

echo "== partitions"
sgdisk --clear "$disk"
sgdisk --align-end --new=1:0:+1G --change-name=1:disk-root-ESP --typecode=1:EF00 "$disk"
sgdisk --align-end --new=2:0:-8G --change-name=2:disk-root-zfs --typecode=2:8300 "$disk"
sgdisk --align-end --new=3:0:-0 --change-name=3:disk-root-encryptedSwap --typecode=3:8200 "$disk"
partprobe "$disk" || true
udevadm settle --timeout 120
wait_for "$label-ESP"
wait_for "$label-zfs"
mkfs.vfat "$label-ESP"

echo "== pool"
zpool create -f -R /mnt -o ashift=12 -O mountpoint=none -O compression=zstd -O acltype=posixacl -O xattr=sa \
    -O com.sun:auto-snapshot=true rpool "$label-zfs"
zfs create -V 100M rpool/credstore
wait_for /dev/zvol/rpool/credstore
printf %s "$password" | cryptsetup -q luksFormat /dev/zvol/rpool/credstore --key-file -
printf %s "$password" | cryptsetup open /dev/zvol/rpool/credstore credstore --key-file -
mkfs.ext4 -q /dev/mapper/credstore
mkdir -p /etc/credstore
mount /dev/mapper/credstore /etc/credstore
head -c 32 /dev/urandom > /etc/credstore/zfs-sysroot.mount
chmod 0400 /etc/credstore/zfs-sysroot.mount
zfs create -u -o encryption=aes-256-gcm -o keyformat=raw \
    -o keylocation=file:///etc/credstore/zfs-sysroot.mount -o mountpoint=none rpool/crypt
zfs create -u -o mountpoint=/ rpool/crypt/system
zfs create -u -o mountpoint=/nix -o com.sun:auto-snapshot=false rpool/crypt/system/nix
zfs create -u -o mountpoint=/var rpool/crypt/system/var
umount /etc/credstore
cryptsetup close credstore
mount -t zfs -o zfsutil rpool/crypt/system /mnt
mkdir /mnt/nix /mnt/var /mnt/boot
mount -t zfs -o zfsutil rpool/crypt/system/nix /mnt/nix
mount -t zfs -o zfsutil rpool/crypt/system/var /mnt/var
mount "$label-ESP" /mnt/boot

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
