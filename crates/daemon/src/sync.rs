//! Locks of this crate are short: they guard a few assignments and are never held across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also a poisoned one.
///
/// A poisoned lock means that a thread panicked while it held it. What it guards is still whole values, and the daemon
/// goes on: the next pass judges afresh.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
