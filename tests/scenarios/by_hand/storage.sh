#!/bin/sh
# storage.sh DISK: the disk of Keystone's single-disk layout, made with the tools everyone has, by
# the commands that disko runs for it; mounted below /mnt at the end. The password of the
# credstore is on standard input.
set -eu
disk=$1
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
wait_for "$disk-part1"
wait_for "$disk-part2"
mkfs.vfat "$disk-part1"

echo "== pool"
zpool create -f -R /mnt -o ashift=12 -O mountpoint=none -O compression=zstd -O acltype=posixacl -O xattr=sa \
    -O com.sun:auto-snapshot=true rpool "$disk-part2"
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
mount "$disk-part1" /mnt/boot

