#! @bash@/usr/bin/bash
# install-systemd-boot TOPLEVEL: systemd-boot, and one entry for every
# generation of the system profile, on the ESP.
set -euo pipefail
export PATH=@path@ HOME=/root
esp=/boot
default=$1

mountpoint=$(findmnt --noheadings --output TARGET "$esp") || {
    echo "efiSysMountPoint = '$esp' is not a mounted partition. Is the path configured correctly?" >&2
    exit 1
}
[ "$mountpoint" = "$esp" ]

# What this system's bootctl installs from.
rm -rf /run/nixos/systemd-boot
mkdir -p /run/nixos/systemd-boot
cp -L @systemPath@/usr/lib/systemd/boot/efi/systemd-boot*.efi /run/nixos/systemd-boot/

machineId=
if [ -e /etc/machine-id ]; then
    machineId=$(head -n1 /etc/machine-id)
fi

if [ "${NIXOS_INSTALL_BOOTLOADER:-}" = 1 ]; then
    # bootctl will not replace it.
    rm -f "$esp/loader/loader.conf"
    bootctl "--esp-path=$esp" install
elif ! bootctl "--esp-path=$esp" is-installed > /dev/null; then
    echo "Could not find any previously installed systemd-boot." >&2
    exit 1
else
    bootctl "--esp-path=$esp" --graceful update
fi

mkdir -p "$esp/EFI/nixos" "$esp/loader/entries"

# The name on the ESP of a file in the store: STOREPATH[-FILE].efi
espName() {
    local file store
    file=$(readlink -f "$1")
    store=${file#/nix/store/}
    [ "$store" != "$file" ] || { echo "$1 is not in the store" >&2; exit 1; }
    store=${store%%/*}
    if [ "${file##*/}" = "$store" ]; then echo "$store.efi"; else echo "$store-${file##*/}.efi"; fi
}

# Copies unless it is there; a crash leaves no half of it under its name.
copy() {
    local to=$esp/EFI/nixos/$(espName "$1")
    if [ ! -e "$to" ]; then
        cp "$(readlink -f "$1")" "$to.tmp"
        sync "$to.tmp"
        mv -T "$to.tmp" "$to"
    fi
}

read -r -a generations <<< "$(nix-env --list-generations -p /nix/var/nix/profiles/system | awk '{ printf "%s ", $1 }')"
[ "${#generations[@]}" -gt 0 ] || { echo "the system profile has no generations" >&2; exit 1; }

# Entries and files of generations that are gone.
known=
for g in "${generations[@]}"; do
    spec=/nix/var/nix/profiles/system-$g-link/boot.json
    known="$known $(espName "$(jq -er '."org.nixos.bootspec.v1".kernel' "$spec")")"
    known="$known $(espName "$(jq -er '."org.nixos.bootspec.v1".initrd' "$spec")") nixos-generation-$g.conf"
done
for f in "$esp"/loader/entries/nixos-generation-*.conf "$esp"/EFI/nixos/*; do
    [ -e "$f" ] || continue
    case " $known " in *" ${f##*/} "*) ;; *) rm -f "$f" ;; esac
done

wrote=
for g in "${generations[@]}"; do
    link=/nix/var/nix/profiles/system-$g-link
    spec() { jq -er "$1" "$link/boot.json"; }
    kernel=$(spec '."org.nixos.bootspec.v1".kernel')
    initrd=$(spec '."org.nixos.bootspec.v1".initrd')
    init=$(spec '."org.nixos.bootspec.v1".init')
    label=$(spec '."org.nixos.bootspec.v1".label')
    params=$(spec '."org.nixos.bootspec.v1".kernelParams | join(" ")')
    sortKey=$(jq -r '."org.nixos.systemd-boot".sortKey // "nixos"' "$link/boot.json")
    secrets=$(jq -r '."org.nixos.bootspec.v1".initrdSecrets // empty' "$link/boot.json")
    current=
    [ "$(dirname "$init")" != "$default" ] || current=1
    copy "$kernel"
    copy "$initrd"
    if [ -n "$secrets" ] && ! "$secrets" "$esp/EFI/nixos/$(espName "$initrd")"; then
        if [ -n "$current" ]; then
            echo "failed to create initrd secrets!" >&2
            exit 1
        fi
        echo "warning: failed to create initrd secrets for generation $g, an older one" >&2
    fi
    entry=$esp/loader/entries/nixos-generation-$g
    {
        echo "title NixOS"
        echo "sort-key $sortKey"
        echo "version Generation $g $label, built on $(date -u -d "@$(stat -c %Z "$link")" +%F)"
        echo "linux /EFI/nixos/$(espName "$kernel")"
        echo "initrd /EFI/nixos/$(espName "$initrd")"
        echo "options init=$init $params"
        [ -z "$machineId" ] || echo "machine-id $machineId"
    } > "$entry.tmp"
    sync "$entry.tmp"
    mv -T "$entry.tmp" "$entry.conf"
    if [ -n "$current" ]; then
        {
            echo "timeout 1"
            echo "default nixos-generation-$g.conf"
            echo "editor 0"
            echo "console-mode keep"
        } > "$esp/loader/loader.conf.tmp"
        sync "$esp/loader/loader.conf.tmp"
        mv -T "$esp/loader/loader.conf.tmp" "$esp/loader/loader.conf"
        wrote=1
    fi
done
[ -n "$wrote" ] || { echo "no generation of the system profile is $default" >&2; exit 1; }

sync -f "$esp"
@extraInstallCommands@
