# The system closure's root, with the files NixOS's has.
#
# in: see default.nix; $out
export PATH=/usr/sbin:/usr/bin LC_ALL=C
mkdir -p "$out/bin"
if [ -z "$nixos" ]; then
    # Something that is no NixOS system.
    ln -s "$systemPath" "$out/sw"
    exit 0
fi
subst() {
    text=$(cat "$1"; printf x)
    text=${text%x}
    for n in bash path out etc systemPath installBootLoader extra; do text=${text//@$n@/"${!n}"}; done
    printf '%s' "$text" > "$2"
    chmod 0555 "$2"
}
extra=
[ "$activateExit" = 0 ] || extra="failed example $activateExit"
subst "$activateSource" "$out/activate"
subst "$prepareRootSource" "$out/prepare-root"
[ -z "$withSwitch" ] || subst "$switchSource" "$out/bin/switch-to-configuration"
rmdir --ignore-fail-on-non-empty "$out/bin"

# A copy: who starts from init= must stay in this directory.
cp "$systemd/usr/lib/systemd/systemd" "$out/init"
ln -s "$kernel/bzImage" "$out/kernel"
ln -s "$modules" "$out/kernel-modules"
ln -s "$initrd/initrd" "$out/initrd"
ln -s "$initrdSecrets" "$out/append-initrd-secrets"
ln -s "$etc/etc" "$out/etc"
ln -s "$systemPath" "$out/sw"
ln -s "$systemd" "$out/systemd"
echo -n "$kernelParams" > "$out/kernel-params"
echo -n "$nixosVersion" > "$out/nixos-version"
echo -n "$arch" > "$out/system"
echo -n "systemd 257" > "$out/init-interface-version"
bootInitrd=${foreignInitrd:-$initrd/initrd}
params=$(printf '"%s",' $kernelParams)
cat > "$out/boot.json" <<J
{
  "org.nixos.bootspec.v1": {
    "init": "$out/init",
    "initrd": "$bootInitrd",
    "initrdSecrets": "$initrdSecrets",
    "kernel": "$kernel/bzImage",
    "kernelParams": [${params%,}],
    "label": "NixOS Keystone reference $nixosVersion (Linux $kernelVersion)",
    "system": "$arch",
    "toplevel": "$out"
  },
  "org.nixos.specialisation.v1": {},
  "org.nixos.systemd-boot": { "sortKey": "nixos" }
}
J
