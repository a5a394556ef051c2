//! The flow's own threads: they pack or unpack where nobody has to decide anything for each frame, as in a save or a restore.
//!
//! ```text
//! source ──frame──▶ crew: any thread, in any order ──in order──▶ sink
//! ```
//! After a failure the frames before it still go out, and none behind it: the output ends short of the damage.

use super::arena::Slot;
use super::{Direct, FlowError, Shared, guarded, lock, pack};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What is to be done to a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    Pack(Direct),
    Unpack,
}

/// The frames that the crew has; as many as the arena's slots, so it needs no bound of its own.
#[derive(Default)]
pub(super) struct Crew {
    state: Mutex<State>,
    /// There is work, or there never will be any more.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(u64, Slot, Job)>,
    /// Those that are done before those before them.
    done: BTreeMap<u64, Slot>,
    /// Frames that came, and those that went to the sink.
    taken: u64,
    given: u64,
    /// The first frame that failed, and how.
    failed: Option<(u64, FlowError)>,
    /// No frame will come any more.
    ended: bool,
    closed: bool,
}

impl Crew {
    /// Takes the next frame of the stream; one without a job waits only for those before it.
    pub(super) fn take(&self, shared: &Shared, slot: Slot, job: Option<Job>) {
        let mut state = lock(&self.state);
        let number = state.taken;
        state.taken += 1;
        if state.closed || state.is_behind_failure(number) {
            discard(shared, slot);
            return;
        }
        match job {
            Some(job) => {
                state.waiting.push_back((number, slot, job));
                drop(state);
                self.changed.notify_one();
            }
            None => {
                state.done.insert(number, slot);
                self.give(shared, state);
            }
        }
    }

    /// What a thread of the crew does, until the flow is stopped.
    pub(super) fn work(&self, shared: &Shared) {
        while let Some((number, slot, job)) = self.next() {
            let raw_len = slot.header.raw_len;
            let result = guarded(|| match job {
                Job::Pack(direct) => shared.pack_as(slot, direct),
                Job::Unpack => pack::unpack(shared, slot),
            });
            let mut state = lock(&self.state);
            match result {
                Ok(slot) if !state.closed && !state.is_behind_failure(number) => {
                    state.done.insert(number, slot);
                }
                Ok(slot) => discard(shared, slot),
                Err(error) => {
                    // The lane is never empty again: no frame behind it goes to the sink straight.
                    shared.landed(raw_len);
                    if !state.is_behind_failure(number) {
                        state.fail(shared, number, error);
                    }
                }
            }
            self.give(shared, state);
        }
    }

    fn next(&self) -> Option<(u64, Slot, Job)> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            if let Some(next) = state.waiting.pop_front() {
                return Some(next);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the sink what is next, under the lock, which is what keeps the order.
    fn give(&self, shared: &Shared, mut state: MutexGuard<'_, State>) {
        loop {
            let number = state.given;
            let Some(slot) = state.done.remove(&number) else {
                break;
            };
            state.given += 1;
            shared.sink.push(slot);
            shared.left_lane();
        }
        let until = match &state.failed {
            Some((number, _)) => Some(*number),
            None => state.ended.then_some(state.taken),
        };
        if until == Some(state.given) {
            shared.sink.finish();
        }
    }

    /// No frame will come any more: the sink ends with the last of those that came.
    pub(super) fn end(&self, shared: &Shared) {
        let mut state = lock(&self.state);
        state.ended = true;
        self.give(shared, state);
    }

    /// What the first frame failed with that did; taken by the first call.
    pub(super) fn failure(&self) -> Option<FlowError> {
        let mut state = lock(&self.state);
        let (number, error) = state.failed.take()?;
        state.failed = Some((number, FlowError::Stopped));
        Some(error)
    }

    /// Drops what is here, and all that comes; the threads end.
    pub(super) fn close(&self) {
        let (waiting, done) = {
            let mut state = lock(&self.state);
            state.closed = true;
            let state = &mut *state;
            (
                std::mem::take(&mut state.waiting),
                std::mem::take(&mut state.done),
            )
        };
        drop((waiting, done));
        self.changed.notify_all();
    }
}

impl State {
    fn is_behind_failure(&self, number: u64) -> bool {
        self.failed
            .as_ref()
            .is_some_and(|(failed, _)| number > *failed)
    }

    fn fail(&mut self, shared: &Shared, number: u64, error: FlowError) {
        self.failed = Some((number, error));
        let done = self.done.split_off(&number);
        let (before, behind) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(waiting, ..)| *waiting < number);
        self.waiting = before;
        let slots = done
            .into_values()
            .chain(behind.into_iter().map(|(_, slot, _)| slot));
        for slot in slots {
            discard(shared, slot);
        }
    }
}

/// Drops a frame that will not be written.
fn discard(shared: &Shared, slot: Slot) {
    let raw_len = slot.header.raw_len;
    drop(slot);
    shared.left_lane();
    shared.landed(raw_len);
}
