//! Pools: vdevs, properties, features.

use super::existing::Existing;
use super::refuse::{caused, refuse};
use super::{Context, Remarks, words};
use crate::features::enabled_features;
use keystone_protocol::layout::{Dataset, PoolMode, TopologyVdev, VdevMode, Zpool};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{DeviceRef, PoolPlan, Vdev};

/// Every pool of the layout that has to be made.
pub(super) fn pools(
    context: &Context<'_>,
    existing: &Existing,
    remarks: &mut Remarks,
) -> Result<Vec<PoolPlan>, Refusal> {
    let made: Vec<&Zpool> =
        context.layout.zpools.iter().filter(|pool| existing.pool(&pool.name).is_none()).collect();
    if made.is_empty() || !context.mode.formats() {
        return Ok(Vec::new());
    }
    let features = features(context, remarks)?;
    made.into_iter()
        .map(|pool| {
            supports(pool, &features)?;
            Ok(PoolPlan {
                name: pool.name.clone(),
                properties: pool.options.clone(),
                root_properties: pool.root.properties(),
                root_key: pool.root.key.as_ref().map(super::storage::dataset_key),
                features: features.clone(),
                ..vdevs(context, pool)
            })
        })
        .collect()
}

/// A plan with the pool's vdevs alone.
fn vdevs(context: &Context<'_>, pool: &Zpool) -> PoolPlan {
    let mut plan = PoolPlan::default();
    let topology = match &pool.mode {
        PoolMode::One(mode) => {
            plan.vdevs = combined(*mode, context.layout.members(&pool.name));
            return plan;
        }
        PoolMode::Topology(topology) => topology,
    };
    // That every word is a member was checked when the layout was read.
    let devices = |words: &[String]| -> Vec<DeviceRef> {
        words.iter().filter_map(|word| context.layout.member(&pool.name, word)).collect()
    };
    let all = |vdevs: &[TopologyVdev]| {
        vdevs.iter().flat_map(|vdev| combined(vdev.mode, devices(&vdev.members))).collect()
    };
    plan.vdevs = all(&topology.vdevs);
    plan.log = all(&topology.log);
    plan.special = all(&topology.special);
    plan.dedup = all(&topology.dedup);
    plan.cache = devices(&topology.cache);
    plan.spare = devices(&topology.spare);
    plan
}

fn combined(mode: VdevMode, members: Vec<DeviceRef>) -> Vec<Vdev> {
    match mode {
        VdevMode::Stripe => members.into_iter().map(|member| Vdev::Disk { member }).collect(),
        VdevMode::Mirror => vec![Vdev::Mirror { members }],
        VdevMode::Raidz(parity) => vec![Vdev::Raidz { parity, members }],
    }
}

fn features(context: &Context<'_>, remarks: &mut Remarks) -> Result<Vec<String>, Refusal> {
    let zfs = &context.inventory.zfs;
    let told = context.closure.and_then(|closure| closure.zfs_version.as_deref());
    let choice = enabled_features(&zfs.features, told)
        .map_err(|error| caused(RefusalKind::Closure, &error))?;
    let here = zfs.module.as_deref().unwrap_or("unknown");
    if choice.guessed {
        remarks.warnings.push(format!(
            "the version of ZFS in the system can't be told: its pools get only the features of \
             OpenZFS {}; `zpool upgrade` enables the others later",
            choice.taken_as
        ));
    }
    let left_out = match choice.left_out.as_slice() {
        [] => "none is left out".to_owned(),
        features => format!("left out: {}", words::list(features)),
    };
    remarks.notes.push(format!(
        "pools get {} features, those known both to the ZFS of this installer ({here}) and to \
         that of the system ({}); {left_out}",
        choice.enabled.len(),
        told.filter(|_| !choice.guessed).unwrap_or(&choice.taken_as),
    ));
    Ok(choice.enabled)
}

/// Whether what the layout asks of the pool is possible with these features.
fn supports(pool: &Zpool, features: &[String]) -> Result<(), Refusal> {
    for name in pool.options.keys() {
        if name.starts_with("feature@") || name == "compatibility" {
            return Err(refuse(
                RefusalKind::Layout,
                format!("{}.options: choosing features by {name} is not supported yet", pool.path),
                "leave it out: the features that the system's ZFS knows are chosen",
            ));
        }
    }
    let datasets = pool.datasets.iter().map(|dataset| match dataset {
        Dataset::Fs(fs) => &fs.options,
        Dataset::Volume(volume) => &volume.options,
    });
    let all: Vec<_> = datasets.chain([&pool.root.options]).collect();
    let any = |name: &str, is_it: fn(&str) -> bool| {
        all.iter().any(|options| options.get(name).is_some_and(|value| is_it(value)))
    };
    let encrypted = any("encryption", |value| value != "off");
    let zstd = any("compression", |value| value.starts_with("zstd"));
    let classes = match &pool.mode {
        PoolMode::Topology(topology) => !topology.special.is_empty() || !topology.dedup.is_empty(),
        PoolMode::One(_) => false,
    };
    let needs =
        [(encrypted, "encryption"), (zstd, "zstd_compress"), (classes, "allocation_classes")];
    for (needed, feature) in needs {
        if needed && !features.iter().any(|known| known == feature) {
            return Err(refuse(
                RefusalKind::TargetUnfit,
                format!(
                    "the pool {:?} needs the feature {feature}, which the ZFS of this \
                         installer does not have",
                    pool.name
                ),
                "boot a newer installer",
            ));
        }
    }
    Ok(())
}
