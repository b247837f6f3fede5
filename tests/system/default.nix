# The reference system: Debian's packages, one store path each, and a system
# closure that keeps the contract of NixOS's.
#
# `inputs` names a JSON file, made by the lab, with what is not written here:
# the packages and their files, the kernel, the key that may log in.
{ inputs }:
let
  given = builtins.fromJSON (builtins.readFile inputs);

  # Everything is built by one kind of derivation: a script, run by the
  # builder root's shell.
  run = name: script: env: derivation ({
    inherit name;
    system = "x86_64-linux";
    builder = "/usr/bin/bash";
    args = [ "-e" script ];
  } // env);

  # --- packages: given in an order in which every one comes after its dependencies
  packages = builtins.foldl' (done: p: done // {
    ${p.name} = run "${p.name}-${p.version}" ./package.sh {
      pname = p.name;
      inherit (p) deb blake3;
      deps = map (d: done.${d}) p.deps;
    };
  }) { } given.packages;
  all = map (p: packages.${p.name}) given.packages;

  bash = packages.bash;

  # What may be needed to reach the root file system, and what may be needed later.
  initrdModules = [
    "zfs" "virtio_blk" "virtio_pci" "virtio_scsi" "virtio_rng" "virtio_console" "nvme" "ahci" "sd_mod"
    "dm-mod" "dm-crypt" "aesni_intel" "xts" "ecb" "cbc" "sha256" "af_alg" "algif_skcipher" "algif_hash"
    "tpm_crb" "tpm_tis" "ext4" "vfat" "nls_ascii" "nls_cp437" "efivarfs" "autofs4"
  ];
  systemModules = [
    "virtio_net" "virtio_balloon" "loop" "overlay" "fuse" "nf_tables" "nft_ct" "nft_reject_inet" "nft_limit"
    "nf_conntrack" "nls_iso8859-1" "nls_utf8" "configfs" "efi_pstore" "qemu_fw_cfg" "evdev" "button" "sr_mod"
    "tun" "8021q" "bridge" "binfmt_misc"
  ];

  modules = run "linux-${given.kernel.version}-modules" ./modules.sh {
    inherit (given.kernel) root version id;
    modules = builtins.concatStringsSep " " (initrdModules ++ systemModules);
  };
  kernel = run "linux-${given.kernel.version}" ./kernel.sh { inherit (given.kernel) root version id; };

  systemPath = run "system-path" ./system-path.sh { paths = all; inherit modules; };

  path = "${systemPath}/usr/bin:${systemPath}/usr/sbin";

  # A script of this system, with its interpreter and its tools by store path.
  script = name: source: vars: run name ./script.sh ({
    inherit source bash path;
    names = builtins.concatStringsSep " " (builtins.attrNames vars);
  } // vars);

  # As the NixOS module has it, which puts the same text between such a beginning and no end.
  mirrorEsp = script "mirror-esp" (builtins.toFile "mirror-esp.sh" (
    "#! @bash@/usr/bin/bash\nexport PATH=@path@\n" + given.mirrorEsp
  )) { };

  osRelease = ''
    ID=nixos
    NAME=NixOS
    PRETTY_NAME="Keystone reference system"
    VERSION="25.11"
    VERSION_ID="25.11"
    VARIANT_ID=keystone-reference
  '';

  # --- one system, of its variant
  #
  # disk: the prefix of the partition labels; device: the disk that is booted from
  # root: "zfs", or "ext4" in a container; members: the pool's partitions
  # espCopies: partitions that are refreshed with each boot loader
  # activateExit: of the activation script; hostid: "" for none
  system =
    { name ? "keystone-ref"
    , disk ? "root"
    , device ? "/dev/disk/by-id/virtio-target"
    , root ? "zfs"
    , members ? [ "${device}-part2" ]
    , swapLabel ? "disk-${disk}-encryptedSwap"
    , espCopies ? [ ]
    , espDevice ? "/dev/disk/by-partlabel/disk-${disk}-ESP"
    , hostid ? "a1b2c3d4"
    , hostname ? "keystone-ref"
    , arch ? "x86_64-linux"
    , activateExit ? "0"
    , withSwitch ? true
    , foreignInitrd ? ""
    , nixos ? true
    , generation ? "1"
    }:
    let
      datasets = [ "rpool/crypt/system" "rpool/crypt/system/nix" "rpool/crypt/system/var" ];
      onZfs = root == "zfs";
      swap = "/dev/disk/by-partlabel/${swapLabel}";
      dashes = builtins.replaceStrings [ "-" ];
      # NixOS's name for the mapping: the escaped path without its backslashes.
      mapper = "dev-disk-byx2dpartlabel-${dashes [ "x2d" ] swapLabel}";
      mapperUnit = "dev-mapper-${dashes [ "\\x2d" ] mapper}";
      deviceUnit = "dev-disk-by\\x2dpartlabel-${dashes [ "\\x2d" ] swapLabel}.device";
      lines = builtins.concatStringsSep "\n";
      roots =
        if onZfs then
          [
            "rpool/crypt/system / zfs zfsutil,x-initrd.mount 0 0"
            "rpool/crypt/system/nix /nix zfs zfsutil,x-initrd.mount 0 0"
            "rpool/crypt/system/var /var zfs zfsutil,x-initrd.mount 0 0"
          ]
        else
          [ "/dev/mapper/cryptroot / ext4 x-initrd.mount 0 1" ];
      # As nix/mirror-esp.nix has it: the pool is imported when its missing disk was waited for.
      volumeTimeout = if espCopies == [ ] then "" else ",x-systemd.device-timeout=5min";
      # Without its disk a machine whose ESP has copies goes on.
      espOptions = if espCopies == [ ] then "defaults" else "defaults,nofail";
      fstab = lines (
        [ (builtins.head roots) "${espDevice} /boot vfat ${espOptions} 0 2" ]
        ++ builtins.tail roots
        ++ [ "" "/dev/mapper/${mapper} none swap defaults" ]
      );
      sysrootFstab = lines roots;

      unit = file: vars: run "unit-${baseNameOf file}" ./unit.sh ({
        source = file;
        unit = baseNameOf file;
        names = builtins.concatStringsSep " " (builtins.attrNames vars);
      } // vars);
      mkswap = run "unit-mkswap-${mapper}.service" ./unit.sh {
        source = ./units/mkswap.service;
        unit = "mkswap-${mapper}.service";
        names = "device deviceUnit mapper mapperUnit";
        device = swap;
        inherit deviceUnit mapper mapperUnit;
      };

      systemUnits = run "system-units" ./system-units.sh {
        inherit systemPath;
        own = [ (unit ./units/sshd.service { }) (unit ./units/nftables.service { }) mkswap ];
        wants = [
          "multi-user.target.wants/sshd.service"
          "multi-user.target.wants/avahi-daemon.service"
          "multi-user.target.wants/systemd-networkd.service"
          "sockets.target.wants/avahi-daemon.socket"
          "sockets.target.wants/systemd-networkd.socket"
          "sysinit.target.wants/nftables.service"
          "sysinit.target.wants/systemd-resolved.service"
          "sysinit.target.wants/systemd-timesyncd.service"
          "local-fs.target.wants/zfs-mount.service"
          "getty.target.wants/getty@tty1.service"
          "${mapperUnit}.swap.requires/mkswap-${mapper}.service"
        ];
        # First-boot and package-update work that this system's activation has done, or that has nothing to do here.
        masked = [
          "ldconfig.service"
          "systemd-firstboot.service"
          "systemd-hwdb-update.service"
          "systemd-journal-catalog-update.service"
          "systemd-sysusers.service"
          "systemd-update-done.service"
          "getty-static.service"
        ];
      };

      etc = run "etc" ./etc.sh {
        inherit systemPath systemUnits fstab hostid hostname osRelease;
        packages = all;
        overlay = ./etc;
        inherit (given) authorizedKeys;
      };

      initrd = run "initrd-linux-${given.kernel.version}" ./initrd/build.sh {
        inherit systemPath sysrootFstab hostid hostname osRelease;
        modulesPath = modules;
        modules = builtins.concatStringsSep " " initrdModules;
        inherit (given.kernel) version;
        files = ./initrd/files;
        units = ./initrd/units;
        bin = ./initrd/bin;
        crypttab =
          if onZfs then
            "credstore /dev/zvol/rpool/credstore - tpm2-device=auto,tpm2-measure-pcr=yes${volumeTimeout}"
          else
            "cryptroot /dev/disk/by-partlabel/disk-${disk}-root - tpm2-device=auto,tpm2-measure-pcr=yes";
        # The pool's own partitions: a disk's unit is up before the links of its partitions are,
        # and an import that looks for them then finds no pool.
        poolDevices = builtins.concatStringsSep " " (map (
          member: builtins.replaceStrings [ "-" "/" ] [ "\\x2d" "-" ] (builtins.substring 1 (-1) member) + ".device"
        ) members);
        importDir = builtins.dirOf device;
        datasets = if onZfs then builtins.concatStringsSep " " datasets else "";
      };

      # no_timer_check: as in the installer's image.
      kernelParams = [ "console=tty0" "console=ttyS0,115200" "zfs.zfs_arc_max=268435456" "loglevel=4" "root=fstab" "no_timer_check" ];
      installBootLoader = script "install-systemd-boot.sh" ./install-systemd-boot.sh {
        inherit systemPath;
        extraInstallCommands =
          if espCopies == [ ] then "" else "${mirrorEsp} /boot ${builtins.concatStringsSep " " espCopies}";
      };
      initrdSecrets = script "append-initrd-secrets" ./append-initrd-secrets.sh { };
    in
    run "nixos-system-${name}-25.11.${generation}" ./toplevel.sh {
      inherit bash path kernel modules initrd etc systemPath arch activateExit installBootLoader initrdSecrets;
      inherit (packages) systemd;
      inherit foreignInitrd kernelParams;
      kernelVersion = given.kernel.version;
      nixosVersion = "25.11.${generation}";
      withSwitch = if withSwitch then "1" else "";
      nixos = if nixos then "1" else "";
      activateSource = ./activate.sh;
      prepareRootSource = ./prepare-root.sh;
      switchSource = ./switch-to-configuration.sh;
    };

  mirror = {
    disk = "disk0";
    device = "/dev/disk/by-id/virtio-a";
    members = [ "/dev/disk/by-id/virtio-a-part2" "/dev/disk/by-id/virtio-b-part1" ];
    swapLabel = "disk-disk1-encryptedSwap";
    espCopies = [ "/dev/disk/by-partlabel/disk-disk1-ESP" ];
  };
in
{
  # Boots from layouts/single-disk-root.json.
  reference = system { };
  # Boots from layouts/os-zfs-single.json.
  osZfsSingle = system { disk = "disk0"; device = "/dev/disk/by-id/virtio-a"; };
  # Boots from layouts/os-zfs-mirror.json, installed with --mirror-esp, without its first disk too.
  osZfsMirror = system mirror;
  osZfsMirrorNext = system (mirror // { generation = "2"; });
  # Boots from layouts/os-ext4-single.json.
  osExt4Single = system { device = "/dev/disk/by-id/virtio-a"; root = "ext4"; swapLabel = "disk-root-swap"; };
  # A later generation of the reference system.
  next = system { generation = "2"; };
  # Boots, but its activation ends with an error.
  activateFails = system { activateExit = "1"; };
  otherArchitecture = system { arch = "aarch64-linux"; };
  otherDevice = system { espDevice = "/dev/disk/by-partlabel/disk-other-ESP"; };
  noHostid = system { hostid = ""; };
  noSwitch = system { withSwitch = false; };
  # boot.json names an initrd that is not in the closure.
  outsideClosure = system { foreignInitrd = "/nix/store/00000000000000000000000000000000-initrd/initrd"; };
  # A store path that is no system at all.
  notNixos = system { nixos = false; };
}
