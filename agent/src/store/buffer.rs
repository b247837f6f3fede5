//! Buffers that are used again.
//!
//! Memory that is fresh from the kernel is zeroed page by page when it is first touched, which
//! costs more than what is done with the data afterwards.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes kept for later use: about what is on its way at the most, so that none is asked of the kernel
/// anew while a closure streams.
const KEPT: usize = 24 << 20;

/// Where buffers come from and go to.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// A buffer of that length. What is in it is not defined.
    pub fn take(&self, length: usize) -> Buffer {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest one that is large enough.
        let fits = free.iter().enumerate().filter(|(_, b)| b.capacity() >= length);
        let at = fits.min_by_key(|(_, b)| b.capacity()).map(|(at, _)| at);
        let mut bytes = at.map_or_else(Vec::new, |at| free.swap_remove(at));
        drop(free);
        bytes.resize(length, 0);
        Buffer { bytes, begin: 0, pool: Some(self.clone()) }
    }

    fn give(&self, bytes: Vec<u8>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.iter().map(Vec::capacity).sum::<usize>() + bytes.capacity() <= KEPT {
            free.push(bytes);
        }
    }
}

/// Bytes that go back to their pool when they are dropped.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    begin: usize,
    pool: Option<Pool>,
}

impl Buffer {
    /// Without what comes before `begin`.
    pub fn after(mut self, begin: usize) -> Buffer {
        self.begin = (self.begin + begin).min(self.bytes.len());
        self
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Buffer { bytes, begin: 0, pool: None }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let pool = Pool::default();
        let mut first = pool.take(1000);
        first[3] = 7;
        let at = first.as_ptr();
        drop(first.after(10));
        let again = pool.take(500);
        assert_eq!((again.as_ptr(), again.len()), (at, 500));
        drop(pool.take(KEPT + 1));
        assert!(pool.0.lock().unwrap().iter().all(|b| b.capacity() <= KEPT));
    }
}
