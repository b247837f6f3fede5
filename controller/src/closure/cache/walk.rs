//! The closure of a path, by narinfos asked for in parallel.

use super::CacheError;
use super::place::Place;
use crate::closure::narinfo::{self, NarInfo};
use keystone_protocol::store_path::{STORE_DIR, parts};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Narinfos asked for at once.
const PARALLEL: usize = 24;

/// What the threads share.
struct Walk<'a> {
    place: &'a Place,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Paths to ask for, each with the one that refers to it.
    todo: VecDeque<(String, Option<String>)>,
    seen: HashSet<String>,
    asking: usize,
    found: HashMap<String, NarInfo>,
    failure: Option<CacheError>,
}

/// The narinfos of everything that `toplevel` refers to, itself included.
pub fn closure(place: &Place, toplevel: &str) -> Result<HashMap<String, NarInfo>, CacheError> {
    let mut state = State::default();
    state.seen.insert(toplevel.to_owned());
    state.todo.push_back((toplevel.to_owned(), None));
    let walk = Walk { place, state: Mutex::new(state), changed: Condvar::new() };
    let parallel = if place.is_far() { PARALLEL } else { 2 };
    thread::scope(|scope| {
        for _ in 0..parallel {
            let spawned = thread::Builder::new().spawn_scoped(scope, || walk.work());
            if let Err(error) = spawned {
                walk.lock().failure.get_or_insert(CacheError::Thread(error.to_string()));
                walk.changed.notify_all();
            }
        }
    });
    let state = walk.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.failure {
        Some(error) => Err(error),
        None => Ok(state.found),
    }
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some((path, referrer)) = self.next() {
            let asked = self.ask(&path, referrer);
            let mut state = self.lock();
            state.asking -= 1;
            match asked {
                Ok(narinfo) => {
                    for reference in &narinfo.info.references {
                        if state.seen.insert(reference.clone()) {
                            state.todo.push_back((reference.clone(), Some(path.clone())));
                        }
                    }
                    state.found.insert(path, narinfo);
                }
                Err(error) => {
                    state.failure.get_or_insert(error);
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next path; `None` if there will be none. Waits no longer than others ask, which is
    /// bounded.
    fn next(&self) -> Option<(String, Option<String>)> {
        let mut state = self.lock();
        loop {
            if state.failure.is_some() {
                return None;
            }
            if let Some(next) = state.todo.pop_front() {
                state.asking += 1;
                return Some(next);
            }
            if state.asking == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ask(&self, path: &str, referrer: Option<String>) -> Result<NarInfo, CacheError> {
        let base = path.strip_prefix(STORE_DIR).and_then(|base| base.strip_prefix('/'));
        // Toplevel and references were checked to be store paths.
        let hash = base.and_then(parts).map(|(hash, _)| hash).unwrap_or_default();
        let name = format!("{hash}.narinfo");
        let url = self.place.url(&name);
        let text = self.place.small(&name, narinfo::MAX_LENGTH as u64)?;
        let (cache, path) = (|| self.place.name(), path.to_owned());
        let Some(text) = text else {
            return Err(match referrer {
                Some(referrer) => CacheError::Incomplete { cache: cache(), path, referrer },
                None => CacheError::Lacks { cache: cache(), path },
            });
        };
        let narinfo = NarInfo::parse(&String::from_utf8_lossy(&text));
        let narinfo = match narinfo {
            Ok(narinfo) => narinfo,
            Err(source) => return Err(CacheError::NarInfo { path, url, source }),
        };
        if narinfo.info.path != path {
            return Err(CacheError::OtherPath { path, url, found: narinfo.info.path });
        }
        Ok(narinfo)
    }
}
