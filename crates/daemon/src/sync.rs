//! Locks of this crate are short: they guard a few assignments and are never held across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also a poisoned one.
///
/// A lock is poisoned when a thread has panicked while it held the lock. The values behind it are still complete, so the daemon goes on,
/// and the next pass judges afresh.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
