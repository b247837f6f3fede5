#!/usr/bin/env python3
"""Makes the documents beside this file from those in ../keystone; see README.md."""

import copy
import json
import pathlib

HERE = pathlib.Path(__file__).parent
MIRROR = json.loads((HERE / "../keystone/os-zfs-mirror.json").read_text())
EXT4 = json.loads((HERE / "../keystone/os-ext4-single.json").read_text())
SINGLE = json.loads((HERE / "../keystone/os-zfs-single.json").read_text())


def renamed(value, old, new):
    """`value` with `old` replaced in every string and attribute name."""
    return json.loads(json.dumps(value).replace(old, new))


def layout(mode, count, swap):
    document = copy.deepcopy(MIRROR)
    first, last = document["disk"]["disk0"], document["disk"]["disk1"]
    zfs = first["content"]["partitions"]["zfs"]  # end = "-0"
    disks = {"disk0": first}
    for index in range(1, count):
        # virtio-a, virtio-b, virtio-c, …
        disk = renamed(last, "disk1", f"disk{index}")
        disk = renamed(disk, "virtio-b", f"virtio-{chr(ord('a') + index)}")
        if index < count - 1 or not swap:
            disk["content"]["partitions"] = {"zfs": renamed(zfs, "disk0", f"disk{index}")}
        disks[f"disk{index}"] = disk
    document["disk"] = disks
    document["zpool"]["rpool"]["mode"] = mode
    return document


def write(name, document):
    (HERE / f"{name}.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def without(swap, document, disk, last):
    """`document` without its partition `swap`, whose room `last` gets."""
    document = copy.deepcopy(document)
    partitions = document["disk"][disk]["content"]["partitions"]
    del partitions[swap]
    partitions[last]["end"] = "-0"
    return document


write("os-zfs-single-no-swap", without("encryptedSwap", SINGLE, "disk0", "zfs"))
write("os-ext4-single-no-swap", without("swap", EXT4, "root", "root"))
for name, mode, count in [
    ("stripe", "", 2),
    ("mirror", "mirror", 2),
    ("raidz1", "raidz1", 3),
    ("raidz2", "raidz2", 4),
    ("raidz3", "raidz3", 5),
]:
    for swap in (True, False):
        if name == "mirror" and swap:
            continue  # it is ../keystone/os-zfs-mirror.json itself
        write(f"os-zfs-{name}{'' if swap else '-no-swap'}", layout(mode, count, swap))
