//! The reason for which a test fails, kept so that it can stand below the logs of its processes.
//!
//! A panic prints its message first, and hundreds of lines of logs follow it. Readers of a shortened log see
//! its end.

use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::sync::Once;

thread_local! {
    static REASON: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the message of each later panic for the thread that panics. Further calls change nothing.
pub(crate) fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            REASON.set(told(panic));
            print(panic);
        }));
    });
}

/// The message of this thread's last panic and the line of it; empty before the first.
pub(crate) fn last() -> String {
    REASON.with_borrow(String::clone)
}

fn told(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("a panic without words");
    format!("{place}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_panic_of_a_thread_is_kept_for_that_thread() {
        keep();
        let failing = || {
            _ = std::panic::catch_unwind(|| panic!("seven is no number of mine"));
            last()
        };
        let kept = std::thread::spawn(failing).join().expect("it was caught");
        assert!(kept.contains("reason.rs") && kept.ends_with("seven is no number of mine"), "{kept}");
        assert_eq!(last(), "", "another thread has had no panic");
    }
}
