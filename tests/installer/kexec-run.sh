#!/bin/sh
# The program of the kexec image, to the contract of nixos-images' `kexec/run`: what the machine is
# known by and reached at goes into the initrd, the kernel is loaded, the magic line is said, and
# the jump comes some seconds after the end.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
flags=
while [ $# -gt 0 ]; do
    case $1 in
    --kexec-extra-flags) flags=$2; shift 2 ;;
    *) echo "run: unknown word $1"; exit 1 ;;
    esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/ssh" "$work/network"

# Keys of root, and of who became root.
user=${SUDO_USER:-${DOAS_USER:-}}
home=
[ -z "$user" ] || home=$(getent passwd "$user" | cut -d: -f6)
for file in /root/.ssh/authorized_keys /root/.ssh/authorized_keys2 \
    ${home:+"$home/.ssh/authorized_keys" "$home/.ssh/authorized_keys2"} \
    /etc/ssh/authorized_keys.d/root ${user:+"/etc/ssh/authorized_keys.d/$user"}; do
    [ ! -e "$file" ] || { cat "$file"; echo; } >> "$work/ssh/authorized_keys"
done
cp -p /etc/ssh/ssh_host_* "$work/ssh/"
cp /etc/machine-id "$work/machine-id"

# Static addresses and routes of each device, beside what its network gives it anew.
for path in /sys/class/net/*; do
    [ -e "$path/device" ] || continue
    device=${path##*/}
    mac=$(cat "$path/address")
    {
        printf '[Match]\nMACAddress=%s\n' "$mac"
        printf '[Network]\nDHCP=yes\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n'
        "$here/ip" -o addr show dev "$device" scope global permanent |
            while read -r _ _ family address _; do
                case $family in inet | inet6) echo "Address=$address" ;; esac
            done
        for version in 4 6; do
            "$here/ip" "-$version" -o route show dev "$device" |
                while read -r destination rest; do
                    case " $rest " in *" proto dhcp "* | *" proto kernel "* | *" proto ra "*) continue ;; esac
                    [ "$destination" != default ] || destination=$([ $version = 4 ] && echo 0.0.0.0/0 || echo ::/0)
                    echo "[Route]"
                    echo "Destination=$destination"
                    gateway=${rest#*via }
                    [ "$gateway" = "$rest" ] || echo "Gateway=${gateway%% *}"
                done
        done
    } > "$work/network/10-$(echo "$mac" | tr : -).network"
done

(cd "$work" && find . | cpio -o -H newc --quiet | gzip -9) >> "$here/initrd"
# shellcheck disable=SC2086
"$here/kexec" --load "$here/bzImage" --kexec-syscall-auto $flags --initrd="$here/initrd" \
    --command-line "@COMMAND_LINE@"
echo "machine will boot into nixos in 3s..."
# shellcheck disable=SC2086
nohup sh -c "sleep 3 && '$here/kexec' -e $flags" > /dev/null 2>&1 &
