//! Locks whose data is valid after each statement.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic in one thread must not become one in another: only for data that no panic leaves half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
