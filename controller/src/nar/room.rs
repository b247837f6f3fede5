//! What may wait for the line, bounded in bytes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Room for blocks that are being made or wait to be sent.
#[derive(Debug)]
pub(super) struct Room {
    limit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of all that was let in.
    taken: usize,
    /// Bytes of what of that is finished.
    ready: usize,
    closed: bool,
}

/// A place in the room; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    bytes: usize,
    ready: bool,
}

impl Room {
    /// For `limit` bytes.
    pub(super) fn new(limit: usize) -> Arc<Room> {
        Arc::new(Room { limit, state: Mutex::default(), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is in the way of `bytes` more, `limit` in all; something that is larger is let in
    /// alone. `None` once it is closed.
    pub(super) fn take(self: &Arc<Self>, bytes: usize, limit: usize) -> Option<Place> {
        let limit = limit.min(self.limit);
        let mut state = self.lock();
        while state.taken > 0 && state.taken + bytes > limit && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return None;
        }
        state.taken += bytes;
        Some(Place { room: Arc::clone(self), bytes, ready: false })
    }

    /// How much of it finished blocks take, from 0 to 1.
    pub(super) fn filled(&self) -> f64 {
        (self.lock().ready as f64 / self.limit as f64).min(1.0)
    }

    /// Lets nothing in any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl Place {
    /// What it is for is finished.
    pub(super) fn finish(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            self.room.lock().ready += self.bytes;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.room.lock();
        state.taken -= self.bytes;
        state.ready -= if self.ready { self.bytes } else { 0 };
        drop(state);
        self.room.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn what_does_not_fit_waits() {
        let room = Room::new(10);
        let mut first = room.take(8, 10).unwrap();
        assert_eq!(room.filled(), 0.0);
        first.finish();
        assert_eq!(room.filled(), 0.8);
        let waiting = {
            let room = Arc::clone(&room);
            thread::spawn(move || room.take(20, 99).map(|place| place.bytes))
        };
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(first);
        assert_eq!(waiting.join().unwrap(), Some(20));
        assert_eq!(room.filled(), 0.0);
        room.close();
        assert!(room.take(1, 10).is_none());
    }
}
