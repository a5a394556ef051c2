//! How the kernel is to schedule a thread.

/// From now on the calling thread, when it is woken, does not push another one aside that runs: it waits for a processor
/// that is idle, or for its turn. It gets its share all the same. Where processors are few, whoever feeds it does more
/// at a time for that, and so does it.
///
/// Where it may not be done (a filter of system calls), all stays as it is.
pub(crate) fn wait_for_turns() {
    // SAFETY: all zeros is a valid sched_param; the call reads it and no more. 0 is the calling thread.
    unsafe {
        let no_priority: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const no_priority);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_waits_for_turns_and_others_do_not() {
        // SAFETY: it takes a number and writes nothing. 0 is the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let before = policy();
        let other = std::thread::spawn(move || {
            wait_for_turns();
            policy()
        });
        assert_eq!(other.join().expect("no panic"), libc::SCHED_BATCH);
        assert_eq!(policy(), before);
    }
}
