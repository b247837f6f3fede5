# A unit as a store path of its own, with @names@ replaced.
#
# in: $source, $unit (file name), $names, $out (directory with the one file)
export PATH=/usr/sbin:/usr/bin LC_ALL=C
mkdir -p "$out"
text=$(cat "$source"; printf x)
text=${text%x}
for n in $names; do text=${text//@$n@/"${!n}"}; done
printf '%s' "$text" > "$out/$unit"
