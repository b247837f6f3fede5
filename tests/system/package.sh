# One Debian package as one store path.
#
# in: $deb (file), $deps (store paths of its dependencies), $out
#
# The package's files are laid out below $out as they would be below /, with
# /usr merged. ELF files are given their loader and their libraries by store
# path, so that they run from the store with nothing outside it, and so that
# Nix's scan for references finds what they need.
set -eu
export PATH=/usr/sbin:/usr/bin LC_ALL=C
mkdir -p "$out"
dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$out" --no-same-owner \
    --exclude='./usr/share/doc/*/*' --exclude='./usr/share/man/*' --exclude='./usr/share/info/*' \
    --exclude='./usr/share/locale/*' --exclude='./usr/share/lintian/*' --exclude='./usr/share/bug/*' \
    --exclude='./usr/share/bash-completion/*' --exclude='./usr/share/zsh/*' --exclude='./usr/share/fish/*' \
    --exclude='./usr/share/doc-base/*' --exclude='./usr/share/zoneinfo/*' --exclude='./var/*' --exclude='./run/*'
cd "$out"

# Debian's usrmerge: what still lies in / belongs to /usr.
for d in bin sbin lib lib64; do
    if [ -L "$d" ]; then
        rm "$d"
    elif [ -d "$d" ]; then
        mkdir -p "usr/$d"
        cp -a --no-clobber "$d/." "usr/$d/"
        rm -r "$d"
    fi
done
rm -rf var run boot dev proc sys
find . -depth -mindepth 1 -type d -empty -delete
# No file in a store is writable or setuid; Nix makes it so too, but tools below must be able to write.
find . -type f -exec chmod u+w {} +

# bootctl takes systemd-boot from a path that was compiled in and must hold no
# symbolic link, which /usr is here. NixOS compiles another path into its
# systemd; this is what that comes to (see install-systemd-boot.sh).
if [ -e usr/bin/bootctl ]; then
    perl -0777 -pi -e '
        my ($from, $to) = ("/usr/lib/systemd/boot/efi\0", "/run/nixos/systemd-boot\0");
        $to .= "\0" x (length($from) - length($to));
        s/\Q$from\E/$to/g == 1 or die "bootctl does not name $from once\n";
    ' usr/bin/bootctl
fi

if [ -n "$deps" ]; then
    mkdir -p nix-support
    echo "$deps" > nix-support/propagated-build-inputs
fi

# The C library and its loader find each other without help, and must not be rewritten.
case $pname in libc6) exit 0 ;; esac

# Where the dependencies keep shared objects.
libdirs=$(for d in "$out" $deps; do
    [ -d "$d/usr/lib" ] && find "$d/usr/lib" -name '*.so*' -printf '%h\n'
done | sort -u)
loader=
for d in $deps; do
    [ -e "$d/usr/lib64/ld-linux-x86-64.so.2" ] && loader=$(readlink -f "$d/usr/lib64/ld-linux-x86-64.so.2")
done

find . -type f -size +64c -print0 | perl -0ne '
    chomp; my $f = $_;
    open(my $h, "<", $f) or next; binmode $h;
    read($h, my $head, 18) == 18 or next;
    # ET_EXEC or ET_DYN; not an object file or a kernel module
    print "$f\n" if substr($head, 0, 4) eq "\x7fELF" && unpack("v", substr($head, 16, 2)) =~ /^[23]$/;
' | while read -r f; do
    needed=$(patchelf --print-needed "$f" 2>/dev/null) || continue
    [ -n "$needed" ] || continue
    rpath=
    for n in $needed; do
        for d in $libdirs; do
            if [ -e "$d/$n" ]; then
                case ":$rpath:" in *":$d:"*) ;; *) rpath=$rpath:$d ;; esac
                break
            fi
        done
    done
    rpath=${rpath#:}
    if [ -n "$rpath" ]; then
        patchelf --set-rpath "$rpath" "$f"
    fi
    if [ -n "$loader" ] && patchelf --print-interpreter "$f" >/dev/null 2>&1; then
        patchelf --set-interpreter "$loader" "$f"
    fi
done
