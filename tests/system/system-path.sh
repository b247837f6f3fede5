# The merged tree of all packages: $out/usr is what / sees as /usr.
#
# in: $paths (store paths), $out
#
# A directory that only one package provides, and that holds no symbolic
# link, is one link; everything else is a real directory of links. Links
# inside packages are copied as they are, since they are written for the
# merged tree.
set -eu
export PATH=/usr/sbin:/usr/bin LC_ALL=C
mkdir -p "$out"
perl - "$out" $paths <<'P'
use strict; use warnings; use File::Find;
my ($out, @paths) = @ARGV;
sub plain { my $d = shift; my ($n, $links) = (0, 0);
    find({ no_chdir => 1, wanted => sub { -l $_ ? $links++ : $n++ } }, $d);
    return $links == 0 && $n > 3; }
sub merge { my ($rel, @from) = @_;
    mkdir "$out/$rel" or die "$out/$rel: $!";
    my %names;
    for my $p (@from) {
        opendir(my $h, "$p/$rel") or die "$p/$rel: $!";
        push @{$names{$_}}, $p for grep { $_ ne "." && $_ ne ".." } readdir $h;
    }
    for my $n (sort keys %names) {
        my @who = @{$names{$n}};
        my @dirs = grep { -d "$_/$rel/$n" && !-l "$_/$rel/$n" } @who;
        if (@dirs == @who) {
            if (@dirs == 1 && plain("$dirs[0]/$rel/$n")) { symlink("$dirs[0]/$rel/$n", "$out/$rel/$n") or die; }
            else { merge("$rel/$n", @dirs); }
            next;
        }
        die "$rel/$n is a directory in one package and a file in another: @who\n" if @dirs;
        my $first = "$who[0]/$rel/$n";
        my $to = -l $first ? readlink $first : $first;
        symlink($to, "$out/$rel/$n") or die "$rel/$n: $!";
    }
}
merge("usr", grep { -d "$_/usr" } @paths);
P
# What Debian's maintainer scripts do with update-alternatives.
alternative() { [ -e "$out/usr/$2" ] && [ ! -e "$out/usr/$1" ] && ln -s "$(readlink -f "$out/usr/$2")" "$out/usr/$1" || true; }
alternative bin/awk bin/mawk
alternative bin/pager bin/less
alternative bin/editor bin/nano
alternative bin/vi bin/vim.tiny
alternative bin/which bin/which.debianutils
for d in bin sbin lib lib64 share; do ln -s "usr/$d" "$out/$d"; done
ln -s "$modules/lib/modules" "$out/usr/lib/modules"
