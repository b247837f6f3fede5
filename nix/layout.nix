# The installer's layout document of a NixOS configuration: `disko.devices`, internal
# attributes (those that begin with `_`) dropped.
#
#   nix eval --json --apply "$(cat nix/layout.nix)" \
#     'FLAKE#nixosConfigurations.HOST.config.disko.devices' > layout.json
#
# The modules that define `disko.devices` are used as they are.
let
  internal = name: builtins.substring 0 1 name == "_";
  clean =
    value:
    if builtins.isAttrs value then
      builtins.mapAttrs (_: clean) (
        removeAttrs value (builtins.filter internal (builtins.attrNames value))
      )
    else if builtins.isList value then
      map clean value
    else
      value;
in
clean
