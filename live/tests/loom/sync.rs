//! loom's types under the names that `self_wake` uses.

use loom::sync::Mutex;
use std::task::Waker;

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize};

loom::thread_local! {
    static HERE: Box<u8> = Box::new(0);
}

/// A number that no other running thread has, never 0.
pub(crate) fn thread_number() -> usize {
    HERE.with(|here| std::ptr::from_ref(&**here) as usize)
}

/// A slot for a waker, as futures' `AtomicWaker`.
#[derive(Default)]
pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

impl AtomicWaker {
    pub(crate) fn register(&self, waker: &Waker) {
        *self.0.lock().unwrap() = Some(waker.clone());
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }

    pub(crate) fn take(&self) -> Option<Waker> {
        self.0.lock().unwrap().take()
    }
}
