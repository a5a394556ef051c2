//! Locks whose data is valid after each statement.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A panic in one thread must not become one in another: only for data that no panic leaves half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Data that some threads change and others wait for. To wake somebody is a system call even where nobody waits, which is
/// left out.
#[derive(Default)]
pub(crate) struct Awaited<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Default)]
struct State<T> {
    data: T,
    /// Threads that wait.
    waiting: usize,
}

impl<T> Awaited<T> {
    pub(crate) fn new(data: T) -> Self {
        Awaited {
            state: Mutex::new(State { data, waiting: 0 }),
            changed: Condvar::new(),
        }
    }

    /// As [`lock`].
    pub(crate) fn lock(&self) -> Held<'_, T> {
        Held {
            state: lock(&self.state),
            changed: &self.changed,
        }
    }
}

/// The data of an [`Awaited`], locked.
pub(crate) struct Held<'a, T> {
    state: MutexGuard<'a, State<T>>,
    changed: &'a Condvar,
}

impl<T> Held<'_, T> {
    /// Lets go of the data until somebody [wakes](Self::wake) those who wait.
    pub(crate) fn wait(mut self) -> Self {
        self.state.waiting += 1;
        self.state = self
            .changed
            .wait(self.state)
            .unwrap_or_else(PoisonError::into_inner);
        self.state.waiting -= 1;
        self
    }

    /// The same, for so long at the most.
    pub(crate) fn wait_for(mut self, most: Duration) -> Self {
        self.state.waiting += 1;
        self.state = self
            .changed
            .wait_timeout(self.state, most)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        self.state.waiting -= 1;
        self
    }

    /// Lets go of the data and wakes all who wait.
    pub(crate) fn wake(self) {
        let is_awaited = self.state.waiting > 0;
        drop(self.state);
        if is_awaited {
            self.changed.notify_all();
        }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state.data
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state.data
    }
}
