//! Links OpenZFS's libraries statically and makes bindings from their headers.
//!
//! `KEYSTONE_NATIVE` names the prefix that `cargo lab native` has built: see
//! docs/building.md.

use std::{env, path::PathBuf};

/// What of OpenZFS the agent uses; everything else stays out of the bindings.
const FUNCTIONS: &[&str] = &[
    "libzfs_(init|fini|errno|error_action|error_description|print_on_error)",
    "lzc_(create|load_key|unload_key|sync)",
    "nvlist_(alloc|free|dup|unpack|remove_all|exists|next_nvpair)",
    "nvlist_add_(string|uint64|boolean_value|nvlist|nvlist_array)",
    "nvlist_lookup_(string|uint64|nvlist|nvlist_array)",
    "nvpair_(name|value_nvlist)",
    "zfs_(open|close|create|destroy|dataset_exists|valid_proplist|name_to_prop|prop_get|get_type)",
    "zfs_(get_all_props|prop_set_list_flags|snapshot)",
    "zpool_(create|destroy|export|open_canfail|close|iter|get_config|get_name|get_prop|get_prop_int)",
    "zpool_(search_import|import_props|clear_label|feature_init)",
    "zvol_volsize_to_reservation",
    "get_system_hostid",
];
const TYPES: &[&str] = &["zfs_error_t", "mmp_state", "pool_state_t", "data_type_t", "zfs_type_t"];
const VARIABLES: &[&str] = &[
    "libzfs_config_ops",
    "ZFS_IMPORT_.*",
    "ZFS_SET_NOMOUNT",
    "NV_UNIQUE_NAME",
    "spa_feature_table",
];

fn main() {
    println!("cargo:rerun-if-env-changed=KEYSTONE_NATIVE");
    let Some(prefix) = env::var_os("KEYSTONE_NATIVE").map(PathBuf::from) else {
        panic!(
            "KEYSTONE_NATIVE is not set: the static libraries of libcryptsetup and libzfs are needed.\n\
             Run `cargo lab native`, then `. target/lab/native/env.sh`; see docs/building.md."
        );
    };
    let lib = prefix.join("lib");
    for made in ["libzfs.a", "libcryptsetup.a", "libdevmapper.a"] {
        println!("cargo:rerun-if-changed={}", lib.join(made).display());
    }
    println!("cargo:rustc-link-search=native={}", lib.display());
    // Users before what they use: a static link resolves from left to right.
    for ours in ["zfs", "zfs_core", "uutil", "nvpair", "udev"] {
        println!("cargo:rustc-link-lib=static:-bundle={ours}");
    }
    // Of the distribution; with +crt-static the linker takes their archives.
    for theirs in ["tirpc", "blkid", "uuid", "z", "crypto", "m"] {
        println!("cargo:rustc-link-lib={theirs}");
    }

    let mut bindings = bindgen::Builder::default()
        .header_contents(
            "openzfs.h",
            "#include <stdio.h>\n#include <libzfs.h>\n#include <libzfs_core.h>\n#include <libzutil.h>\n#include <sys/systeminfo.h>\n#include <zfeature_common.h>\n",
        )
        .clang_arg(format!("-I{}", prefix.join("include/libzfs").display()))
        .clang_arg(format!("-I{}", prefix.join("include/libspl").display()))
        .clang_args(["-D_GNU_SOURCE", "-D_LARGEFILE64_SOURCE"])
        .rust_edition(bindgen::RustEdition::Edition2024)
        .prepend_enum_name(false)
        .wrap_unsafe_ops(true)
        .layout_tests(false)
        .generate_comments(false)
        .merge_extern_blocks(true)
        .opaque_type("avl_tree|avl_node|zfs_cmd");
    for function in FUNCTIONS {
        bindings = bindings.allowlist_function(function);
    }
    for r#type in TYPES {
        bindings = bindings.allowlist_type(r#type);
    }
    for variable in VARIABLES {
        bindings = bindings.allowlist_var(variable);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("openzfs.rs");
    bindings
        .generate()
        .expect("make bindings from OpenZFS's headers")
        .write_to_file(&out)
        .expect("write the bindings");
}
