{
  description = "Keystone's installer";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs =
    { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" ];
      each = nixpkgs.lib.genAttrs systems;
    in
    {
      # The expression that turns a configuration's `disko.devices` into the installer's layout.
      lib.layout = import ./nix/layout.nix;

      # For machines installed with `--mirror-esp`: keeps the copies of the ESP as the ESP is.
      nixosModules.mirror-esp = import ./nix/mirror-esp.nix;

      # Only the controller: the static agent is built by `cargo lab build`, see docs/building.md.
      packages = each (system: {
        default = nixpkgs.legacyPackages.${system}.callPackage ./nix/controller.nix { src = self; };
      });
    };
}
