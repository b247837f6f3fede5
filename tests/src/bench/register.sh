# Registers the store below /bench/source with real Nix. Runs where the peers run.
cd /bench/source
cat references.1 references.2 | while read -r path references; do
    hash=$(nix-store --dump "nix/store/$path" | tee >(wc -c > /tmp/size) | sha256sum | cut -c1-64)
    while [ ! -s /tmp/size ]; do sleep 0.01; done
    size=$(cat /tmp/size); : > /tmp/size
    printf '%s\n%s\n%s\n\n' "/nix/store/$path" "$hash" "$size"
    set -- $(printf '%s\n' $references | sort -u)
    printf '%s\n' $#
    for reference; do printf '%s\n' "/nix/store/$reference"; done
done > /tmp/dump
nix-store --store 'local?root=/bench/source' --load-db < /tmp/dump
for generation in 1 2; do
    nix-store --store 'local?root=/bench/source' -qR "$(cat list.$generation.top)" | sort > list.$generation
done
