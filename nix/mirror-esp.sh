# mirror-esp ESP DEVICE...: makes the FAT file system on every DEVICE hold what is below ESP, where
# the EFI system partition is mounted. A DEVICE that is not there is warned of, and the others are
# still refreshed: a machine that lost a disk must be able to go on.
set -euo pipefail

esp=$1
shift
mountpoint -q "$esp" || {
    echo "mirror-esp: $esp is not mounted" >&2
    exit 1
}
work=$(mktemp -d /run/mirror-esp.XXXXXX)
trap 'umount -q "$work" || true; rmdir "$work"' EXIT

# FAT keeps times to two seconds. Each machine's random seed stays where it is.
copy() { rsync --recursive --times --modify-window=2 --checksum --exclude=/loader/random-seed "$@" "$esp/" "$work/"; }

for device in "$@"; do
    if [ ! -b "$device" ]; then
        echo "warning: $device is not there, so the copy of $esp on it is not refreshed" >&2
        continue
    fi
    mount -t vfat -o nosuid,nodev,noexec,umask=0077 "$device" "$work"
    # What is booted first, then what names it, then what nothing names any more: whenever this
    # ends, the copy boots. Only where both do not fit are the old ones removed first.
    copy --exclude=/loader || copy --delete-before
    copy
    copy --delete
    sync -f "$work"
    umount "$work"
    echo "refreshed the copy of $esp on $device"
done
