#! @bash@/usr/bin/bash
# Run by the initrd inside the new root, before it becomes the root: what
# must be in place before systemd starts from it.

systemConfig=@out@
export HOME=/root
export PATH=@path@

echo "<<< NixOS Stage 2 >>>"
mount -n -o remount,rw none / 2> /dev/null || true
if [ ! -e /proc/1 ]; then
    mkdir -m 0755 -p /proc && mount -n -t proc proc /proc
fi

# The store is read-only to everyone but Nix, which remounts it for itself.
chown -f 0:30000 /nix/store
chmod -f 1775 /nix/store
mount --bind /nix/store /nix/store
mount -o remount,ro,bind /nix/store

mkdir -m 0755 -p /etc
rm -f /etc/mtab*
ln -s /proc/mounts /etc/mtab
mkdir -m 01777 -p /tmp
rm -f /etc/group.lock /etc/passwd.lock /etc/shadow.lock
rm -rf /nix/var/nix/gcroots/tmp /nix/var/nix/temproots

echo "running activation script..."
"$systemConfig/activate"

ln -sfn "$systemConfig" /run/booted-system
ln -sfn /run/booted-system /nix/var/nix/gcroots/booted-system

if [ -z "${IN_NIXOS_SYSTEMD_STAGE1:-}" ]; then
    exec "$systemConfig/init"
fi
