# A NixOS module for machines that were installed with `keystone install --mirror-esp`: refreshes
# the copies of the EFI system partition whenever the boot loader is updated, and lets the machine
# boot without the disk that the mounted one is on.
#
#     imports = [ keystone-installer.nixosModules.mirror-esp ];
#     keystone.mirrorEsp.copies = [ "/dev/disk/by-partlabel/disk-disk1-ESP" ];
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.keystone.mirrorEsp;
  loader = config.boot.loader;
  esp = loader.efi.efiSysMountPoint;
  refresh = pkgs.writeShellApplication {
    name = "mirror-esp";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.rsync
      pkgs.util-linux
    ];
    text = builtins.readFile ./mirror-esp.sh;
  };
  # Containers on volumes of a pool. systemd waits 90 s for each disk of the pool, and by default as
  # long for the volume, which is there only once the pool was imported without the missing disk.
  patient = lib.types.submodule (
    { config, ... }:
    {
      config.crypttabExtraOpts = lib.mkIf (cfg.copies != [ ] && lib.hasPrefix "/dev/zvol/" config.device) [
        "x-systemd.device-timeout=5min"
      ];
    }
  );
  command = "${refresh}/bin/mirror-esp ${lib.escapeShellArgs ([ esp ] ++ cfg.copies)}";
in
{
  options.keystone.mirrorEsp.copies = lib.mkOption {
    type = lib.types.listOf lib.types.str;
    default = [ ];
    example = [ "/dev/disk/by-partlabel/disk-disk1-ESP" ];
    description = "The partitions that `keystone install --mirror-esp` made; none turns this off.";
  };

  options.boot.initrd.luks.devices = lib.mkOption { type = lib.types.attrsOf patient; };

  config = lib.mkIf (cfg.copies != [ ]) {
    assertions = [
      {
        assertion = loader.systemd-boot.enable || (loader.grub.enable && loader.grub.efiSupport);
        message = "keystone.mirrorEsp needs systemd-boot, or GRUB with EFI: other boot loaders have no hook for it.";
      }
    ];
    boot.loader.systemd-boot.extraInstallCommands = lib.mkIf loader.systemd-boot.enable command;
    boot.loader.grub.extraInstallCommands = lib.mkIf loader.grub.enable command;
    # Without its disk the machine goes on, and waits for nothing; disko's options are kept.
    fileSystems.${esp}.options = [ "nofail" ];
  };
}
