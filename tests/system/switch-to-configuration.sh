#! @bash@/usr/bin/bash
# switch-to-configuration ACTION, of which this system knows `boot`: make this
# configuration the one the machine boots.
set -eu
export PATH=@path@
toplevel=@out@
export NIXOS_ACTION=${1:-}

if [ "$NIXOS_ACTION" != boot ]; then
    echo "Usage: $0 boot" >&2
    exit 1
fi
if [ ! -f /etc/NIXOS ] && ! grep -q '^ID="\?nixos"\?$' /etc/os-release; then
    echo "This is not a NixOS installation!" >&2
    exit 1
fi
mkdir -m 0755 -p /run/nixos
exec 9> /run/nixos/switch-to-configuration.lock
if ! flock -n 9; then
    echo "Could not acquire lock" >&2
    exit 1
fi
if ! @installBootLoader@ "$toplevel"; then
    echo "Failed to install bootloader" >&2
    exit 1
fi
[ "${NIXOS_NO_SYNC:-}" = 1 ] || sync -f /nix/store
