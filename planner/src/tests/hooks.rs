//! Hooks around everything, on the disks that are really meant.

use super::layouts::machine_for;
use super::*;
use crate::plan_disks;
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::plan::{Action, HookPlan, HookValue, Step};

const HOOKS: &str = include_str!("../../../tests/layouts/written/hooks.json");

/// A machine with the layout's disk, `/dev/sda`, and one that the operator can give instead.
fn case() -> Case {
    machine_for(HOOKS, 64 << 30, 512).with(|case| {
        let other = case.disk("other");
        other.identity.name = "/dev/disk/by-id/virtio-other".into();
        other.identity.size = 64 << 30;
    })
}

fn in_mode(case: &Case, mode: DiskoMode) -> Result<Plan, Refusal> {
    let options = InstallOptions { disko_mode: mode, ..case.options.clone() };
    plan_disks(&case.inventory, &case.layout, &options)
}

fn hooks(plan: &Plan) -> Vec<&HookPlan> {
    fn hook(step: &Step) -> Option<&HookPlan> {
        match &step.action {
            Action::Hook(hook) => Some(hook),
            _ => None,
        }
    }
    plan.steps.iter().filter_map(hook).collect()
}

fn variable<'a>(plan: &'a Plan, path: &str, name: &str) -> &'a HookValue {
    let hooks = hooks(plan);
    let hook = hooks.into_iter().find(|hook| hook.path == path);
    &hook.unwrap_or_else(|| panic!("no {path}")).variables[name]
}

#[test]
fn each_mode_has_its_own() {
    for (mode, expected) in [
        (
            DiskoMode::Disko,
            "disk.main.preCreateHook disk.main.content.preCreateHook root.preCreateHook \
             root.postCreateHook disk.main.content.postCreateHook disk.main.postCreateHook \
             root.preMountHook root.postMountHook",
        ),
        (DiskoMode::Destroy, ""),
        (DiskoMode::Unmount, "root.preUnmountHook root.postUnmountHook"),
    ] {
        let plan = in_mode(&case(), mode).unwrap();
        let root = "disk.main.content.partitions.root.content";
        let paths: Vec<String> =
            hooks(&plan).iter().map(|hook| hook.path.replace(root, "root")).collect();
        assert_eq!(paths.join(" "), expected, "{mode}");
    }
}

/// What the layout's word for a disk is in a variable is what the operator gave instead.
#[test]
fn a_variable_names_the_disk_that_was_given() {
    let with = |word: &str| {
        let case = case().with(|case| {
            // A partition of it, and another disk's.
            let set = r#""device": "/dev/sda","#;
            let more = format!("{set} \"imageName\": \"/dev/sda12\",");
            assert!(case.layout.contains(set));
            case.layout = case.layout.replacen(set, &more, 1);
            if !word.is_empty() {
                case.options.disks.insert("main".into(), word.into());
            }
        });
        in_mode(&case, DiskoMode::Disko).unwrap()
    };
    for (word, disk, partition) in [
        ("", "/dev/sda", "/dev/sda12"),
        ("serial:serial-0", "/dev/sda", "/dev/sda12"),
        ("serial:other", "/dev/disk/by-id/virtio-other", "/dev/disk/by-id/virtio-other-part12"),
    ] {
        let plan = with(word);
        let string = |value: &str| HookValue::String(value.to_owned());
        for path in ["disk.main.preCreateHook", "disk.main.content.postCreateHook"] {
            assert_eq!(*variable(&plan, path, "device"), string(disk), "{word}");
        }
        let other = variable(&plan, "disk.main.preCreateHook", "imageName");
        assert_eq!(*other, string(partition), "{word}");
        let label = "/dev/disk/by-partlabel/disk-main-root";
        let root = "disk.main.content.partitions.root.content.preCreateHook";
        assert_eq!(*variable(&plan, root, "device"), string(label));
    }
}

/// A text is not rewritten: what names the layout's disk by itself is refused.
#[test]
fn a_text_that_names_a_disk_that_was_replaced_is_refused() {
    for (text, is_refused) in [
        ("blkdiscard /dev/sda", true),
        ("mkfs.ext4 /dev/sda1", true),
        ("ls /dev/sdab", false),
        ("ls /dev/sd", false),
    ] {
        let named = |given: bool| {
            let from = r#""[ -b \"$device\" ]","#;
            let case = case().layout(from, &format!("{text:?},"));
            let case = case.with(|case| {
                if given {
                    case.options.disks.insert("main".into(), "serial:other".into());
                }
            });
            in_mode(&case, DiskoMode::Disko)
        };
        assert!(named(false).is_ok(), "{text}");
        match named(true) {
            Err(refusal) if is_refused => {
                assert!(refusal.message.contains("names /dev/sda itself"), "{refusal}");
                assert!(refusal.message.contains("virtio-other"), "{refusal}");
            }
            other => assert!(other.is_ok() && !is_refused, "{text}: {other:?}"),
        }
    }
}
