//! The terminal as a full screen, and as it was before.

use std::io::{self, Write as _};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

/// True while the terminal is changed. A panic may meet the guard in any order, and the second restoring
/// would move the cursor over the message of the panic.
static IS_CHANGED: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// The terminal belongs to the view while this lives. However the view ends, the terminal is as before then.
#[derive(Debug)]
pub(super) struct FullScreen(());

impl FullScreen {
    /// Takes the terminal.
    pub(super) fn enter() -> io::Result<Self> {
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                // First the terminal: the message would be lost with the full screen.
                restore();
                report(panic);
            }));
        });
        enable_raw_mode()?;
        // Made before the next step, so that its failure restores the terminal.
        let full_screen = Self(());
        IS_CHANGED.store(true, Ordering::SeqCst);
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(full_screen)
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if IS_CHANGED.swap(false, Ordering::SeqCst) {
        // Each step is tried: nothing else can be done about a terminal that does not take it.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = io::stdout().flush();
        let _ = disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::tcgetattr;

    use super::*;

    /// Not a test of its own: the program that panics in the one below.
    #[test]
    #[ignore = "run by the test below, on a terminal of its own"]
    fn a_view_that_panics() {
        let _full_screen = FullScreen::enter().expect("is a terminal");
        panic!("this is the message");
    }

    #[test]
    fn a_panic_restores_the_terminal_before_its_message() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let screen = openpt(flags).expect("a terminal");
        grantpt(&screen).expect("is ours");
        unlockpt(&screen).expect("is open");
        let terminal = ioctl_tiocgptpeer(&screen, flags).expect("its other end");
        let modes = || format!("{:?}", tcgetattr(&terminal).expect("is a terminal"));
        let before = modes();
        let end = || Stdio::from(terminal.try_clone().expect("can be shared"));
        let name = "top::terminal::tests::a_view_that_panics";
        let mut program = Command::new("setsid");
        program.arg("--ctty").arg(std::env::current_exe().expect("is known"));
        program.args(["--exact", name, "--ignored", "--nocapture"]);
        let mut child = program.stdin(end()).stdout(end()).stderr(end()).spawn().expect("starts");
        assert!(!child.wait().expect("ends").success());
        // It holds the other end too.
        drop(program);
        assert_eq!(modes(), before);
        // The output of a short program is in the terminal's buffer; its end comes when no one else holds the
        // other end.
        drop(terminal);
        let mut shown = Vec::new();
        let _ = std::fs::File::from(screen).read_to_end(&mut shown);
        let shown = String::from_utf8_lossy(&shown);
        let left = shown.find("\u{1b}[?1049l").expect("the full screen is left");
        let message = shown.find("this is the message").expect("the message is shown");
        assert!(shown.contains("\u{1b}[?1049h") && left < message, "{shown}");
        assert_eq!(shown.matches("\u{1b}[?1049l").count(), 1, "it is left once");
    }
}
