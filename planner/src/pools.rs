//! Pools: vdevs, properties, features.

use super::existing::Existing;
use super::refuse::{caused, refuse};
use super::{Context, Remarks, words};
use crate::features::enabled_features;
use keystone_protocol::layout::{Dataset, PoolMode, Zpool};
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{PoolPlan, Vdev};

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
                vdevs: vdevs(context, pool),
                properties: pool.options.clone(),
                root_properties: pool.root_options.clone(),
                features: features.clone(),
                ..PoolPlan::default()
            })
        })
        .collect()
}

fn vdevs(context: &Context<'_>, pool: &Zpool) -> Vec<Vdev> {
    let members = context.layout.members(&pool.name);
    match pool.mode {
        PoolMode::Stripe => members.into_iter().map(|member| Vdev::Disk { member }).collect(),
        PoolMode::Mirror => vec![Vdev::Mirror { members }],
        PoolMode::Raidz(parity) => vec![Vdev::Raidz { parity, members }],
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
    let encrypted =
        pool.datasets.iter().any(|dataset| matches!(dataset, Dataset::Fs(fs) if fs.key.is_some()));
    let datasets = pool.datasets.iter().map(|dataset| match dataset {
        Dataset::Fs(fs) => &fs.options,
        Dataset::Volume(volume) => &volume.options,
    });
    let zstd = datasets
        .chain([&pool.root_options])
        .any(|options| options.get("compression").is_some_and(|value| value.starts_with("zstd")));
    let needs = [(encrypted, "encryption"), (zstd, "zstd_compress")];
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
