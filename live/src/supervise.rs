//! Background tasks that panic: logged, and the end of the process where the router cannot work without the task.
//!
//! tokio keeps a task's panic for the code that joins the task. Nothing joins these tasks, so a panic would go
//! unnoticed.

use futures_util::FutureExt;
use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

/// The process's exit status after a panic in an essential task: `EX_SOFTWARE` of sysexits.h.
const EXIT_STATUS: i32 = 70;

/// Runs `task`, and logs a panic in it under `name`.
pub(crate) async fn logged(name: &'static str, task: impl Future<Output = ()>) {
    supervise(name, task, || {}).await;
}

/// Runs `task`, and ends the process after a panic in it: a supervisor restarts a process that exits, not one that
/// hangs.
pub(crate) async fn essential(name: &'static str, task: impl Future<Output = ()>) {
    supervise(name, task, || std::process::exit(EXIT_STATUS)).await;
}

/// As [`essential`], for a thread.
pub(crate) fn essential_thread(name: &'static str, run: impl FnOnce()) {
    if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(run)) {
        log(name, &*panic);
        std::process::exit(EXIT_STATUS);
    }
}

async fn supervise(name: &'static str, task: impl Future<Output = ()>, on_panic: impl FnOnce()) {
    // The task is dropped after a panic, so nothing sees the state it left behind but what locks guard.
    if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
        log(name, &*panic);
        on_panic();
    }
}

fn log(name: &str, panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let message = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!(task = name, panic = message, "a task panicked; this is a bug, please report it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::{Arc, Mutex};

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_panic_is_logged_with_its_task_and_message_and_then_acted_on() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        // Without one for all threads, a test on another thread may switch the message off for all.
        let nowhere = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
        let _ = tracing::subscriber::set_global_default(nowhere);
        let _here = tracing::subscriber::set_default(log);
        let ended = Cell::new(false);
        supervise("quiet task", async {}, || ended.set(true)).await;
        assert!(!ended.get() && lines.0.lock().unwrap().is_empty());
        supervise("router timer", async { panic!("slot {}", 7) }, || ended.set(true)).await;
        assert!(ended.get());
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("router timer") && text.contains("slot 7"), "{text}");
    }
}
