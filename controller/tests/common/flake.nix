{
  outputs = { self }:
    let
      sh = name: script: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ "-e" "-c" "PATH=/usr/bin:/bin; ${script}" ];
      };
      kernel = sh "linux-6.12.48" "mkdir $out; echo kernel > $out/bzImage";
      initrd = sh "initrd-linux-6.12.48" "mkdir $out; echo initrd > $out/initrd";
      zfs = sh "zfs-kernel-2.3.4-6.12.48" "mkdir -p $out/lib; echo zfs > $out/lib/zfs.ko";
      etc = sh "etc" ''
        mkdir -p $out/etc; printf 'xV4\022' > $out/etc/hostid; echo nas > $out/etc/hostname
        cat > $out/etc/fstab <<END
        rpool/crypt/system / zfs zfsutil,x-initrd.mount 0 0
        rpool/crypt/system/nix /nix zfs zfsutil,x-initrd.mount 0 0
        rpool/crypt/system/var /var zfs zfsutil,x-initrd.mount 0 0
        /dev/disk/by-partlabel/disk-root-ESP /boot vfat defaults 0 2
        END
      '';
      toplevel = sh "nixos-system-nas-25.11" ''
        echo "the builder speaks"
        mkdir -p $out/bin $out/sw
        for program in init activate bin/switch-to-configuration; do
          echo '#!/bin/sh' > $out/$program; chmod 555 $out/$program
        done
        printf x86_64-linux > $out/system; printf 25.11 > $out/nixos-version; touch $out/sw/empty
        ln -s ${etc}/etc $out/etc; ln -s ${kernel}/bzImage $out/kernel
        ln -s ${initrd}/initrd $out/initrd; ln -s ${zfs} $out/kernel-modules
        cat > $out/boot.json <<END
        {"org.nixos.bootspec.v1": {"system": "x86_64-linux", "init": "$out/init",
          "kernel": "${kernel}/bzImage", "kernelParams": [], "label": "NixOS 25.11",
          "toplevel": "$out", "initrd": "${initrd}/initrd"},
         "org.nixos.specialisation.v1": {}}
        END
      '';
      config = toplevel: {
        system.build.toplevel = toplevel;
        system.build.installTest = sh "vm-test-run" "echo tested > $out";
        disko.devices = builtins.fromJSON (builtins.readFile ./layout.json) // { _internal = 1; };
      };
    in
    {
      nixosConfigurations.nas.config = config toplevel;
      nixosConfigurations.broken.config =
        config (sh "broken" "echo the compiler says why; exit 3");
      nixosConfigurations.slow.config = config (sh "slow" "exec sleep 30417");
      nixosConfigurations.internal.config.disko.devices = {
        _module = x: x;
        nested = { _a = throw "never evaluated"; a = 1; };
        list = [ { _b = 2; kept = null; } [ true ] ];
      };
      nixosConfigurations.other.config = config toplevel // { disko.devices.disk = 1; };
    };
}
