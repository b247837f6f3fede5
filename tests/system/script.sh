# A script with @names@ replaced by the environment's values.
#
# in: $source, $bash, $path, $names, $out (one executable file)
export PATH=/usr/sbin:/usr/bin LC_ALL=C
text=$(cat "$source"; printf x)
text=${text%x}
for n in bash path $names; do text=${text//@$n@/"${!n}"}; done
printf '%s' "$text" > "$out"
chmod 0555 "$out"
