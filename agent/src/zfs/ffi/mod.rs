//! Everything unsafe about ZFS: OpenZFS's C libraries behind owning types.
//!
//! Nothing outside this directory sees a pointer. libzfs keeps state in its
//! handle and in globals (property tables), so handles are not `Send` and are
//! made and dropped under one lock.

mod core;
mod dataset;
mod library;
mod nvlist;
mod pool;
mod sys;

pub(super) use core::{create, load_key, sync, unload_key};
pub(super) use dataset::Dataset;
pub(super) use library::{Kind, Library, known_features, system_hostid};
pub(super) use nvlist::NvList;
pub(super) use pool::Pool;
pub(super) use sys::{
    MMP_STATE_INACTIVE, POOL_STATE_ACTIVE, POOL_STATE_DESTROYED, POOL_STATE_EXPORTED,
    POOL_STATE_L2CACHE, POOL_STATE_SPARE,
};
